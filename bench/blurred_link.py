"""Whether a blur helps a recogniser off the shelf to link new faces: fine lines that bother it alone are gone.

    python -m bench.blurred_link 0 3 6 9 --pairs lfw/pairs.csv --out runs/blurred

New faces and clear gallery photographs, as `phaseveil attack` takes them (all pairs, a latent style each), both seen
through a Gaussian blur of that many pixels of 256, then embedded and compared by dlib's recogniser. It is the one that
stage II pushes new faces away from, so what it finds without a blur says little about others.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from phaseveil.apps.attack import Options, gather
from phaseveil.apps.attack_card import bounds
from phaseveil.apps.attack_data import BUDGETS, Study
from phaseveil.apps.attack_results import Finding, plain, score, write_json
from phaseveil.apps.attack_target import acquire, draw_faces
from phaseveil.errors import PhaseVeilError
from phaseveil.metrics.detection import FRAME
from phaseveil.metrics.identity import Floats, Recogniser
from phaseveil.optics.camera import Camera, CameraConfig, build_camera
from phaseveil.pipeline import PhaseVeil

BATCH = 32


@torch.inference_mode()
def through(lens: Camera | None, study: Study, recogniser: Recogniser, pipeline: PhaseVeil, sigma: float) -> Finding:
    """New faces of the probes and clear photographs, embedded as seen through a lens."""
    places = np.union1d(study.probes, study.gallery)
    new: list[Floats] = []
    clear: list[Floats] = []
    for start in range(0, len(places), BATCH):
        at = places[start : start + BATCH]
        faces = draw_faces(pipeline, acquire(pipeline.camera.optics, study, at), study, at)
        for kept, images in ((new, faces), (clear, study.scenes(at))):
            kept.append(study.embed(recogniser, lens(images.float()) if lens else images, at))
    return Finding(
        key=f"blur-{sigma:g}",
        code="A0",
        title=f"off-the-shelf recogniser, all blurred by {sigma:g} px of {FRAME}",
        artefact="generated",
        knowledge="nothing about the camera",
        probes=np.concatenate(new)[np.isin(places, study.probes)],
        clear=study.by_place(places, np.concatenate(clear)),
        refitted=True,
    )


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sigmas", nargs="+", type=float, metavar="SIGMA", help="pixels of 256; 0 blurs nothing")
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="folder of weights; the bundled ones by default")
    parser.add_argument("--cache", type=Path)
    arguments = parser.parse_args()
    if not all(sigma >= 0 for sigma in arguments.sigmas):
        parser.error("SIGMA is a standard deviation, 0 or more")
    try:
        pipeline = PhaseVeil.from_pretrained(arguments.weights)
        options = Options(arguments.pairs, arguments.out, BUDGETS["full"], cache=arguments.cache)
        _, recogniser, study = gather(options, pipeline.size)
        record = {}
        for sigma in arguments.sigmas:
            lens = build_camera(CameraConfig(kind="gaussian", gaussian_sigma=sigma / FRAME)) if sigma > 0 else None
            found = plain(score(through(lens, study, recogniser, pipeline, sigma), study))
            record[found["key"]] = found
            write_json(arguments.out / "blurred_link.json", record)
            for question in ("another", "itself"):
                print(f"{found['key']}, {question}: AUC {bounds(found[question]['auc'])}", flush=True)
    except PhaseVeilError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
