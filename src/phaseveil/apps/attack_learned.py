"""Attacks that need no point spread function: off the shelf (A0), and those that learn from the attacker's own captures
(A3, A4)."""

import dataclasses

from torch import Tensor

from phaseveil.apps.attack_bench import Bench
from phaseveil.apps.attack_results import Artefact, Finding, image_quality
from phaseveil.apps.attack_target import (
    draw_faces,
    draw_heatmaps,
    view_of_acquisitions,
    view_of_faces,
    view_of_heatmaps,
)
from phaseveil.attacks.attacker import Acquire
from phaseveil.attacks.inversion import restore, train_inversion
from phaseveil.attacks.recognition import train_recogniser
from phaseveil.metrics.identity import DlibRecogniser
from phaseveil.models.heatmap import HeatmapNet
from phaseveil.pipeline import PhaseVeil
from phaseveil.progress import Report

OFF_THE_SHELF = "nothing about the camera; a recogniser made for clear photographs"
OWN_CAPTURES = "owns such a camera: trains on its own captures of {persons} other persons ({photographs} photographs)"
NOT_A_RECOVERY = "a new face, not an attempt to restore the scene"


def off_the_shelf_acquisition(bench: Bench) -> Finding:
    """A0 on the acquisition itself, which also serves as the worst recovered image there is."""
    return dataclasses.replace(
        bench.seen(
            bench.acquisitions,
            key="A0-acquisition",
            code="A0",
            title="off-the-shelf recogniser",
            artefact="acquisition",
            knowledge=OFF_THE_SHELF,
        ),
        quality=image_quality(bench.acquisitions, bench.scenes, bench.perceptual),
    )


def off_the_shelf_heatmap(bench: Bench, network: HeatmapNet) -> Finding:
    """A0 on the drawn heatmap."""
    return bench.seen(
        draw_heatmaps(network, bench.acquisitions),
        key="A0-heatmap",
        code="A0",
        title="off-the-shelf recogniser",
        artefact="heatmap",
        knowledge=OFF_THE_SHELF,
    )


def off_the_shelf_generated(bench: Bench, pipeline: PhaseVeil) -> Finding:
    """A0 on the generated face, of a style of nobody that seed and photograph choose."""
    return bench.seen(
        draw_faces(pipeline, bench.acquisitions, bench.study, bench.study.probes),
        key="A0-generated",
        code="A0",
        title="off-the-shelf recogniser",
        artefact="generated",
        knowledge=OFF_THE_SHELF,
        quality=NOT_A_RECOVERY,
    )


def inversion(bench: Bench, report: Report) -> Finding:
    """A3: a network trained by the attacker to restore the scene."""
    study, camera = bench.study, bench.target.camera
    config = dataclasses.replace(bench.budget.inversion, camera=bench.origin("recovered")[:16], seed=study.seed)
    network = train_inversion(
        study.attacker_scenes,
        study.landmarks(study.attacker),
        view_of_acquisitions(camera, study.size),
        config,
        bench.kept("recovered").state("A3-inversion"),
        report,
    )
    return bench.recovered(
        restore(network, bench.acquisitions),
        key="A3-inversion",
        code="A3",
        title="inversion network",
        knowledge=_own_captures(bench),
        settings={"steps": config.steps},
    )


def recogniser_on_acquisitions(bench: Bench, report: Report) -> list[Finding]:
    """A4: a recogniser trained by the attacker on acquisitions."""
    view = view_of_acquisitions(bench.target.camera, bench.study.size)
    return _trained(bench, "acquisition", view, bench.acquisitions, bench.acquired_gallery, report)


def recogniser_on_heatmaps(bench: Bench, network: HeatmapNet, report: Report) -> list[Finding]:
    """A4: a recogniser trained by the attacker on drawn heatmaps."""
    view = view_of_heatmaps(bench.target.camera, network)
    probes, gallery = (draw_heatmaps(network, images) for images in (bench.acquisitions, bench.acquired_gallery))
    return _trained(bench, "heatmap", view, probes, gallery, report)


def recogniser_on_generated(bench: Bench, pipeline: PhaseVeil, report: Report) -> list[Finding]:
    """A4: a recogniser trained by the attacker on generated faces."""
    study = bench.study
    probes = draw_faces(pipeline, bench.acquisitions, study, study.probes)
    gallery = draw_faces(pipeline, bench.acquired_gallery, study, study.gallery)
    findings = _trained(bench, "generated", view_of_faces(pipeline), probes, gallery, report)
    return [dataclasses.replace(finding, quality=NOT_A_RECOVERY) for finding in findings]


def _trained(
    bench: Bench, artefact: Artefact, view: Acquire, probes: Tensor, gallery: Tensor, report: Report
) -> list[Finding]:
    """Train on views of the attacker's photographs; compare the probes with the acquired and with the clear gallery."""
    study, name = bench.study, f"A4-{artefact}"
    config = dataclasses.replace(
        bench.budget.recogniser, view=f"{artefact} {bench.origin(artefact)[:16]}", seed=study.seed
    )
    network = train_recogniser(
        study.attacker_scenes,
        study.landmarks(study.attacker),
        study.photographs.persons[study.attacker],
        view,
        config,
        bench.kept(artefact).state(name),
        report,
    )
    recogniser = DlibRecogniser(network=network)
    found = study.embed(recogniser, probes, study.probes)
    acquired = study.embed(recogniser, gallery, study.gallery)
    described = Finding(
        key=f"{name}-acquired",
        code="A4",
        title="recogniser trained on such images, gallery of such images",
        artefact=artefact,
        knowledge=_own_captures(bench),
        probes=found,
        clear=bench.dlib_clear,
        gallery=acquired,
        refitted=True,
        settings={"steps": config.steps},
    )
    title = "recogniser trained on such images, clear gallery"
    return [described, dataclasses.replace(described, key=f"{name}-clear", title=title, gallery=None)]


def _own_captures(bench: Bench) -> str:
    places = bench.study.attacker
    persons = len(set(bench.study.photographs.persons[places].tolist()))
    return OWN_CAPTURES.format(persons=persons, photographs=len(places))
