"""The parameter of a deconvolution, chosen by the attacker on its own photographs."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from phaseveil.attacks.deconvolution import AT_A_TIME, Method, with_psf
from phaseveil.errors import ConfigError

Score = Callable[[Tensor], float]


@dataclass(frozen=True)
class Tuned:
    """Outcome of :func:`tune`.

    Attributes:
        parameter: The best value.
        score: What it scored.
        tried: Score of every value, in rising order.
    """

    parameter: float
    score: float
    tried: dict[float, float]


def tune(method: Method, acquisitions: Tensor, psf: Tensor, score: Score, batch_size: int = AT_A_TIME) -> Tuned:
    """The parameter with which a method restores the attacker's own acquisitions best.

    A coarse grid of rising values, continued in its own ratio while the best lies at an end, then the geometric means
    of the best and both its neighbours. Deterministic; the first of equal values wins.

    Args:
        method: One of :data:`phaseveil.attacks.deconvolution.METHODS`.
        acquisitions: The attacker's own. Shape ``(N, 3, S, S)``, sRGB, 0 to 1.
        psf: What the attacker takes for the PSF. Shape ``(3, K, K)``, or ``(N, 3, K, K)``, one an acquisition.
        score: Of the restored images ``(N, 3, S, S)``; larger is better.
        batch_size: Images restored at a time.

    Raises:
        ConfigError: The score of some parameter is not a finite number.
    """
    tried: dict[float, float] = {}

    def attempt(value: float) -> None:
        if value not in tried:
            restored = [method.restore(*batch, value) for batch in with_psf(acquisitions, psf, batch_size)]
            tried[value] = float(score(torch.cat(restored)))
            if not math.isfinite(tried[value]):
                raise ConfigError(f"tuning: the score at {method.parameter} {value:g} is not finite; mend the score")

    for value in method.candidates:
        attempt(value)
    while (further := _beyond(method, tried)) is not None:
        attempt(further)
    values, best = sorted(tried), _best(tried)
    place = values.index(best)
    for neighbour in values[max(0, place - 1) : place] + values[place + 1 : place + 2]:
        attempt(_rounded(method, math.sqrt(best * neighbour)))
    best = _best(tried)
    return Tuned(best, tried[best], dict(sorted(tried.items())))


def _best(tried: dict[float, float]) -> float:
    return max(tried, key=lambda value: tried[value])


def _beyond(method: Method, tried: dict[float, float]) -> float | None:
    """The next value beyond the end of the grid that the best lies at; ``None`` where it lies inside or at a limit."""
    values, best = sorted(tried), _best(tried)
    if best == values[0]:
        further = max(best * values[0] / values[1], method.limits[0])
    elif best == values[-1]:
        further = min(best * values[-1] / values[-2], method.limits[1])
    else:
        return None
    return further if (further := _rounded(method, further)) not in tried else None


def _rounded(method: Method, value: float) -> float:
    """Counts are whole; other values keep three digits."""
    return float(round(value)) if method.parameter == "iterations" else float(f"{value:.3g}")
