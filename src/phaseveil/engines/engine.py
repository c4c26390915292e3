"""What runs the networks: the protocol, and PyTorch as its first implementation."""

from typing import Protocol

import torch
from torch import Tensor

from phaseveil.models.pair import Pair, Redrawn


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
        pair: The networks, in evaluation mode, on ``device``; channels-last weights are the fastest.
        device: Where to run.
        dtype: Precision of the arithmetic, ``torch.bfloat16`` (by autocast) or ``torch.float32``.
    """

    def __init__(self, pair: Pair, device: torch.device, dtype: torch.dtype) -> None:
        self._pair, self._device, self._dtype = pair, device, dtype

    @torch.inference_mode()
    def redraw(self, acquisitions: Tensor, styles: Tensor) -> Redrawn:
        """See :class:`Engine`."""
        frames = acquisitions.to(self._device, memory_format=torch.channels_last)
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            found = self._pair(frames, styles.to(self._device))
        return Redrawn(*(tensor.float().cpu().contiguous() for tensor in found))
