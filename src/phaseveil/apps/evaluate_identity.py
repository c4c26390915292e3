"""Who can still be recognised: each artefact against clear photographs, on the sources and on a list of pairs."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from phaseveil.apps.evaluate_inputs import Options, list_domains, number_of, read_crop
from phaseveil.apps.evaluate_measure import ARTEFACTS, Acquired, reference_styles
from phaseveil.apps.evaluate_summary import Figures
from phaseveil.data.datasets import DOMAINS
from phaseveil.errors import InputError
from phaseveil.metrics.identity import (
    Floats,
    Integers,
    Pairs,
    Recogniser,
    Thresholds,
    rank_one,
    similarity,
    thresholds_on,
    verify,
)
from phaseveil.metrics.photographs import Linkage, PairSet, cached, link_another, link_itself, load_pairs, states
from phaseveil.pipeline import PhaseVeil
from phaseveil.progress import Report

FROM_PAIRS = 1000  # clean impostor pairs that a threshold at FMR 1e-3 needs
MOST_IMPOSTORS = 250_000
TOO_FEW = "a threshold at FMR 1e-3 needs 1,000 impostor pairs: at least 46 sources; give more"
TOO_FEW_PAIRS = "a threshold at FMR 1e-3 needs 1,000 impostor pairs; give a longer list"
NO_CEILING = "each source is one photograph, so there is no clean genuine pair; give --pairs"
NO_FINE_THRESHOLD = "a threshold at FMR 1e-4 needs 10,000 clean impostor pairs; give more"
ITSELF = "a clear photograph equals itself"


class Stage(Protocol):
    """Shows the progress of a named part of the work, as :func:`phaseveil.progress.progress` does."""

    def __call__(self, description: str) -> AbstractContextManager[Report]: ...


@dataclass(frozen=True)
class Known:
    """What identity is scored with.

    Attributes:
        recogniser: Of faces.
        key: Changes when the recogniser does.
    """

    recogniser: Recogniser
    key: str


def among_sources(embeddings: Floats, recogniser: str, seed: int) -> tuple[Figures, dict[str, str]]:
    """Each artefact against the clear sources, every file being one identity: the very same photograph, the worst case.

    Args:
        embeddings: In the order of :data:`ARTEFACTS`. Shape ``(N, 5, D)``.
        recogniser: Its name.
        seed: Of the impostor pairs where there are more than :data:`MOST_IMPOSTORS`.

    Returns:
        Figures, and reasons for those that are missing, by column.
    """
    clear, count = embeddings[:, 0], len(embeddings)
    impostor = np.concatenate([similarity(clear[i], clear[i + 1 :]) for i in range(count - 1)])
    thresholds = thresholds_on(impostor) if len(impostor) >= FROM_PAIRS else None
    missing = {"identity.sources.rows.clear": NO_CEILING} | _missing_thresholds("sources", thresholds, TOO_FEW)
    people = np.arange(count)
    shifts = np.random.default_rng(seed).permutation(count - 1)[: max(1, MOST_IMPOSTORS // count)] + 1
    others = np.concatenate([(people + shift) % count for shift in shifts])
    first, second = np.tile(people, len(shifts) + 1), np.concatenate([people, others])
    rows: Figures = {"clear": None}
    for number, name in list(enumerate(ARTEFACTS))[1:]:
        probes = embeddings[:, number]
        pairs = Pairs(similarity(probes[first], clear[second]), first == second, np.stack([first, second], axis=1))
        found = verify(pairs, thresholds) if thresholds is not None else None
        rows[name] = {"verification": found, "rank_one": rank_one(probes, clear, people, people)}
    table = _table(recogniser, thresholds, len(impostor)) | {"gallery": count, "chance": 1 / count, "rows": rows}
    return table, missing


def on_pairs(pipeline: PhaseVeil, known: Known, options: Options, key: str, stage: Stage) -> tuple[Figures, dict]:
    """Each artefact of the genuine pairs' first photographs against clear photographs, another one and the very same.

    A photograph of the list has no domain; its new faces take one by its seed.

    Args:
        pipeline: Camera and networks.
        known: What to score with.
        options: With a list of pairs.
        key: Changes when the pipeline or the references do.
        stage: Shows progress.

    Returns:
        Figures, and reasons for those that are missing, by column.

    Raises:
        InputError: The list or a photograph cannot be used.
    """
    assert options.pairs is not None
    folder = options.work / "cache" / f"pairs-{number_of(str(options.pairs.resolve())):08x}"
    with stage("pairs: landmarks") as report:
        photographs = load_pairs(options.pairs, folder, report)
    probes = np.unique(photographs.pairs[photographs.same, 0])
    chosen = np.flatnonzero(np.isin(photographs.pairs[:, 0], probes))
    if photographs.same[chosen].all():
        raise InputError(f"{options.pairs}: no impostor pair begins with a genuine pair's first photograph; add some")
    with stage("pairs: clear embeddings") as report:
        clear = _clear_embeddings(photographs, known, folder / f"clear-{known.key}.npz", report)
    with stage("pairs: new faces") as report:
        shown = _Probes(pipeline, known.recogniser, options, photographs, probes)
        names = states([photographs.files[place] for place in probes])
        seen = cached(options.work / f"pairs-{key}.npz", names, shown.embed, report)
    impostor = photographs.score(clear, clear, np.arange(len(photographs.pairs))).impostor
    thresholds = thresholds_on(impostor) if len(impostor) >= FROM_PAIRS else None
    missing = {"identity.pairs.itself.clear": ITSELF} | _missing_thresholds("pairs", thresholds, TOO_FEW_PAIRS)
    table = _table(known.recogniser.name, thresholds, len(impostor)) | {"probes": len(probes)}
    if thresholds is None:
        return table | {"another": None, "itself": None}, missing
    another: Figures = {"clear": _linkage(link_another(photographs, clear, clear, chosen, thresholds))}
    itself: Figures = {"clear": None}
    for number, name in enumerate(ARTEFACTS[1:]):
        rows = np.full_like(clear, np.nan)
        rows[probes] = seen[:, number]
        another[name] = _linkage(link_another(photographs, rows, clear, chosen, thresholds))
        itself[name] = _linkage(link_itself(photographs, rows, clear, chosen, thresholds))
    return table | {"another": another, "itself": itself}, missing


class _Probes:
    """Embeddings of what becomes of the probes, one photograph at a time."""

    def __init__(
        self, pipeline: PhaseVeil, recogniser: Recogniser, options: Options, photographs: PairSet, probes: Integers
    ) -> None:
        self._pipeline, self._recogniser = pipeline, recogniser
        self._seed, self._strength = options.seed, options.strength
        self._photographs, self._probes = photographs, probes
        self._root = options.pairs.parent if options.pairs is not None else Path()
        self._references = list_domains(options.references, options.outputs)

    def embed(self, number: int) -> Floats:
        """Of acquisition, heatmap and a new face in either mode. Shape ``(4, D)``."""
        place = self._probes[number]
        seed = number_of(f"{self._seed}/{self._photographs.files[place].relative_to(self._root).as_posix()}")
        domain = DOMAINS[seed % len(DOMAINS)]
        files = self._references[domain]
        reference = read_crop(files[int(np.random.default_rng(seed).integers(len(files)))])
        styles = [
            reference_styles(self._pipeline, [reference], domain),
            self._pipeline.latent_styles([seed], domain, self._strength),
        ]
        acquired = Acquired.of(self._pipeline, self._photographs.crop(place), seed)
        images = [*acquired.artefacts, *acquired.draw(torch.cat(styles))]
        landmarks = np.repeat(self._photographs.landmarks[place][None], len(images), axis=0)
        return self._recogniser.embed(images, landmarks)


def _clear_embeddings(photographs: PairSet, known: Known, file: Path, report: Report) -> Floats:
    """Of every photograph in a pair, NaN for the others. Shape ``(N, D)``."""
    places = np.unique(photographs.pairs)

    def embed(number: int) -> Floats:
        place = places[number]
        return known.recogniser.embed([photographs.crop(place)], photographs.landmarks[place][None])[0]

    found = cached(file, states([photographs.files[place] for place in places]), embed, report)
    embeddings = np.full((len(photographs), found.shape[1]), np.nan)
    embeddings[places] = found
    return embeddings


def _table(recogniser: str, thresholds: Thresholds | None, impostors: int) -> Figures:
    return {"recogniser": recogniser, "thresholds": thresholds, "clean_impostor_pairs": impostors}


def _linkage(found: Linkage) -> Figures:
    return {
        "verification": found.verification,
        "rank_one": found.rank_one,
        "gallery": found.gallery,
        "chance": found.chance,
    }


def _missing_thresholds(table: str, thresholds: Thresholds | None, reason: str) -> dict[str, str]:
    if thresholds is None:
        return {f"identity.{table}.thresholds": reason}
    return {} if thresholds.fmr_1e4 is not None else {f"identity.{table}.thresholds.fmr_1e4": NO_FINE_THRESHOLD}
