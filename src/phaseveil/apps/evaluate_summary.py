"""Figures of a whole run from the numbers of its sources: geometry, distances, diversity, detection, expression."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phaseveil.apps.evaluate_inputs import MODES, Options, Subject, other_domain
from phaseveil.apps.evaluate_measure import detector_names, unflatten
from phaseveil.apps.evaluate_shards import Row
from phaseveil.data.datasets import DOMAINS
from phaseveil.data.heatmaps import GROUPS, draw_heatmaps, misplaced_eyes, normalised_mean_error
from phaseveil.metrics.detection import FRAME, detection_score
from phaseveil.metrics.expression import PERTURBED, ExpressionAgreement, agreement
from phaseveil.metrics.fid import Features, corrected_frechet_distance, frechet_distance, kernel_distance
from phaseveil.metrics.identity import Floats

Figures = dict[str, Any]
CORRECTED_FROM = 20  # images a side, for the corrected Fréchet distance
DOUBTFUL = 0.2  # eye distances from where aligned crops have the eyes, beyond which landmarks are more likely wrong

TOO_FEW_TO_CORRECT = (
    f"the corrected distance needs at least {CORRECTED_FROM} new faces and references in each direction; give more"
)


class Spread:
    """Variance over images, pixel by pixel, of heatmaps that come in parts."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, heatmaps: Floats) -> None:
        """Take in some heatmaps, one by one, so that parts of any size round alike. Shape ``(N, 5, H, W)``."""
        for heatmap in heatmaps:
            self._count += 1
            self._sum = self._sum + heatmap
            self._squares = self._squares + heatmap**2

    def of_groups(self) -> Floats:
        """Mean of the pixels' unbiased variances in each channel. Shape ``(5,)``."""
        variance = (self._squares - np.square(self._sum) / self._count) / (self._count - 1)
        return np.asarray(variance).mean(axis=(1, 2))


def gather(shards: Iterable[Row], landmarks: Floats) -> tuple[Row, Figures]:
    """All rows, stacked, and the spread of the heatmaps, which are not kept.

    Args:
        shards: In order.
        landmarks: Of the sources, pixels of the 256-px frame. Shape ``(N, 68, 2)``.

    Returns:
        Arrays by name, and the variance of the heatmaps over faces beside that of heatmaps drawn from the landmarks.
    """
    parts: list[Row] = []
    seen, taught = Spread(), Spread()
    done = 0
    for shard in shards:
        heatmaps = shard.pop("heatmap").astype(np.float64)
        truth = draw_heatmaps(normalised(landmarks[done : done + len(heatmaps)]), heatmaps.shape[-1])
        seen.add(heatmaps)
        taught.add(truth.double().numpy())
        parts.append(shard)
        done += len(heatmaps)
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    found, wanted = seen.of_groups(), taught.of_groups()
    with np.errstate(divide="ignore", invalid="ignore"):  # one pose alone varies nowhere
        ratio = found / wanted
    return rows, {
        "heatmap_variance": dict(zip(GROUPS, found.tolist(), strict=True)),
        "heatmap_variance_over_teacher": dict(zip(GROUPS, ratio.tolist(), strict=True)),
    }


def geometry(points: NDArray, landmarks: Floats) -> Figures:
    """Error of the landmarks that the heatmap network reads from acquisitions, and that of always answering the mean.

    The clear sources' landmarks are a detector's, too, and some are wrong: a few such faces can make a tenth of the
    mean. So there is the median as well, and the mean over faces whose eyes lie where aligned crops have them.

    Args:
        points: Read, normalised to [0, 1]. Shape ``(N, 68, 2)``.
        landmarks: Of the clear sources, pixels of the 256-px frame. Shape ``(N, 68, 2)``.
    """
    truth = normalised(landmarks)
    errors = normalised_mean_error(torch.from_numpy(points).float(), truth).double().numpy()
    mean_face = normalised_mean_error(truth.mean(dim=0).expand_as(truth), truth)
    trusted = misplaced_eyes(truth).mean(dim=1).double().numpy() <= DOUBTFUL
    return {
        "error_over_eye_centres": float(errors.mean()),
        "standard_error": standard_error(errors),
        "percentile_90": float(np.percentile(errors, 90)),
        "median": float(np.median(errors)),
        "trusted": {"error_over_eye_centres": float(errors[trusted].mean()), "faces": int(trusted.sum())},
        "mean_face_error": float(mean_face.mean()),
        "faces": len(errors),
    }


