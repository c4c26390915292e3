"""Whether a blur helps a recogniser off the shelf to link new faces, as it takes away fine lines that put it off.

    python -m bench.blurred_link 0 3 6 9 --pairs lfw/pairs.csv --out runs/blurred

New faces and clear gallery photographs, as `phaseveil attack` takes them (all pairs, a latent style each), both seen
through a Gaussian blur of that many pixels of 256, then embedded and compared by dlib's recogniser, the one that stage
II pushes new faces away from.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from phaseveil.apps.attack import Options, gather
from phaseveil.apps.attack_card import bounds
from phaseveil.apps.attack_data import BUDGETS, Study
from phaseveil.apps.attack_results import Finding, plain, score, write_json
from phaseveil.apps.attack_target import acquire, draw_faces
from phaseveil.errors import PhaseVeilError
from phaseveil.metrics.detection import FRAME
from phaseveil.metrics.identity import Recogniser
from phaseveil.optics.camera import CameraConfig, build_camera
from phaseveil.pipeline import PhaseVeil

BATCH = 32


@torch.inference_mode()
def through(sigma: float, study: Study, recogniser: Recogniser, faces: Tensor) -> Finding:
    """New faces of the probes, ``(P, 3, S, S)``, and clear photographs, all embedded as seen through a blur.

    Args:
        sigma: Standard deviation, pixels of 256; 0 blurs nothing.
        study: Has the photographs.
        recogniser: Off the shelf.
        faces: One for each of ``study.probes``.
    """
    places = np.union1d(study.probes, study.gallery)
    rows = []
    for at, images in ((study.probes, faces), (places, study.scenes(places))):
        if sigma > 0:
            lens = build_camera(CameraConfig(kind="gaussian", gaussian_sigma=sigma / FRAME))
            images = torch.cat([lens(part.float()) for part in images.split(BATCH)])
        rows.append(study.embed(recogniser, images, at))
    return Finding(
        key=f"blur-{sigma:g}",
        code="A0",
        title=f"off-the-shelf recogniser, all blurred by {sigma:g} px of {FRAME}",
        artefact="generated",
        knowledge="nothing about the camera",
        probes=rows[0],
        clear=study.by_place(places, rows[1]),
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
        acquisitions = acquire(pipeline.camera.optics, study, study.probes)
        faces = draw_faces(pipeline, acquisitions, study, study.probes)
        record = {}
        for sigma in arguments.sigmas:
            found = plain(score(through(sigma, study, recogniser, faces), study))
            record[found["key"]] = found
            write_json(arguments.out / "blurred_link.json", record)
            for question in ("another", "itself"):
                print(f"{found['key']}, {question}: AUC {bounds(found[question]['auc'])}", flush=True)
    except PhaseVeilError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
