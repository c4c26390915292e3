"""What one step of stage II sees: sources through the camera, references, and where each style comes from."""

from dataclasses import dataclass

import torch
from torch import Tensor

from phaseveil.data.datasets import FaceBatch, FaceDataset
from phaseveil.data.heatmaps import draw_heatmaps
from phaseveil.data.transforms import draw_recolouring, random_colour, random_mirror
from phaseveil.models.face import FaceNetworks
from phaseveil.models.heatmap import HeatmapNet
from phaseveil.optics.camera import Camera
from phaseveil.run_state import seeded
from phaseveil.training.face_config import FaceTraining
from phaseveil.training.parallel import mixed_precision


@dataclass(frozen=True)
class FaceStep:
    """One batch: the first half reconstructs itself, the next quarter takes references' styles, the last latent ones.

    Attributes:
        source: Clear sources; only losses see them. Shape ``(B, 3, H, W)``, 0 to 1.
        acquisition: What the camera made of them. Shape ``(B, 3, H, W)``.
        heatmap: Read from the acquisition, as inference will. Shape ``(B, K, H/2, W/2)``.
        landmarks: Likewise, normalised. Shape ``(B, 68, 2)``.
        reference: The discriminator's real faces; the sources themselves in the first half. Shape ``(B, 3, H, W)``.
        reference_heatmap: Read from the references' acquisitions. Shape ``(B, K, H/2, W/2)``.
        domain: Of the reference, which is the wanted one. Shape ``(B,)``.
        source_domain: Shape ``(B,)``.
        recolouring: Changes of colour that faces and references are looked at through. Shape ``(B, 3, 4)``.
        scatter: Of the squares in which a detector looks at the faces, standard normal. Shape ``(B, 3)``.
        latent, other_latent: Standard normal. Shape ``(B/4, latent_dim)``.
    """

    source: Tensor
    acquisition: Tensor
    heatmap: Tensor
    landmarks: Tensor
    reference: Tensor
    reference_heatmap: Tensor
    domain: Tensor
    source_domain: Tensor
    recolouring: Tensor
    scatter: Tensor
    latent: Tensor
    other_latent: Tensor

    def part(self, share: slice) -> "FaceStep":
        """The same places of each quarter, so that a part falls into halves and quarters as the whole does."""
        kept = {}
        for name, value in vars(self).items():
            of_a_quarter = name in ("latent", "other_latent")
            kept[name] = value[share] if of_a_quarter else value.unflatten(0, (4, -1))[:, share].flatten(0, 1)
        for name in ("source", "acquisition", "reference"):
            kept[name] = kept[name].contiguous(memory_format=torch.channels_last)
        return FaceStep(**kept)

    @property
    def halves(self) -> tuple[slice, slice]:
        """Places that reconstruct and places that translate."""
        half = len(self.source) // 2
        return slice(0, half), slice(half, None)

    @property
    def is_latent(self) -> Tensor:
        """Which styles are latent. Shape ``(B,)``."""
        places = torch.arange(len(self.source), device=self.source.device)
        return places >= len(self.source) - len(self.latent)

    def styles(self, networks: FaceNetworks) -> Tensor:
        """Style codes of the whole batch. Shape ``(B, style_dim)``.

        Latent ones take no gradient from here: the mapping network learns from the style prior alone, since any loss on
        faces is lowest where all latents give the one safest face.
        """
        split = len(self.source) - len(self.latent)
        read = networks.style_encoder(self.reference[:split], self.domain[:split])
        return torch.cat([read, networks.mapping(self.latent, self.domain[split:]).detach()])

    def other_styles(self, networks: FaceNetworks) -> Tensor:
        """Second styles of the translating half, for the diversity loss: other references' and other latents."""
        _, translate = self.halves
        quarter = len(self.latent)
        references, domains = self.reference[translate][quarter:], self.domain[translate]
        read = networks.style_encoder(references, domains[quarter:])
        return torch.cat([read, networks.mapping(self.other_latent, domains[quarter:])])

    @property
    def target_heatmap(self) -> Tensor:
        """Sharp heatmap drawn at the landmarks that were read from the acquisition. Shape ``(B, K, H/2, W/2)``."""
        return draw_heatmaps(self.landmarks, self.heatmap.shape[-1])


def draw_step(
    faces: FaceDataset, camera: Camera, heatmap_net: HeatmapNet, config: FaceTraining, step: int, device: str
) -> FaceStep:
    """The batch of a step: a function of seed and step alone."""
    generator = seeded(config.seed, step, 0)
    size, quarter = config.batch_size, config.batch_size // 4
    source = _mirrored(faces.draw(size, generator), generator)
    # The two quarters want the same domains: either's references may then give the other a second style.
    domains = torch.randint(2, (quarter,), generator=generator).repeat(2)
    reference = _mirrored(faces.draw_of(domains, generator), generator)
    coloured = random_colour(reference.image, config.jitter, generator)
    latents = torch.randn(2, quarter, config.networks.latent_dim, generator=generator).to(device)

    clear = torch.cat([source.image, coloured]).to(device)
    noise = seeded(config.seed, step, 1, device)
    recolouring = draw_recolouring(size, config.recoloured, seeded(config.seed, step, 6)).to(device)
    with torch.no_grad(), mixed_precision(clear.device.type):
        acquired = camera(clear, noise).contiguous(memory_format=torch.channels_last)
        output = heatmap_net(acquired)
        heatmap, landmarks = output.heatmap, output.landmarks
    half = size // 2
    return FaceStep(
        source=clear[:size].contiguous(memory_format=torch.channels_last),
        acquisition=acquired[:size],
        heatmap=heatmap[:size],
        landmarks=landmarks[:size],
        reference=torch.cat([clear[:half], clear[size:]]).contiguous(memory_format=torch.channels_last),
        reference_heatmap=torch.cat([heatmap[:half], heatmap[size:]]),
        domain=torch.cat([source.domain[:half], domains]).to(device),
        source_domain=source.domain.to(device),
        recolouring=recolouring,
        scatter=torch.randn(size, 3, generator=seeded(config.seed, step, 7)).to(device),
        latent=latents[0],
        other_latent=latents[1],
    )


def _mirrored(batch: FaceBatch, generator: torch.Generator) -> FaceBatch:
    image, landmarks = random_mirror(batch.image, batch.landmarks, generator)
    return FaceBatch(image, landmarks, batch.domain)
