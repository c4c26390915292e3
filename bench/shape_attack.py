"""How far the shape of new faces tells whose they are, with `--erase-shape N` and without.

    python -m bench.shape_attack 0 30 --pairs lfw/pairs.csv --out runs/shape

A linear discriminant [Fisher 1936, Annals of Eugenics 7, 179] on 68 landmarks by dlib, trained on the persons that
belong to `phaseveil attack`'s attacker and scored on all pairs of the others: on erased landmarks of clear photographs
(*geometry*), and on landmarks of new faces, of which the attacker draws one of each own photograph. Beside it
dlib's recogniser off the shelf on the new faces. Landmarks of new faces are found anew, a latent style for each face.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import make_pipeline

from phaseveil.apps.attack import Options, gather
from phaseveil.apps.attack_card import bounds
from phaseveil.apps.attack_data import BUDGETS, Study
from phaseveil.apps.attack_results import plain, write_json
from phaseveil.apps.attack_target import acquire, draw_faces
from phaseveil.data.heatmaps import normalised_mean_error
from phaseveil.data.image_io import resize, to_array
from phaseveil.errors import PhaseVeilError
from phaseveil.metrics.detection import FRAME
from phaseveil.metrics.identity import Floats, Integers, Pairs, Recogniser, Thresholds, similarity, verify
from phaseveil.metrics.photographs import oracle_landmarks
from phaseveil.models.shape import COORDINATES, load_shape_eraser
from phaseveil.pipeline import PhaseVeil
from phaseveil.progress import progress

COMPONENTS, DISCRIMINANTS, SHRINKAGE = 90, 60, 1e-3
BATCH = 32

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Shapes:
    """Landmarks by place, normalised to [0, 1], NaN where there are none; and the new faces' embeddings.

    Attributes:
        landmarks: Shape ``(N, 136)``.
        embeddings: Shape ``(N, D)``.
    """

    landmarks: Rows
    embeddings: Floats


class Discriminant:
    """A linear discriminant between persons.

    Args:
        rows: Landmarks. Shape ``(B, 136)``.
        persons: Whose they are; who has one row only is left out. Shape ``(B,)``.
    """

    def __init__(self, rows: Rows, persons: Integers) -> None:
        known, counts = np.unique(persons, return_counts=True)
        kept = np.isin(persons, known[counts > 1])
        names = int((counts > 1).sum())
        discriminant = LinearDiscriminantAnalysis(
            solver="eigen", shrinkage=SHRINKAGE, n_components=min(DISCRIMINANTS, names - 1)
        )
        reduced = PCA(min(COMPONENTS, int(kept.sum())))
        self._chain = make_pipeline(reduced, discriminant).fit(rows[kept], persons[kept])

    def score(self, probes: Rows, gallery: Rows) -> Floats:
        """How alike pairs are. Shapes ``(P, 136)`` twice; ``(P,)``."""
        directions = [self._chain.transform(rows) for rows in (probes, gallery)]
        return similarity(*(rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in directions))


def new_faces(pipeline: PhaseVeil, study: Study, recogniser: Recogniser) -> Shapes:
    """Draw a new face for every photograph of the attacker and of the pairs, and find its landmarks."""
    places = np.unique(np.concatenate([study.attacker, study.probes, study.gallery]))
    landmarks, embeddings = [], []
    with progress(f"new faces, {pipeline.erased_directions} erased") as report:
        for start in range(0, len(places), BATCH):
            at = places[start : start + BATCH]
            faces = draw_faces(pipeline, acquire(pipeline.camera.optics, study, at), study, at)
            landmarks += [(oracle_landmarks(resize(to_array(face), FRAME)) + 0.5) / FRAME for face in faces]
            embeddings.append(study.embed(recogniser, faces, at))
            report(start + len(at), len(places))
    rows = np.stack(landmarks).reshape(len(places), COORDINATES)
    return Shapes(study.by_place(places, rows), study.by_place(places, np.concatenate(embeddings)))


def attack(study: Study, clear: Rows, shown: Rows) -> dict[str, Any]:
    """Linear discriminants against landmarks that are shown by place, ``(N, 136)``, the clear ones being known."""
    pairs, own = study.photographs.pairs, study.attacker
    persons = study.photographs.persons
    known = np.concatenate([clear[own], shown[own]]), np.concatenate([persons[own]] * 2)
    both, shown_alone = Discriminant(*known), Discriminant(shown[own], persons[own])
    probes, galleries = shown[pairs[:, 0]], (clear[pairs[:, 1]], shown[pairs[:, 1]])
    return {
        "clear gallery": verified(study, both.score(probes, galleries[0])),
        "shown gallery": verified(study, shown_alone.score(probes, galleries[1])),
        "moved": moved(study, clear, shown),
    }


def verified(study: Study, scores: Floats) -> dict[str, Any]:
    """AUC of scored pairs, with its interval over persons."""
    photographs = study.photographs
    found = verify(Pairs(scores, photographs.same, photographs.persons[photographs.pairs]), Thresholds(0.0, None))
    return {"auc": found.auc._asdict(), "tar": found.tar_refitted._asdict() if found.tar_refitted else None}


def moved(study: Study, clear: Rows, shown: Rows) -> float:
    """Mean distance of the points from the clear photograph's, in distances of the eye centres, over the probes."""
    points = (torch.from_numpy(rows[study.probes]).unflatten(1, (-1, 2)) for rows in (shown, clear))
    return float(normalised_mean_error(*points).mean())


def described(count: int, record: dict[str, Any]) -> Iterator[str]:
    """The figures of one number of directions, as lines."""
    for artefact, figures in record.items():
        yield f"{count} erased, {artefact}: points moved by {figures['moved']:.1%}"
        yield from (f"  {name:<14} AUC {bounds(one['auc'])}" for name, one in figures.items() if name != "moved")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("directions", nargs="+", type=int, metavar="N", help="directions that are erased")
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--geometry-only", action="store_true", help="draw no faces")
    arguments = parser.parse_args()
    try:
        pipeline = PhaseVeil.from_pretrained()
        options = Options(arguments.pairs, arguments.out, BUDGETS["full"], cache=arguments.cache)
        _, recogniser, study = gather(options, pipeline.size)
        places = np.arange(len(study.photographs))
        clear = study.landmarks(places).double()
        known = clear.flatten(1).numpy()
        found: dict[str, Any] = {}
        for count in arguments.directions:
            erased = load_shape_eraser().first(count)(clear.float()).double() if count else clear
            record = {"geometry": attack(study, known, erased.flatten(1).numpy())}
            if not arguments.geometry_only:
                shapes = new_faces(pipeline.erasing_shape(count), study, recogniser)
                record["new faces"] = attack(study, known, shapes.landmarks)
                pairs = study.photographs.pairs
                off_the_shelf = similarity(shapes.embeddings[pairs[:, 0]], study.clear[pairs[:, 1]])
                record["new faces"]["off the shelf"] = verified(study, off_the_shelf)
            found[str(count)] = plain(record)
            write_json(arguments.out / "shape_attack.json", found)
            print("\n".join(described(count, found[str(count)])), flush=True)
    except PhaseVeilError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
