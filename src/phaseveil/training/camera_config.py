"""Configuration of stage I."""

from dataclasses import dataclass, field

from phaseveil.data.transforms import JitterConfig
from phaseveil.errors import ConfigError
from phaseveil.models.heatmap import HeatmapConfig
from phaseveil.training.adversaries import AdversaryConfig
from phaseveil.training.conditions import ConditionsConfig


@dataclass
class CameraLossWeights:
    """Weights of stage I's losses.

    Attributes:
        heatmap: Smooth L1 to the teacher's heatmaps (published: 2).
        landmark: Landmark error, inter-ocular distances.
        privacy: 1 - MSE of acquisition and source (published: 1).
        detail: MTF suppression.
        information: What passes above the noise, bits of a Fourier mode; the part of privacy that deconvolution is
            measured by.
        airy: PSF against the clear lens's (published: 10; pulls against privacy, see ``docs/experiments.md``).
        slope: Phase steps near the sampling limit; strong enough to stop before ``keep_samplable`` must shrink
            the whole mask.
        range: Relief beyond ``CameraTraining.height_range``.
        smoothness: Mean square Laplacian of the relief.
        sameness: Correlation of the PSFs of two members of a family of masks; fixed masks have none.
        inversion: Reversed loss of the adversary that restores the scene; 0 leaves it out.
        identity: Reversed loss of the adversary that recognises the face; 0 leaves it out.
    """

    heatmap: float = 2.0
    landmark: float = 1.0
    privacy: float = 1.0
    detail: float = 1.0
    information: float = 0.0
    airy: float = 0.0
    slope: float = 1000.0
    range: float = 1.0
    smoothness: float = 0.0
    sameness: float = 0.0
    inversion: float = 0.0
    identity: float = 0.0


@dataclass
class CameraTraining:
    """Configuration of ``phaseveil train camera``.

    Attributes:
        data: Folder that ``phaseveil prepare`` wrote.
        eyes_within: Train on faces whose eyes lie so near to where most have them, eye distances: landmarks farther off
            are more likely the detector's mistake. 0 takes all.
        out: Run folder: ``state.safetensors``, ``camera.safetensors``, ``heatmap.safetensors``, pictures, logs.
        camera: Camera to start from, a name or file.
        heatmap: Heatmap network to start from, a file, also of another size; fresh where empty.
        network: Heatmap network's size and width.
        mask_share: Share of the steps in which the mask learns; then the network settles on the finished mask. 0 keeps
            the camera as it is (clear lens, baselines).
        ceiling: Highest landmark error allowed in training, inter-ocular distances.
        mask_start: Standard deviation of the first coefficients, metres, where the mask is flat.
        mask_start_defocus: Defocus (Noll 4) that a flat mask starts with, metres RMS; from less than about 3 µm the
            search ends in a local optimum that blurs little, see ``docs/experiments.md``.
        mask_rate: Adam step of the coefficients, metres.
        family_size: Numbers that select a mask of a family, drawn afresh for each exposure; 0 learns a fixed mask.
        family_spread: RMS height of each of the family's first directions, metres.
        height_range: Difference of heights of the mask that costs nothing, metres.
        conditions: Circumstances drawn for every batch.
        adversary: Of the adversaries, where their weights are above 0.
        ema: Decay of the mean of the network's weights, see :class:`phaseveil.training.ema.ModelEMA`.
        ema_ramp: Whether that decay grows over the first steps; false for long runs that go on behind the same camera.
    """

    data: str = "data/prepared"
    eyes_within: float = 0.0
    out: str = "runs/camera"
    camera: str = "portrait"
    heatmap: str = ""
    network: HeatmapConfig = field(default_factory=HeatmapConfig)
    weights: CameraLossWeights = field(default_factory=CameraLossWeights)
    jitter: JitterConfig = field(default_factory=JitterConfig)
    steps: int = 4000
    batch_size: int = 32
    learning_rate: float = 1e-3
    warm_up: int = 100
    weight_decay: float = 1e-4
    mask_share: float = 0.6
    mask_start: float = 2e-8
    mask_start_defocus: float = 3.5e-6
    mask_rate: float = 3e-9
    family_size: int = 0
    family_spread: float = 2e-7
    height_range: float = 50e-6
    conditions: ConditionsConfig = field(default_factory=ConditionsConfig)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    ceiling: float = 0.055
    multiplier_rate: float = 0.05
    ema: float = 0.998
    ema_ramp: bool = True
    seed: int = 0
    log_every: int = 50
    save_every: int = 500
    val_faces: int = 512
    wandb_project: str = ""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.log_every, self.save_every) < 1:
            raise ConfigError("stage I: steps, batch_size, log_every and save_every must be at least 1")
        if not 0 <= self.mask_share <= 1 or not 0 < self.ceiling < 1:
            raise ConfigError("stage I: mask_share must lie in [0, 1], ceiling in (0, 1) inter-ocular distances")
        if self.eyes_within < 0:
            raise ConfigError("stage I: eyes_within must be at least 0 eye distances; 0 takes all faces")