def distances(
    generated: NDArray, real: Mapping[str, Floats], domains: Sequence[str], features: Features, seed: int
) -> Figures:
    """Fréchet and kernel distance of new faces from the references of their domain, by direction and their mean.

    As StarGAN v2 does (Choi et al., CVPR 2020, section 4): a figure a direction, then the mean of both.

    Args:
        generated: Features of M faces of each source. Shape ``(N, M, D)``.
        real: Features of each domain's references.
        domains: Of the sources.
        features: What the figures are called after.
        seed: Of the corrected estimate's subsamples.
    """
    tasks: dict[str, dict[str, Figures]] = {features.name: {}, features.kid_name: {}}
    for domain in DOMAINS:
        target = other_domain(domain)
        ours, theirs = np.concatenate(generated[np.array(domains) == domain]), real[target]
        enough = min(len(ours), len(theirs)) >= CORRECTED_FROM
        corrected = corrected_frechet_distance(ours, theirs, seed)._asdict() if enough else None
        samples = {"generated": len(ours), "references": len(theirs)}
        direction = f"{domain} to {target}"
        frechet = {"value": frechet_distance(ours, theirs), "corrected": corrected}
        tasks[features.name][direction] = frechet | samples
        tasks[features.kid_name][direction] = kernel_distance(ours, theirs)._asdict() | samples
    return {name: {"mean": _mean_of(list(by_task.values())), "tasks": by_task} for name, by_task in tasks.items()}


def diversity(distances: Floats) -> Figures:
    """LPIPS between a source's faces, averaged over sources. Takes one mean a source."""
    return {
        "mean": float(distances.mean()),
        "standard_error": standard_error(distances),
        "percentile_10": float(np.percentile(distances, 10)),
        "sources": len(distances),
    }


def detection(found: NDArray, mode: str, options: Options) -> Figures:
    """FD, BB and LM of one mode by one detector.

    Args:
        found: Faces as numbers: source, reference faces, some latent faces. Shape ``(N, 1 + M + L, 4 + 2 P)``.
        mode: ``reference`` or ``latent``.
        options: How many faces a source.
    """
    last = 1 + options.outputs
    chosen = slice(1, last) if mode == "reference" else slice(last, last + options.latent_detections)
    outputs = found[:, chosen]
    sources = [face for row in found for face in [unflatten(row[0])] * outputs.shape[1]]
    score = detection_score(sources, [unflatten(face) for row in outputs for face in row])
    return asdict(score) | {"outputs_a_source": outputs.shape[1]}


def expression(probabilities: NDArray, mode: str, options: Options) -> Figures:
    """Agreement of one mode's faces with their sources. Takes shape ``(N, 1 + 2 M, 7)``."""
    first = 1 + MODES.index(mode) * options.outputs
    outputs = probabilities[:, first : first + options.outputs]
    sources = np.repeat(probabilities[:, :1], options.outputs, axis=1)
    return agreement_figures(agreement(np.concatenate(sources), np.concatenate(outputs)))


def expression_ceiling(rows: Row) -> Figures:
    """The recogniser's agreement with itself on sources that are shifted, scaled or mirrored a little."""
    usual = np.repeat(rows["expression"][:, :1], len(PERTURBED), axis=1)
    return agreement_figures(agreement(np.concatenate(usual), np.concatenate(rows["perturbed"])))


def agreement_figures(found: ExpressionAgreement) -> Figures:
    """An agreement with its κ."""
    return asdict(found) | {"kappa": found.kappa}


def mode_figures(
    mode: str,
    rows: Row,
    subjects: Sequence[Subject],
    options: Options,
    real: Mapping[str, Mapping[str, Floats]],
    features: Sequence[Features],
) -> Figures:
    """All columns of one mode that the rows allow.

    Args:
        mode: ``reference`` or ``latent``.
        rows: Numbers of all sources, stacked.
        subjects: The sources.
        options: Of the run.
        real: Features of the references, by the networks' names and by domain.
        features: The networks.
    """
    number = MODES.index(mode)
    domains = [subject.domain for subject in subjects]
    figures: Figures = {}
    for network in features:
        figures |= distances(rows[network.name][:, number], real[network.name], domains, network, options.seed)
    if "diversity" in rows:
        figures["LPIPS"] = diversity(rows["diversity"][:, number])
    figures["detection"] = {name: detection(rows[name], mode, options) for name in detector_names(options)}
    if "expression" in rows:
        figures["expression"] = expression(rows["expression"], mode, options)
    return figures


def normalised(landmarks: Floats) -> Tensor:
    """Pixels of the 256-px frame to [0, 1], float32."""
    return torch.from_numpy((landmarks + 0.5) / FRAME).float()


def standard_error(values: NDArray) -> float:
    """Of a mean over sources."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def _mean_of(tasks: Sequence[Figures]) -> Figures:
    """Mean over the directions: the value and, of a Fréchet distance, its corrected estimate."""
    mean: Figures = {"value": float(np.mean([task["value"] for task in tasks]))}
    if "corrected" in tasks[0]:
        corrected = [task["corrected"] for task in tasks]
        known = all(estimate is not None for estimate in corrected)
        mean["corrected"] = float(np.mean([estimate["value"] for estimate in corrected])) if known else None
    return mean
