"""What a seed draws: the latent and the domain of a new face, and the seeds of several faces of one input."""

import torch
from torch import Tensor

from phaseveil.errors import ConfigError

SEEDS = 2**32  # PyTorch's CPU generator reads 32 bits


def require_seed(seed: int) -> None:
    """Refuse a seed that is none.

    Raises:
        ConfigError: It does not lie between 0 and ``SEEDS - 1``.
    """
    if not 0 <= seed < SEEDS:
        raise ConfigError(f"the seed must lie between 0 and {SEEDS - 1}, got {seed}")


def face_seed(first: int, number: int) -> int:
    """Seed of one of several faces of an input, whose latent is the opposite of a neighbour's.

    Args:
        first: Seed of the input, and of its first face.
        number: Of the face, from 0. Each has a seed of its own; faces 0 and 1, 2 and 3 … are even numbers and the odd
            ones after them, or the other way round, which :func:`draw_latent` sets apart.
    """
    return first ^ number


def draw_latent(seed: int, size: int) -> Tensor:
    """Normally distributed latent of a seed. Shape ``(size,)``, float32.

    An odd seed has the opposite of the even one before it (antithetic variates: Hammersley and Morton 1956, *A New
    Monte Carlo Technique*), since two independent latents may happen to look alike, and people try neighbouring seeds.
    """
    latent = torch.randn(size, generator=torch.Generator().manual_seed(seed & ~1))
    return -latent if seed & 1 else latent


def draw_domain(seed: int, size: int, domains: int) -> int:
    """Domain of a seed, 0 to ``domains - 1``: what its own generator draws after a latent of ``size`` numbers."""
    generator = torch.Generator().manual_seed(seed)
    torch.randn(size, generator=generator)
    return int(torch.randint(domains, (), generator=generator))
