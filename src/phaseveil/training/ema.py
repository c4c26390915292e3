"""Exponential moving average of weights, the networks that are shipped."""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class ModelEMA(Generic[Network]):
    """Running mean of a module's parameters; buffers (batch-norm statistics) are averaged likewise.

    Args:
        module: The module that is trained.
        decay: Share kept per step.
        ramp: Whether the decay grows as (1 + n)/(10 + n) up to ``decay``, so that the first steps do not linger. Such a
            mean reaches back over about the last ninth of the steps: right where the weights have far to go, too short
            for a run of some thousand steps that goes on from weights worth keeping.
    """

    def __init__(self, module: Network, decay: float = 0.999, ramp: bool = True) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay
        self.ramp = ramp

    @torch.no_grad()
    def update(self, module: Network, step: int) -> None:
        """Move towards ``module`` after optimisation step number ``step`` (from 0)."""
        share = 1 - (min(self.decay, (1 + step) / (10 + step)) if self.ramp else self.decay)
        own, new = self.module.state_dict(), module.state_dict()
        floating = [name for name in own if own[name].is_floating_point()]
        torch._foreach_lerp_([own[name] for name in floating], [new[name] for name in floating], share)
        for name in own.keys() - set(floating):
            own[name].copy_(new[name])
