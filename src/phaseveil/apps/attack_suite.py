"""The attacks A0 to A4 of DESIGN §4 in the order in which they run; what is finished is not run again.

Every attacker knows where the face's landmarks are in the clear photograph (oracle alignment).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from phaseveil.apps import attack_learned as learned
from phaseveil.apps import attack_psf as known
from phaseveil.apps.attack_bench import Bench, Stage
from phaseveil.apps.attack_results import Artefact, Finding, Record, keep
from phaseveil.attacks.deconvolution import METHODS
from phaseveil.optics.dynamic import DynamicCamera
from phaseveil.progress import Report


class Step(NamedTuple):
    """Attacks that are computed, and kept, together.

    Attributes:
        name: Of the files that keep them.
        artefact: What the attackers look at.
        run: Gives what they found.
    """

    name: str
    artefact: Artefact
    run: Callable[[Report], list[Finding]]


def run_attacks(bench: Bench, stage: Stage) -> list[Record]:
    """Run all attacks that the budget and the weights at hand allow; their records in order."""
    records: list[Record] = []
    for step in _steps(bench, records):
        with stage(f"attack {step.name}") as report:
            records += bench.kept(step.artefact).once(step.name, lambda: keep(step.run(report), bench.study))  # noqa: B023
    return records


def _steps(bench: Bench, records: Sequence[Record]) -> Iterator[Step]:
    """The steps; ``records`` fills up between them."""
    yield from _off_the_shelf(bench)
    camera = bench.target.camera
    sensors = [known.real_sensor(camera), *known.other_sensors(camera)]
    for method in METHODS:
        for sensor in sensors if method in bench.budget.sweep else sensors[:1]:
            yield _deconvolution(bench, method, sensor)
    best = _best_method(records)
    yield Step("A2-captured", "recovered", lambda report: known.estimated_psf(bench, best, report))
    yield Step("A2-mistaken", "recovered", lambda report: [known.wrong_psf(bench, best, report)])
    if isinstance(camera, DynamicCamera):
        yield Step("A2-family", "recovered", lambda report: [known.likeliest_psf(bench, camera, best, report)])
    yield Step("A3-inversion", "recovered", lambda report: [learned.inversion(bench, report)])
    yield from _trained_recognisers(bench)


def _deconvolution(bench: Bench, method: str, sensor: known.Sensor) -> Step:
    name = f"A1-{method}{sensor.key}"
    return Step(name, "recovered", lambda report: [known.exact_psf(bench, method, sensor, report)])


def _off_the_shelf(bench: Bench) -> Iterator[Step]:
    network, pipeline = bench.target.heatmap_net, bench.target.pipeline
    yield Step("A0-acquisition", "acquisition", lambda _: [learned.off_the_shelf_acquisition(bench)])
    if network is not None:
        yield Step("A0-heatmap", "heatmap", lambda _: [learned.off_the_shelf_heatmap(bench, network)])
    if pipeline is not None:
        yield Step("A0-generated", "generated", lambda _: [learned.off_the_shelf_generated(bench, pipeline)])


def _trained_recognisers(bench: Bench) -> Iterator[Step]:
    network, pipeline, wanted = bench.target.heatmap_net, bench.target.pipeline, bench.budget.trained_on
    if "acquisition" in wanted:
        yield Step("A4-acquisition", "acquisition", lambda report: learned.recogniser_on_acquisitions(bench, report))
    if "heatmap" in wanted and network is not None:
        yield Step("A4-heatmap", "heatmap", lambda report: learned.recogniser_on_heatmaps(bench, network, report))
    if "generated" in wanted and pipeline is not None:
        yield Step("A4-generated", "generated", lambda report: learned.recogniser_on_generated(bench, pipeline, report))


def _best_method(records: Sequence[Record]) -> str:
    """The deconvolution that identifies best on the real sensor."""
    exact = [record for record in records if record["code"] == "A1" and record["nominal"]]
    method: str = max(exact, key=lambda record: record["another"]["auc"]["value"])["settings"]["method"]
    return method
