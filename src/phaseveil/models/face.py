"""The networks that draw faces, as one module: what stage II trains and what is shipped."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from torch import nn

from phaseveil import checkpoint
from phaseveil.config import from_mapping, to_mapping
from phaseveil.data.heatmaps import GROUPS
from phaseveil.errors import ConfigError
from phaseveil.models.generator import Generator
from phaseveil.models.style import MappingNetwork, StyleEncoder

NUM_DOMAINS = 2


@dataclass
class FaceConfig:
    """Sizes of the face networks.

    Attributes:
        size: Side of the faces, pixels; a power of two from 32 on.
        width: Generator's channels at half resolution.
        bottleneck: Generator's styled blocks at an eighth of the resolution.
        style_width: Style encoder's channels at half resolution.
        style_dim: Length of a style code.
        latent_dim: Length of a latent.
    """

    size: int = 128
    width: int = 64
    bottleneck: int = 3
    style_width: int = 32
    style_dim: int = 64
    latent_dim: int = 16

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 4096 or self.size.bit_count() != 1:
            raise ConfigError(f"face networks: size must be a power of two from 32 to 4096, got {self.size}")
        sides = (self.width, self.style_width, self.style_dim, self.latent_dim)
        if not all(1 <= side <= 4096 for side in sides) or self.width % 2 or not 1 <= self.bottleneck <= 64:
            raise ConfigError("face networks: widths and dimensions must lie in 1 to 4096, width even, bottleneck ≤ 64")


class FaceNetworks(nn.Module):
    """Generator, mapping network and style encoder.

    Attributes:
        generator: Acquisition, heatmap, style code → face.
        mapping: Latent, domain → style code.
        style_encoder: Reference face, domain → style code.
    """

    def __init__(self, config: FaceConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = Generator(config.width, config.style_dim, len(GROUPS), config.bottleneck)
        self.mapping = MappingNetwork(config.latent_dim, config.style_dim, NUM_DOMAINS)
        self.style_encoder = StyleEncoder(config.size, config.style_width, config.style_dim, NUM_DOMAINS)


def save_face_networks(path: str | Path, networks: FaceNetworks, metadata: dict[str, Any] | None = None) -> Path:
    """Write the networks in fp16.

    Raises:
        CheckpointError: The file cannot be written.
    """
    return checkpoint.save(path, "face", to_mapping(networks.config), checkpoint.half(networks.state_dict()), metadata)


def load_face_networks(path: str | Path | None = None) -> FaceNetworks:
    """Read face networks; the bundled ones where ``path`` is ``None``. In evaluation mode.

    Raises:
        CheckpointError: Missing, damaged, of another kind or shape.
    """
    path = path or Path(str(resources.files("phaseveil"))) / "weights" / "face.safetensors"
    stored = checkpoint.load(path, kind="face")
    config = from_mapping(FaceConfig, stored.config)
    return checkpoint.load_module(lambda: FaceNetworks(config), stored.tensors, path).eval()
