"""What an exported file says about itself, and whether it belongs to the networks at hand."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from phaseveil import __version__
from phaseveil.data.heatmaps import GROUPS
from phaseveil.errors import CheckpointError
from phaseveil.models.pair import Pair

HEATMAP_FILE, GENERATOR_FILE, PAIR_FILE = "heatmap.onnx", "generator.onnx", "pair.onnx"
GRAPH = 1
"""Raised when the same weights give another graph or other names, so that files kept from before are not used."""


def digest_of(pair: Pair) -> str:
    """Name of the weights: SHA-256 over names, shapes and float32 values of all tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(pair.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def describe(pair: Pair, style_dim: int, precision: str) -> dict[str, str]:
    """Metadata of an exported file: all that is needed to use it without PhaseVeil.

    Args:
        pair: The networks.
        style_dim: Length of a style code.
        precision: Of weights and arithmetic, see :data:`phaseveil.engines.precision.PRECISIONS`.
    """
    return {
        "phaseveil_version": __version__,
        "phaseveil_graph": str(GRAPH),
        "weights_sha256": digest_of(pair),
        "precision": precision,
        "size": str(pair.heatmap_net.config.size),
        "style_dim": str(style_dim),
        "layout": "N, C, H, W; float32; the batch N is open",
        "colour_order": "RGB",
        "colour_space": "sRGB",
        "range": "0 to 1: acquisition, face, heatmap; landmarks inside the frame",
        "style_code": "unit root mean square per code",
        "heatmap": f"{', '.join(GROUPS)}; half of the size",
        "landmarks": "68 points (x, y) of dlib's scheme, share of the frame, pixel centres at (i + 0.5) / size",
    }


def check_fits(path: Path, metadata: Mapping[str, str], pair: Pair) -> None:
    """Refuse a file that was exported from other networks.

    Raises:
        CheckpointError: The metadata are not PhaseVeil's, or of other weights or another size.
    """
    if "weights_sha256" not in metadata:
        raise CheckpointError(f"{path}: was not written by 'phaseveil export onnx'; give a folder that it wrote")
    wanted = {
        "phaseveil_graph": str(GRAPH),
        "weights_sha256": digest_of(pair),
        "size": str(pair.heatmap_net.config.size),
    }
    for key, value in wanted.items():
        if metadata.get(key) != value:
            raise CheckpointError(
                f"{path}: exported from other weights or by another release ({key} is {metadata.get(key, 'absent')}, "
                f"need {value}); export again"
            )
