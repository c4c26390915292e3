"""What runs the networks: the protocol, and PyTorch as its first implementation."""

from typing import Protocol

import torch
from torch import Tensor

from phaseveil.models.folding import folded
from phaseveil.models.pair import Pair, Redrawn

PART_PIXELS = 8 * 128**2
"""Pixels of the frames that go through the networks together on a CPU. With more, arrays grow beyond 32 MB, which C
libraries give back to the system at once and fetch again, page by page."""


class Engine(Protocol):
    """Runs heatmap network and generator on a batch."""

    def redraw(self, acquisitions: Tensor, styles: Tensor) -> Redrawn:
        """Draw new faces.

        Args:
            acquisitions: sRGB, 0 to 1. Shape ``(B, 3, S, S)``, float32, on any device.
            styles: Style codes of unit RMS. Shape ``(B, style_dim)``, float32, on any device.

        Returns:
            All float32, contiguous and on the CPU.
        """
        ...


class TorchEngine:
    """PyTorch; satisfies :class:`Engine`.

    Args:
        pair: The networks, in evaluation mode, on ``device``. A folded copy of them is kept: later changes to them are
            not seen.
        device: Where to run.
        dtype: Precision of the arithmetic, ``torch.bfloat16`` (by autocast) or ``torch.float32``.
    """

    def __init__(self, pair: Pair, device: torch.device, dtype: torch.dtype) -> None:
        self._pair, self._device, self._dtype = folded(pair, dtype), device, dtype

    @torch.inference_mode()
    def redraw(self, acquisitions: Tensor, styles: Tensor) -> Redrawn:
        """See :class:`Engine`."""
        together = max(1, PART_PIXELS // acquisitions[0, 0].numel()) if self._device.type == "cpu" else len(styles)
        parts = zip(acquisitions.split(together), styles.split(together), strict=True)
        drawn = [self._redraw(frames, codes) for frames, codes in parts]
        return Redrawn(*(torch.cat(tensors) for tensors in zip(*drawn, strict=True))) if len(drawn) > 1 else drawn[0]

    def _redraw(self, acquisitions: Tensor, styles: Tensor) -> Redrawn:
        frames = acquisitions.to(self._device, memory_format=torch.channels_last)
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            found = self._pair(frames, styles.to(self._device))
        return Redrawn(*(tensor.float().cpu().contiguous() for tensor in found))
