"""The trade-off between landmark error and identity: this camera against baselines at equal landmark error."""

import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from phaseveil.errors import InputError

SCHEMA = "phaseveil-privacy-card-1"
FAMILIES = ("low-resolution", "gaussian", "defocus")
COMPARED = ("budget", "seed", "pairs", "recogniser")
"""What must be equal for two points to be compared."""

Point = dict[str, Any]
Card = dict[str, Any]

_FIELDS = ("camera", "family", "strength", "landmark_error", "auc", "tar", "strongest", "attacks", *COMPARED)


def front_point(card: Mapping[str, Any]) -> Point:
    """What a privacy card contributes to trade-off plots and to ``configs/attack/baselines.json``.

    Args:
        card: As ``privacy_card.json`` holds it.

    Returns:
        ``camera`` name; ``family`` and ``strength``; ``landmark_error`` with its interval or ``None``; ``auc`` and
        ``tar`` of the strongest attack with intervals; its name as ``strongest``; ``attacks``, the AUC of each by key;
        and ``budget``, ``seed``, ``pairs`` (digest) and ``recogniser``, which must agree where points are compared.

    Raises:
        InputError: Not a privacy card of this version.
    """
    if card.get("schema") != SCHEMA:
        raise InputError(f"not a privacy card ({SCHEMA}); give privacy_card.json of 'phaseveil attack'")
    try:
        strongest, settings = card["headline"]["strongest"], card["settings"]
        return {
            "camera": card["camera"]["name"],
            "family": card["camera"]["family"],
            "strength": card["camera"]["strength"],
            "landmark_error": card["camera"]["landmark_error"],
            "auc": strongest["auc"],
            "tar": strongest["tar"],
            "strongest": strongest["key"],
            "attacks": {attack["key"]: attack["another"]["auc"]["value"] for attack in card["attacks"]},
            "budget": settings["budget"]["name"],
            "seed": settings["seed"],
            "pairs": settings["pairs"]["digest"],
            "recogniser": settings["recogniser"]["name"],
        }
    except (KeyError, TypeError) as error:
        raise InputError(f"damaged privacy card ({error} is missing); run 'phaseveil attack' again") from error


def read_points(cards: Sequence[Path]) -> list[Point]:
    """Points of other cards.

    Raises:
        InputError: A file is missing or not a privacy card.
    """
    points = []
    for path in cards:
        try:
            points.append(front_point(_read(path, dict)))
        except InputError as error:
            message = str(error)
            raise InputError(message if message.startswith(str(path)) else f"{path}: {message}") from error
    return points


def bundled_points(path: Path | None = None) -> list[Point]:
    """Points of the baselines that were measured for the release; perhaps none.

    Args:
        path: JSON list of what :func:`front_point` gives; the packaged one where ``None``.

    Raises:
        InputError: Not such a list.
    """
    path = path or Path(str(resources.files("phaseveil"))) / "configs" / "attack" / "baselines.json"
    points: list[Point] = _read(path, list)
    for point in points:
        missing = ", ".join(name for name in _FIELDS if name not in point)
        if missing or point["family"] not in FAMILIES:
            raise InputError(f"{path}: a point lacks {missing or 'a family of ' + ', '.join(FAMILIES)}")
    return points


def trade_off(own: Point, others: Sequence[Point]) -> dict[str, Any]:
    """The part ``front`` of a card: all points, and each family's AUC at this camera's landmark error.

    Args:
        own: This camera's point.
        others: Of the other cards and the bundled baselines.

    Returns:
        ``points`` with ``differs``, what keeps a point from being compared (empty where nothing does), and
        ``equal_error``: for each family ``auc`` and ``tar`` with bounds, or ``None`` with ``reason``, ``between``, the
        two cameras used, and ``leaks_more``, by how much the family's AUC is above this camera's.
    """
    points = [{**point, "differs": [name for name in COMPARED if point[name] != own[name]]} for point in others]
    return {
        "landmark_error": own["landmark_error"],
        "points": points,
        "equal_error": {family: _at_equal_error(own, points, family) for family in FAMILIES},
    }


def enclosing(points: Sequence[Point], error: float) -> tuple[Point, Point] | None:
    """The two points whose landmark errors enclose one, the nearest of each side; ``None`` outside all of them.

    Args:
        points: All with a landmark error.
        error: In distances of the eye centres.
    """
    below = [point for point in points if point["landmark_error"]["value"] <= error]
    above = [point for point in points if point["landmark_error"]["value"] >= error]
    if not below or not above:
        return None
    return max(below, key=lambda p: p["landmark_error"]["value"]), min(
        above, key=lambda p: p["landmark_error"]["value"]
    )


def interpolate(first: Point, second: Point, error: float, figure: str) -> dict[str, float]:
    """A figure with its bounds at a landmark error between two points, linear.

    Args:
        first: The point of smaller landmark error.
        second: That of larger landmark error, or the same point.
        error: In distances of the eye centres.
        figure: ``auc`` or ``tar``.
    """
    low, high = first["landmark_error"]["value"], second["landmark_error"]["value"]
    share = (error - low) / (high - low) if high > low else 0.0
    ends = first[figure], second[figure]
    return {name: ends[0][name] + share * (ends[1][name] - ends[0][name]) for name in ("value", "low", "high")}


def difference(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """First minus second with an interval from both intervals [Zou & Donner 2008, Stat. Med. 27, 1693].

    They are taken as independent; where both cameras photograph the same persons, the interval is too wide rather than
    too narrow.
    """
    value = first["value"] - second["value"]
    down = math.hypot(first["value"] - first["low"], second["high"] - second["value"])
    up = math.hypot(first["high"] - first["value"], second["value"] - second["low"])
    return {"value": value, "low": value - down, "high": value + up}


def _at_equal_error(own: Point, points: Sequence[Point], family: str) -> dict[str, Any]:
    members = [point for point in points if point["family"] == family]
    usable = [point for point in members if not point["differs"] and point["landmark_error"]]
    reason = _why_not(own, members, usable, family)
    if reason is not None:
        return {"auc": None, "tar": None, "leaks_more": None, "between": [], "reason": reason}
    error = own["landmark_error"]["value"]
    ends = enclosing(usable, error)
    assert ends is not None
    figures = {figure: interpolate(*ends, error, figure) for figure in ("auc", "tar")}
    return {
        **figures,
        "leaks_more": difference(figures["auc"], own["auc"]),
        "between": [point["camera"] for point in ends],
        "reason": None,
    }


def _why_not(own: Point, members: Sequence[Point], usable: Sequence[Point], family: str) -> str | None:
    """Why a family cannot be compared at equal landmark error; ``None`` where it can."""
    if own["landmark_error"] is None:
        return "the landmark error of this camera was not measured; give --weights"
    if not members:
        return f"no card of a {family} camera; run 'phaseveil attack' on some strengths and give --against"
    if not usable:
        differs = sorted({name for point in members for name in point["differs"]}) or ["landmark error unknown"]
        return f"measured otherwise ({', '.join(differs)}); run 'phaseveil attack' alike and give --against"
    if enclosing(usable, own["landmark_error"]["value"]) is None:
        errors = sorted(point["landmark_error"]["value"] for point in usable)
        return f"its landmark errors, {errors[0]:.1%} to {errors[-1]:.1%}, do not enclose this camera's"
    return None


def _read(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); give a privacy_card.json") from error
    if not isinstance(content, kind):
        raise InputError(f"{path}: not a JSON {'object' if kind is dict else 'list'}")
    return content
