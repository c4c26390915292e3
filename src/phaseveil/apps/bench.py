"""How fast this machine is: everything in one process, each case against others in the same rounds."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from phaseveil.apps import bench_networks, bench_optics
from phaseveil.apps.attack_results import write_text
from phaseveil.apps.bench_race import Section
from phaseveil.apps.export import Say
from phaseveil.errors import ConfigError

PARTS = ("camera", "psf", "networks", "networks-256", "training", "scaling")


def bench(parts: Sequence[str], rounds: int, say: Say) -> Iterator[tuple[str, Section]]:
    """Measure, part by part.

    Args:
        parts: Of :data:`PARTS`; all where empty.
        rounds: Of quick cases; slow ones have fewer, at least 3.
        say: Told what is being measured.

    Yields:
        The part and what was measured, as soon as it is.

    Raises:
        ConfigError: No such part.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise ConfigError(f"nothing to measure is called {unknown[0]!r}; use {', '.join(PARTS)}")
    for part in [part for part in PARTS if part in parts or not parts]:
        say(f"measuring {part}")
        for found in _sections(part, rounds, say):
            yield part, found


def _sections(part: str, rounds: int, say: Say) -> Iterator[Section]:
    few = max(3, rounds // 3)
    if part == "camera":
        yield from bench_optics.camera_sections(rounds)
    elif part == "psf":
        yield from bench_optics.psf_sections(rounds)
    elif part == "networks":
        yield from bench_networks.network_sections((128,), rounds, say)
    elif part == "networks-256":
        yield from bench_networks.network_sections((256,), few, say)
    elif part == "training":
        yield from bench_networks.training_sections(few)
    else:
        yield bench_optics.size_section(rounds)
        yield bench_optics.term_section(rounds)
        yield from bench_networks.scaling_sections(few)


def write_record(path: Path, machine: str, found: Sequence[tuple[str, Section]]) -> None:
    """Write what was measured as JSON: ``machine``, and ``sections`` with ``part``, ``title``, ``rows``.

    Raises:
        InputError: The place is not writable, or the disk is full.
    """
    sections: list[dict[str, Any]] = [{"part": part, **section.as_dict()} for part, section in found]
    text = json.dumps({"machine": machine, "sections": sections}, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")
