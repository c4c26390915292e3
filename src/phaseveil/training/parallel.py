"""Training on several processes, as ``accelerate launch`` starts them (https://huggingface.co/docs/accelerate).

Every process draws the whole batch that seed and step determine and takes its share; gradients, batch statistics and
figures are averaged over all shares. So a step is the same step on any number of processes, as far as a loss is a mean
over faces, and a run may go on with another number. Gradients are averaged after the backward pass and not by
``DistributedDataParallel``, which wants one call of one module for each backward pass; stage II calls its networks in
parts, several times. Without ``accelerate launch`` there is one process and nothing here does anything.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from phaseveil import precision
from phaseveil.engines.packages import need
from phaseveil.errors import ConfigError

PRECISION = "ACCELERATE_MIXED_PRECISION"
ACCUMULATION = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"


class Processes:
    """The processes of a run, seen from one of them.

    Args:
        rank: Number of this process; 0 is the one that writes.
        count: How many there are.
        accumulation: Parts that a process's share of a batch is done in, one after another.
        device: Where this process computes.
    """

    def __init__(self, rank: int = 0, count: int = 1, accumulation: int = 1, device: str = "cpu") -> None:
        self.rank, self.count, self.accumulation, self.device = rank, count, accumulation, device

    @property
    def is_main(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def shares(self, size: int) -> list[slice]:
        """The places of a batch (or of a quarter of it) that this process does, a slice for each accumulated part.

        Raises:
            ConfigError: The batch cannot be shared out evenly.
        """
        parts = self.count * self.accumulation
        if size % parts:
            raise ConfigError(
                f"{size} faces cannot be shared out to {self.count} processes × {self.accumulation} accumulated parts; "
                "choose batch_size (stage II: a quarter of it) as a multiple"
            )
        step, first = size // parts, self.rank * self.accumulation
        return [slice((first + part) * step, (first + part + 1) * step) for part in range(self.accumulation)]

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients over all processes, in place."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.count == 1 or not gradients:
            return
        for dtype in {gradient.dtype for gradient in gradients}:
            own = [gradient for gradient in gradients if gradient.dtype == dtype]
            flat = torch.cat([gradient.flatten() for gradient in own])
            distributed.all_reduce(flat)
            parts = (flat / self.count).split([gradient.numel() for gradient in own])
            for gradient, part in zip(own, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def mean(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Average figures over all processes, which must have the same."""
        if self.count == 1:
            return dict(figures)
        values = torch.tensor(list(figures.values()), dtype=torch.float64)
        distributed.all_reduce(values := values.to(_wire(self.device)))
        return dict(zip(figures, (values / self.count).tolist(), strict=True))

    def whole(self, share: Tensor, groups: int) -> Tensor:
        """Put the shares of all processes together, in the batch's order; gradients find their way back.

        Args:
            share: This process's faces: its places of the first group, of the second, and so on. Shape ``(B, ...)``.
            groups: Into how many the batch falls, of which every process has the same places.

        Returns:
            Shape ``(count * B, ...)``.
        """
        if self.count == 1:
            return share
        own = (share.float() if share.is_floating_point() else share).unflatten(0, (groups, -1))
        placed = [own if rank == self.rank else torch.zeros_like(own) for rank in range(self.count)]
        return sum_over_processes(torch.stack(placed, dim=1)).flatten(0, 2)

    def main_says(self, answer: bool) -> bool:
        """What the main process answers, for all: clocks differ."""
        if self.count == 1:
            return answer
        flag = torch.tensor(float(answer and self.is_main), device=_wire(self.device))
        distributed.all_reduce(flag)
        return bool(flag)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the main process through the block before the others, which then find what it has written."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()

    def wait(self) -> None:
        """Wait for all processes."""
        if self.count > 1:
            distributed.barrier()

    def close(self) -> None:
        """Leave the group."""
        if self.count > 1:
            distributed.destroy_process_group()


def join(device: str) -> Processes:
    """The processes that ``accelerate launch`` (or ``torchrun``) started; this one alone where neither did.

    Args:
        device: Where a single process computes; several have theirs from Accelerate.

    Raises:
        ConfigError: Accelerate is not installed, or asked for a precision that the stages do not train in.
    """
    if not {PRECISION, "WORLD_SIZE"} & os.environ.keys():
        return Processes(device=device)
    asked = os.environ.get(PRECISION, "bf16")
    if asked not in ("no", "bf16"):
        raise ConfigError(f"--mixed_precision {asked}: use bf16 or no")
    need("accelerate", extra="train")
    from accelerate import PartialState  # type: ignore[import-untyped]
    from accelerate.utils import parse_flag_from_env  # type: ignore[import-untyped]

    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    accumulation = int(os.environ.get(ACCUMULATION, "1"))
    place = device if state.num_processes == 1 else str(state.device)
    return Processes(state.process_index, state.num_processes, accumulation, place)


def is_main() -> bool:
    """Whether this process speaks; known before the processes have joined."""
    return os.environ.get("RANK", "0") == "0"


def mixed_precision(device: str) -> torch.autocast:
    """What ``accelerate launch --mixed_precision`` asks for; if nothing, what the device computes in."""
    asked = os.environ.get(PRECISION)
    if asked is None:
        return precision.mixed_precision(device)
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=asked != "no")


class _Sum(torch.autograd.Function):
    """Sum over processes; the gradient of what all of them computed from it is summed likewise."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.contiguous().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum of a tensor that every process has, same shape; differentiable."""
    return _Sum.apply(tensor)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the statistics of all processes' shares, on any device.

    ``nn.SyncBatchNorm`` does the same on GPUs only. Its own state is a :class:`torch.nn.BatchNorm2d`'s.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``(B, C, H, W)`` → ``(B, C, H, W)``."""
        if not self.training:
            return super().forward(input)
        features = input.float()
        count = features.numel() // features.shape[1] * distributed.get_world_size()
        mean = sum_over_processes(features.sum(dim=(0, 2, 3))) / count
        centred = features - mean[None, :, None, None]
        variance = sum_over_processes(centred.square().sum(dim=(0, 2, 3))) / count
        self._remember(mean.detach(), variance.detach() * count / max(1, count - 1))
        normal = centred * (variance + self.eps).rsqrt()[None, :, None, None]
        shaped = normal * self.weight[None, :, None, None] + self.bias[None, :, None, None]
        return shaped.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked += 1


def share_batch_statistics(network: nn.Module, processes: Processes) -> None:
    """Let the batch normalisation of a network see all processes' shares; parameters and names stay as they are."""
    if processes.count == 1:
        return
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                shared = SharedBatchNorm2d(child.num_features, child.eps, child.momentum)
                shared.weight, shared.bias = child.weight, child.bias
                for buffer, value in child.named_buffers():
                    setattr(shared, buffer, value)
                setattr(module, name, shared.train(child.training))


class SilentLog:
    """Stands in for :class:`~phaseveil.training.logging.RunLog` in all processes but the main one."""

    def say(self, line: str) -> None:
        """Say nothing."""

    def step(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Say nothing."""

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Nothing was opened."""


def _wire(device: str) -> str:
    """Where small messages lie: NCCL carries none from the processor's memory."""
    return device if device.startswith("cuda") else "cpu"
