"""The attacks that win on one camera or another, again, on every genuine pair of the attacked half: narrow intervals.

    python -m bench.all_pairs CAMERA[:WEIGHTS] … --pairs lfw/pairs.csv --out runs/all-pairs [--budget full]

`phaseveil attack` has the whole suite; its quick budget scores 300 pairs. Here the recogniser off the shelf,
Richardson-Lucy with the exact PSF, the recogniser trained on acquisitions and the inversion network are run with a
budget's tuning and training and scored on all pairs. The landmark error needs a heatmap network; these attacks do not.
`--attacks generated` attacks new faces instead, off the shelf and by a recogniser trained on them, drawn as
`--erase-shape N` says. Can be interrupted.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from phaseveil.apps import attack_learned, attack_psf
from phaseveil.apps.attack import Options, budget_named, gather
from phaseveil.apps.attack_bench import Bench
from phaseveil.apps.attack_card import bounds, percent
from phaseveil.apps.attack_data import BUDGETS, Budget
from phaseveil.apps.attack_results import Artefact, Finding, Record, Work, keep, plain, write_json
from phaseveil.apps.attack_target import NEED_FACE, landmark_error, load_target
from phaseveil.errors import ConfigError, PhaseVeilError
from phaseveil.optics.camera import load_camera
from phaseveil.progress import Report, progress

ON_ACQUISITIONS = ("off-the-shelf", "richardson-lucy", "recogniser", "inversion")
ATTACKS = (*ON_ACQUISITIONS, "generated")


def scoring_all(name: str) -> Budget:
    """A budget's tuning and training, on all pairs."""
    return dataclasses.replace(budget_named(name), name=f"{name}, all pairs", probes=None, impostors=60_000)


def strongest(
    camera: str, weights: Path | None, options: Options, attacks: Sequence[str] = ON_ACQUISITIONS
) -> dict[str, Any]:
    """Landmark error and the attacks' figures on another photograph of the person."""
    target = load_target(camera, load_camera(camera), weights).erasing_shape(options.erase_shape)
    if "generated" in attacks and target.pipeline is None:
        raise ConfigError(f"{camera}: {NEED_FACE.replace('with --weights', 'as CAMERA:WEIGHTS')}")
    photographs, recogniser, study = gather(options, target.size)
    work = Work(options.out / "work" / options.budget.name)
    bench = Bench(study, target, options.budget, recogniser, None, work)
    exact = attack_psf.real_sensor(target.camera)
    known: dict[str, tuple[Artefact, Callable[[Report], list[Finding]]]] = {
        "off-the-shelf": ("acquisition", lambda _: [attack_learned.off_the_shelf_acquisition(bench)]),
        "richardson-lucy": (
            "recovered",
            lambda report: [attack_psf.exact_psf(bench, "richardson-lucy", exact, report)],
        ),
        "recogniser": ("acquisition", lambda report: attack_learned.recogniser_on_acquisitions(bench, report)),
        "inversion": ("recovered", lambda report: [attack_learned.inversion(bench, report)]),
        "generated": ("generated", lambda report: _on_new_faces(bench, report)),
    }
    records: list[Record] = []
    for name in attacks:
        artefact, run = known[name]
        with progress(f"{target.name} {name}") as report:
            records += bench.kept(artefact).once(name, lambda: keep(run(report), study))  # noqa: B023
    network = target.heatmap_net
    error = None if network is None else landmark_error(network, bench.acquisitions, study, study.probes)
    found: dict[str, Any] = plain(
        {
            "camera": target.name,
            "pairs": int(study.photographs.same.sum()),
            "persons": len(set(photographs.persons[study.probes].tolist())),
            "budget": options.budget.name,
            "erased_directions": options.erase_shape,
            "landmark_error": None if error is None else error._asdict(),
            "attacks": {record["key"]: record["another"] for record in records},
        }
    )
    return found


def _on_new_faces(bench: Bench, report: Report) -> list[Finding]:
    pipeline = bench.target.pipeline
    assert pipeline is not None
    return [
        attack_learned.off_the_shelf_generated(bench, pipeline),
        *attack_learned.recogniser_on_generated(bench, pipeline, report),
    ]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cameras", nargs="+", metavar="CAMERA[:WEIGHTS]")
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--budget", choices=list(BUDGETS), default="quick")
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ON_ACQUISITIONS))
    parser.add_argument("--erase-shape", type=int, default=0, metavar="N", help="of new faces")
    arguments = parser.parse_args()
    options = Options(
        arguments.pairs,
        arguments.out,
        scoring_all(arguments.budget),
        cache=arguments.cache,
        erase_shape=arguments.erase_shape,
    )
    try:
        for entry in arguments.cameras:
            camera, _, weights = entry.partition(":")
            found = strongest(camera, Path(weights) if weights else None, options, arguments.attacks)
            erased = f"-erased-{options.erase_shape}" if options.erase_shape else ""
            write_json(arguments.out / f"{found['camera']}{erased}.json", found)
            print(f"{found['camera']}: {found['pairs']} pairs, {found['persons']} persons, "
                  f"landmark error {percent(found['landmark_error'])}")  # fmt: skip
            for key, figures in found["attacks"].items():
                print(f"  {key:<28} AUC {bounds(figures['auc'])}, TAR {percent(figures['tar'])}", flush=True)
    except PhaseVeilError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
