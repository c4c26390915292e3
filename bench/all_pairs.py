"""The attacks that win on one camera or another, again, on every genuine pair of the attacked half: narrow intervals.

    python -m bench.all_pairs CAMERA[:WEIGHTS] … --pairs lfw/pairs.csv --out runs/all-pairs

`phaseveil attack` has the whole suite; its quick budget scores 300 pairs. Here Richardson-Lucy with the exact PSF and
the recogniser trained on acquisitions are run with that budget's training and scored on all pairs. Can be interrupted.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from phaseveil.apps import attack_learned, attack_psf
from phaseveil.apps.attack import Options, gather
from phaseveil.apps.attack_bench import Bench
from phaseveil.apps.attack_card import bounds, percent
from phaseveil.apps.attack_data import BUDGETS
from phaseveil.apps.attack_results import Work, keep, plain, write_json
from phaseveil.apps.attack_target import NEED_HEATMAP, landmark_error, load_target
from phaseveil.errors import ConfigError, PhaseVeilError
from phaseveil.optics.camera import load_camera
from phaseveil.progress import progress

BUDGET = dataclasses.replace(BUDGETS["quick"], name="quick, all pairs", probes=None, impostors=60_000)


def strongest(camera: str, weights: Path | None, options: Options) -> dict[str, Any]:
    """Landmark error and the attacks' figures on another photograph of the person."""
    target = load_target(camera, load_camera(camera), weights)
    if target.heatmap_net is None:
        raise ConfigError(NEED_HEATMAP)
    photographs, recogniser, study = gather(options, target.size)
    bench = Bench(study, target, options.budget, recogniser, None, Work(options.out / "work" / target.digest()))
    exact = attack_psf.real_sensor(target.camera)
    with progress(f"{target.name} richardson-lucy") as report:
        records = bench.work.once(
            "richardson-lucy", lambda: keep([attack_psf.exact_psf(bench, "richardson-lucy", exact, report)], study)
        )
    with progress(f"{target.name} recogniser") as report:
        records += bench.work.once(
            "recogniser", lambda: keep(attack_learned.recogniser_on_acquisitions(bench, report), study)
        )
    found: dict[str, Any] = plain(
        {
            "camera": target.name,
            "pairs": int(study.photographs.same.sum()),
            "persons": len(set(photographs.persons[study.probes].tolist())),
            "landmark_error": landmark_error(target.heatmap_net, bench.acquisitions, study, study.probes)._asdict(),
            "attacks": {record["key"]: record["another"] for record in records},
        }
    )
    return found


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cameras", nargs="+", metavar="CAMERA[:WEIGHTS]")
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    arguments = parser.parse_args()
    options = Options(arguments.pairs, arguments.out, BUDGET, cache=arguments.cache)
    try:
        for entry in arguments.cameras:
            camera, _, weights = entry.partition(":")
            found = strongest(camera, Path(weights) if weights else None, options)
            write_json(arguments.out / f"{found['camera']}.json", found)
            print(f"{found['camera']}: {found['pairs']} pairs, {found['persons']} persons, "
                  f"landmark error {percent(found['landmark_error'])}")  # fmt: skip
            for key, figures in found["attacks"].items():
                print(f"  {key:<28} AUC {bounds(figures['auc'])}, TAR {percent(figures['tar'])}", flush=True)
    except PhaseVeilError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
