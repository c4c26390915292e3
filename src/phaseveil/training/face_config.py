"""Configuration of stage II."""

from dataclasses import dataclass, field

from phaseveil.data.transforms import JitterConfig
from phaseveil.errors import ConfigError
from phaseveil.models.face import FaceConfig


@dataclass
class FaceLossWeights:
    """Weights of stage II's losses.

    Attributes:
        adversarial: Non-saturating (published: 1).
        r1: Gradient penalty of the discriminator (published: 1).
        reconstruction: L1 of the self-reconstruction, pixels from -1 to 1.
        perceptual: LPIPS of the self-reconstruction.
        reference: LPIPS between new face and reference.
        style: Style reconstruction (published: 1).
        diversity: Of two styles (published: 1, falling to 0).
        uniformity: Spread of the encoder's codes; without it they collapse into one per domain.
        cycle: Acquisition of the cycled face against the source's, pixels from -1 to 1 (published: 7).
        heatmap: Heatmap of the new face against the acquisition's landmarks.
        landmark: Landmarks of the new face against the acquisition's, inter-ocular distances.
        expression: Shape of brows, eyes and mouth.
        style_prior: Latent styles against the codes of real faces.
        detector: What MTCNN finds in the new face against what it finds in the source; 0 needs no detector.
        identity: Shortfall of the distance between new face and source in dlib's embedding; 0 needs no recogniser.
        mirror: L1 between a new face and the mirrored scene's, mirrored back, pixels from -1 to 1; 0 draws no second
            face.
    """

    adversarial: float = 1.0
    r1: float = 1.0
    reconstruction: float = 3.0
    perceptual: float = 6.0
    reference: float = 2.0
    style: float = 0.5
    diversity: float = 0.1
    uniformity: float = 0.5
    cycle: float = 7.0
    heatmap: float = 5.0
    landmark: float = 5.0
    expression: float = 2.0
    style_prior: float = 5.0
    detector: float = 0.0
    identity: float = 2.0
    mirror: float = 4.0


@dataclass
class FaceTraining:
    """Configuration of ``phaseveil train face``.

    Attributes:
        data: Folder that ``phaseveil prepare`` wrote.
        out: Run folder: ``state.safetensors``, ``face.safetensors``, ``discriminator.safetensors``, pictures, logs.
        camera: Camera, a name or file; stays as it is.
        heatmap: Heatmap network trained behind that camera, a file; the bundled one where empty.
        judge: Heatmap network for clear faces, a file, that reads the geometry of generated faces; where empty they are
            acquired by the camera and read by ``heatmap``.
        judge_camera: Camera that the judge was trained behind, a name or file; where empty it looks at the pixels. A
            mild blur keeps it from being pleased by patterns of a few pixels.
        perceptual: LPIPS weights (AlexNet or VGG16), a file.
        start: Face networks to start from, a file; fresh where empty.
        discriminator: Discriminator to start from, a file; fresh where empty. Beside good networks a fresh one of
            pixels has learned next to nothing after a hundred steps.
        judged_by: What the discriminator looks at: ``pixels``, or ``features``, the activations of ``perceptual``,
            which knows natural images from the start. R1 is of pixels only.
        recoloured: Share of the faces that the perceptual network, and with it a discriminator of features, sees with
            other colours, each with its reference in the same [Zhao et al. 2020, arXiv 2006.10738], so that a stain
            that pleases in one colour alone pleases less.
        networks: Sizes of the face networks.
        jitter: Colour changes of the references; small, since the style takes up whatever varies.
        discriminator_width: Discriminator's channels at half resolution, or of its heads.
        batch_size: Faces per step, even: half reconstruct, half translate.
        mapping_rate: Share of the learning rate that the mapping network gets (published: 0.01).
        discriminator_rate: Multiple of the learning rate that the discriminator gets.
        reconstruction_floor: What the reconstruction weight falls to, share.
        hold: Share of the steps before it begins to fall.
        identity_margin: Distance in dlib's embedding that new face and source are pushed to; strangers: about 0.8.
        identity_camera: Camera that dlib's recogniser sees both through, a name or file; where empty it looks at the
            pixels. A blur keeps the generator from pleasing it by fine lines.
        r1_every, cycle_every, identity_every: Steps between these costly terms; R1 is weighted up in turn.
        ema: Decay of the mean of the networks' weights, see :class:`phaseveil.training.ema.ModelEMA`.
        ema_ramp: Whether that decay grows over the first steps; false for long runs that go on from good weights.
    """

    data: str = "data/prepared"
    out: str = "runs/face"
    camera: str = "learned"
    heatmap: str = ""
    judge: str = ""
    judge_camera: str = ""
    perceptual: str = ""
    start: str = ""
    discriminator: str = ""
    judged_by: str = "pixels"
    recoloured: float = 0.0
    networks: FaceConfig = field(default_factory=FaceConfig)
    weights: FaceLossWeights = field(default_factory=FaceLossWeights)
    jitter: JitterConfig = field(default_factory=lambda: JitterConfig(brightness=0.03, contrast=0.03))
    discriminator_width: int = 48
    steps: int = 6000
    batch_size: int = 16
    learning_rate: float = 3e-4
    mapping_rate: float = 1.0
    discriminator_rate: float = 1.0
    warm_up: int = 50
    weight_decay: float = 1e-4
    reconstruction_floor: float = 0.5
    hold: float = 0.3
    identity_margin: float = 0.8
    identity_camera: str = ""
    r1_every: int = 16
    cycle_every: int = 8
    identity_every: int = 4
    ema: float = 0.999
    ema_ramp: bool = True
    seed: int = 0
    log_every: int = 50
    save_every: int = 250
    wandb_project: str = ""

    def __post_init__(self) -> None:
        if self.batch_size < 4 or self.batch_size % 4:
            raise ConfigError(
                f"stage II: batch_size must be a multiple of 4 (8 or more is stable), got {self.batch_size}"
            )
        if min(self.steps, self.log_every, self.save_every, self.r1_every, self.cycle_every, self.identity_every) < 1:
            raise ConfigError(
                "stage II: steps, log_every, save_every and the steps between costly terms must be at least 1"
            )
        if self.judge_camera and not self.judge:
            raise ConfigError("stage II: judge_camera needs the judge that was trained behind it: set judge=FILE")
        if self.judged_by not in ("pixels", "features"):
            raise ConfigError(f"stage II: judged_by must be pixels or features, got {self.judged_by!r}")
        if not 0 <= self.recoloured <= 1:
            raise ConfigError(f"stage II: recoloured is a share from 0 to 1, got {self.recoloured:g}")
        if not self.identity_margin > 0:
            raise ConfigError(
                f"stage II: identity_margin is a distance above 0 (strangers: 0.8), got {self.identity_margin:g}"
            )
        if not 0 <= self.reconstruction_floor <= 1 or not 0 <= self.hold < 1:
            raise ConfigError("stage II: reconstruction_floor must lie in [0, 1], hold in [0, 1)")
