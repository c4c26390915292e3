"""Whether a blur helps a recogniser off the shelf to link new faces: fine lines that bother it alone are gone.

    python -m bench.blurred_link 0 3 6 9 --pairs lfw/pairs.csv --out runs/blurred

New faces and clear gallery photographs, as `phaseveil attack` takes them (all pairs, a latent style each), both seen
through a Gaussian blur of that many pixels of 256, then embedded and compared by dlib's recogniser. It is the one that
stage II pushes new faces away from, so what it finds without a blur says little about others.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phaseveil.apps.attack import Options, gather
from phaseveil.apps.attack_card import bounds
from phaseveil.apps.attack_data import BUDGETS, Study
from phaseveil.apps.attack_results import plain, write_json
from phaseveil.apps.attack_target import acquire, draw_faces
from phaseveil.errors import PhaseVeilError
from phaseveil.metrics.detection import FRAME
from phaseveil.metrics.identity import Floats, Pairs, Recogniser, Thresholds, similarity, verify
from phaseveil.optics.camera import Camera, CameraConfig, build_camera
from phaseveil.pipeline import PhaseVeil

BATCH = 32


@torch.inference_mode()
def embed(study: Study, recogniser: Recogniser, pipeline: PhaseVeil, lens: Camera | None) -> tuple[Floats, Floats]:
    """Embeddings by place through a lens, of new faces and of clear photographs; NaN where unused. ``(N, D)`` each."""
    places = np.union1d(study.probes, study.gallery)
    new: list[Floats] = []
    clear: list[Floats] = []
    for start in range(0, len(places), BATCH):
        at = places[start : start + BATCH]
        scenes = study.scenes(at)
        faces = draw_faces(pipeline, acquire(pipeline.camera.optics, study, at), study, at)
        for kept, images in ((new, faces), (clear, scenes)):
            kept.append(study.embed(recogniser, lens(images.float()) if lens else images, at))
    both = (study.by_place(places, np.concatenate(rows)) for rows in (new, clear))
    return next(both), next(both)


def linked(study: Study, new: Floats, clear: Floats) -> dict[str, Any]:
    """AUC and TAR at a false-match rate of 1e-3 of these impostors, against another and the very same photograph."""
    photographs, pairs = study.photographs, study.photographs.pairs
    impostor = ~photographs.same
    scores = similarity(new[pairs[:, 0]], clear[pairs[:, 1]])
    itself = np.concatenate([similarity(new[study.probes], clear[study.probes]), scores[impostor]])
    same = np.arange(len(itself)) < len(study.probes)
    persons = photographs.persons
    own = np.concatenate([np.stack([persons[study.probes]] * 2, axis=1), persons[pairs[impostor]]])
    found = {"another": verified(scores, photographs.same, persons[pairs]), "itself": verified(itself, same, own)}
    return plain(found)


def verified(scores: Floats, same: np.ndarray, persons: np.ndarray) -> dict[str, Any]:
    """Figures of scored pairs, with their intervals over persons."""
    found = verify(Pairs(scores, same, persons), Thresholds(0.0, None))
    return {"auc": found.auc._asdict(), "tar": found.tar_refitted._asdict() if found.tar_refitted else None}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sigmas", nargs="+", type=float, metavar="SIGMA", help="pixels of 256; 0 blurs nothing")
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="folder of weights; the bundled ones by default")
    parser.add_argument("--cache", type=Path)
    arguments = parser.parse_args()
    try:
        pipeline = PhaseVeil.from_pretrained(arguments.weights)
        options = Options(arguments.pairs, arguments.out, BUDGETS["full"], cache=arguments.cache)
        _, recogniser, study = gather(options, pipeline.size)
        record = {}
        for sigma in arguments.sigmas:
            lens = build_camera(CameraConfig(kind="gaussian", gaussian_sigma=sigma / FRAME)) if sigma > 0 else None
            record[f"{sigma:g}"] = linked(study, *embed(study, recogniser, pipeline, lens))
            write_json(arguments.out / "blurred_link.json", record)
            for name, figures in record[f"{sigma:g}"].items():
                print(f"blur {sigma:g} px, {name}: AUC {bounds(figures['auc'])}", flush=True)
    except PhaseVeilError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
