"""Memory of the style codes that stage II's encoder read from real faces."""

import torch
from torch import Tensor, nn

from phaseveil.data.datasets import DOMAINS


class StyleBank(nn.Module):
    """The last style codes that the encoder read from real faces, per domain: what latent styles should look like."""

    def __init__(self, style_dim: int, capacity: int = 1024) -> None:
        super().__init__()
        self.codes: Tensor
        self.seen: Tensor
        self.register_buffer("codes", torch.zeros(len(DOMAINS), capacity, style_dim))
        self.register_buffer("seen", torch.zeros(len(DOMAINS), dtype=torch.int64))

    def add(self, codes: Tensor, domains: Tensor) -> None:
        """Remember codes ``(B, S)`` of domains ``(B,)``, over the oldest ones."""
        for code, domain in zip(codes.detach(), domains.tolist(), strict=True):
            self.codes[domain, int(self.seen[domain]) % self.codes.shape[1]] = code
            self.seen[domain] += 1

    def draw(self, domain: int, count: int, generator: torch.Generator) -> Tensor | None:
        """``count`` codes of a domain, ``None`` until it has as many."""
        filled = min(int(self.seen[domain]), self.codes.shape[1])
        if filled < count:
            return None
        return self.codes[domain, torch.randperm(filled, generator=generator)[:count].to(self.codes.device)]
