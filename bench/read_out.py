"""What anybody can read from an acquisition, geometry against identity, in a minute a camera: kernel regression.

    python -m bench.read_out CAMERA … --data prepared --pairs lfw/pairs.csv --out runs/read-out [--faces 9000]

A camera is compared with others at equal landmark error, and that error depends on whose network started where and how
long it trained. This reader has no start and no steps: a linear estimate of the picture from the acquisition's 32 × 32
means, then kernel ridge regression [Murphy 2012, Machine Learning, 14.4.3] of the 68 landmarks and of dlib's embedding
on that estimate, solved exactly. The same faces, noise and settings for every camera; it reads less than trained
networks do, of geometry as of identity. A dynamic camera, with a PSF for each exposure, takes much longer.

Landmark error on the validation split; identity as the AUC of linking what is read to *another*, clear photograph, on
the persons that belong to `phaseveil attack`'s attacker, not on those attacked.
"""

import argparse
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from torch import Tensor
from torch.nn import functional

from phaseveil.apps.attack import Options, gather
from phaseveil.apps.attack_data import BUDGETS
from phaseveil.apps.attack_results import plain, write_json
from phaseveil.apps.attack_target import FRAME_SIZE, family_of
from phaseveil.apps.front_plot import COLOURS
from phaseveil.attacks.attacker import embed, to_layout
from phaseveil.data.datasets import load_faces
from phaseveil.data.heatmaps import normalised_mean_error
from phaseveil.errors import InputError, PhaseVeilError
from phaseveil.metrics.dlib_resnet import DlibResNet
from phaseveil.metrics.identity import Pairs, Thresholds, similarity, verify
from phaseveil.models.blocks import to_channels_last
from phaseveil.optics.camera import Camera, load_camera
from phaseveil.optics.sensor import srgb_to_linear
from phaseveil.progress import progress
from phaseveil.run_state import seeded

SIDE = 32
"""Means across the frame that are read: up to 16 cycles, more than any blurred acquisition holds above its noise."""

COMPONENTS, PICTURE_COMPONENTS = 1500, 600  # principal ones of acquisitions, and of clear pictures
FACES_A_COMPONENT = 6  # at least, or each component's estimate drowns in what the others explain
FEWEST_FACES = 100
RIDGE = 0.003  # of the kernel, whose diagonal is 1
IMPOSTORS = 60_000
BATCH = 128

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Faces:
    """Photographs and what is to be read from them.

    Attributes:
        scenes: RGB. Shape ``(N, S, S, 3)``, uint8.
        landmarks: Normalised to [0, 1]. Shape ``(N, 68, 2)``.
        embeddings: dlib's, of the clear photographs. Shape ``(N, 128)``.
    """

    scenes: NDArray[np.uint8]
    landmarks: Tensor
    embeddings: Array

    @classmethod
    def of(cls, scenes: NDArray[np.uint8], landmarks: Tensor, recogniser: DlibResNet) -> Self:
        """Embed clear photographs."""
        with torch.inference_mode():
            parts = [
                embed(recogniser, pictures(scenes[start : start + BATCH]), landmarks[start : start + BATCH])
                for start in range(0, len(scenes), BATCH)
            ]
        return cls(scenes, landmarks.float(), torch.cat(parts).numpy())

    def clear(self) -> Array:
        """The photographs' own means, sRGB. Shape ``(N, 3 · SIDE²)``."""
        return np.concatenate([means(pictures(part)) for part in self._parts()])

    def seen_by(self, camera: Camera, seed: int) -> Array:
        """Means of linear light that a camera reads out of them. Shape ``(N, 3 · SIDE²)``."""
        noise = seeded(seed, 0, 0)
        with torch.inference_mode():
            return np.concatenate([means(srgb_to_linear(camera(pictures(part), noise))) for part in self._parts()])

    def _parts(self) -> list[NDArray[np.uint8]]:
        return [self.scenes[start : start + BATCH] for start in range(0, len(self.scenes), BATCH)]


def pictures(scenes: NDArray[np.uint8]) -> Tensor:
    """Photographs ``(B, S, S, 3)``, uint8, as the networks take them. Shape ``(B, 3, S, S)``, 0 to 1."""
    return to_layout(torch.from_numpy(scenes.copy()).permute(0, 3, 1, 2).float() / 255, "cpu")


def means(images: Tensor) -> Array:
    """Images ``(B, 3, S, S)`` as rows of local means. Shape ``(B, 3 · SIDE²)``."""
    reduced: Array = functional.adaptive_avg_pool2d(images, SIDE).flatten(1).numpy()
    return reduced


@dataclass(frozen=True)
class Panel:
    """The faces that every camera is held against.

    Attributes:
        known: To fit on.
        held_out: For the landmark error.
        people: For identity.
        persons: Who they are. Shape ``(N,)``.
    """

    known: Faces
    held_out: Faces
    people: Faces
    persons: NDArray[np.integer[Any]]

    @cached_property
    def clear(self) -> Array:
        """The known faces' own means, sRGB. Shape ``(N, 3 · SIDE²)``."""
        return self.known.clear()

    @cached_property
    def basis(self) -> Array:
        """What pictures are compared by. Shape ``(3 · SIDE², components)``.

        Half-way to whitening: a face's fine structure has little contrast and tells as much as the rest.
        """
        found = principal(min(PICTURE_COMPONENTS, len(self.clear) // FACES_A_COMPONENT), self.clear).fit(self.clear)
        return np.asarray(found.components_.T / found.explained_variance_**0.25)


class Reader:
    """Regressions that were fitted to one camera.

    Args:
        camera: With its optics frozen.
        panel: Its known faces are fitted on.
    """

    def __init__(self, camera: Camera, panel: Panel) -> None:
        self.camera, self.basis = camera, panel.basis
        seen, known = panel.known.seen_by(camera, 1), panel.known
        few = min(COMPONENTS, len(seen) // FACES_A_COMPONENT)
        self.picture = make_pipeline(principal(few, seen, whiten=True), Ridge(alpha=1.0)).fit(seen, panel.clear)
        self.mean = panel.clear.mean(axis=0)
        features = self.features(seen)
        targets = np.concatenate([known.landmarks.flatten(1).numpy(), known.embeddings], axis=1)
        self.level = targets.mean(axis=0)
        width = 2 * np.square(features).sum(axis=1).mean()
        self.kernel = KernelRidge(alpha=RIDGE, kernel="rbf", gamma=1 / width).fit(features, targets - self.level)

    def features(self, seen: Array) -> NDArray[np.float64]:
        """Coordinates of the estimated pictures. Shape ``(B, components)``."""
        estimates = self.picture.predict(seen) - self.mean
        return np.asarray(estimates @ self.basis, dtype=np.float64)  # the kernel's matrix is nearly singular

    def read(self, faces: Faces, seed: int) -> tuple[Tensor, Array]:
        """Landmarks, normalised, ``(B, 68, 2)``, and embeddings ``(B, 128)`` of faces behind the camera."""
        values = self.kernel.predict(self.features(faces.seen_by(self.camera, seed))) + self.level
        return torch.from_numpy(values[:, :136]).float().unflatten(1, (68, 2)), values[:, 136:].astype(np.float32)


def principal(components: int, rows: Array, whiten: bool = False) -> PCA:
    """Principal components, by whichever of the two exact ways is quicker for so many rows."""
    return PCA(components, whiten=whiten, svd_solver="covariance_eigh" if len(rows) > rows.shape[1] else "full")


def gather_panel(data: Path, pairs: Path, out: Path, cache: Path | None, faces: int) -> Panel:
    """Faces of a prepared folder and the attacker's share of the persons in ``pairs``.

    Raises:
        InputError: Too few faces; see also :func:`load_faces` and :func:`gather`.
    """
    train, val = (load_faces(data, split, FRAME_SIZE) for split in ("train", "val"))
    if min(faces, len(train)) < FEWEST_FACES:
        raise InputError(
            f"{data}: {min(faces, len(train))} faces to fit on, needs {FEWEST_FACES}; prepare more or raise --faces"
        )
    chosen = np.sort(np.random.default_rng(0).permutation(len(train))[:faces])
    photographs, _, study = gather(Options(pairs, out, BUDGETS["full"], cache=cache), FRAME_SIZE)
    recogniser = to_channels_last(DlibResNet(), "cpu")
    return Panel(
        Faces.of(np.asarray(train.images[chosen]), train.landmarks[chosen], recogniser),
        Faces.of(np.asarray(val.images), val.landmarks, recogniser),
        Faces.of(study.attacker_scenes, study.landmarks(study.attacker), recogniser),
        photographs.persons[study.attacker],
    )


def read_out(camera: Camera, panel: Panel) -> dict[str, Any]:
    """Landmark error and AUC of another photograph, with its interval over persons, behind one camera."""
    reader = Reader(camera.frozen(FRAME_SIZE), panel)
    landmarks, _ = reader.read(panel.held_out, 2)
    _, embeddings = reader.read(panel.people, 3)
    mean = panel.known.embeddings.mean(axis=0)  # regression pulls towards it, and there lies no identity
    pairs = other_photographs(embeddings - mean, panel.people.embeddings - mean, panel.persons)
    found = verify(pairs, Thresholds(0.0, None))
    return {
        "landmark_error": float(normalised_mean_error(landmarks, panel.held_out.landmarks).mean()),
        "auc": found.auc._asdict(),
        "genuine_pairs": found.genuine_pairs,
        "impostor_pairs": found.impostor_pairs,
    }


def other_photographs(read: Array, clear: Array, persons: NDArray[np.integer[Any]]) -> Pairs:
    """What was read of each photograph against clear ones: all of the same person but itself, and some of others."""
    same = persons[:, None] == persons[None, :]
    genuine = np.argwhere(same & ~np.eye(len(persons), dtype=bool))
    impostor = np.argwhere(~same)
    impostor = impostor[np.random.default_rng(0).permutation(len(impostor))[:IMPOSTORS]]
    if not len(genuine):
        raise InputError("no person has two photographs; give more pairs")
    places = np.concatenate([genuine, impostor])
    directions = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (read, clear)]
    scores = similarity(directions[0][places[:, 0]], directions[1][places[:, 1]])
    return Pairs(scores, np.repeat([True, False], [len(genuine), len(impostor)]), persons[places])


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Identity over geometry, a point a camera."""
    figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
    by_error = sorted(found.items(), key=lambda entry: entry[1]["landmark_error"])
    for number, (name, figures) in enumerate(by_error):
        place = 100 * figures["landmark_error"], figures["auc"]["value"]
        axes.plot(*place, "o", color=COLOURS.get(figures["family"], "black"))
        side, away = ("left", 6) if number % 2 else ("right", -6)  # neighbours are named on different sides
        axes.annotate(name, place, (away, 0), textcoords="offset points", fontsize=7, ha=side, va="center")
    axes.set_xlabel("landmark error read, % of the distance of the eye centres")
    axes.set_ylabel("identity read: AUC, another photograph")
    axes.margins(x=0.15)
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cameras", nargs="+", metavar="CAMERA", help="name, camera file or YAML configuration")
    parser.add_argument("--data", type=Path, required=True, help="folder that 'phaseveil prepare' wrote")
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--faces", type=int, default=9000)
    arguments = parser.parse_args()
    found = {}
    try:
        cameras = {source: load_camera(source) for source in arguments.cameras}
        panel = gather_panel(arguments.data, arguments.pairs, arguments.out, arguments.cache, arguments.faces)
        for source, camera in cameras.items():
            name = Path(source).stem if len({Path(other).stem for other in cameras}) == len(cameras) else source
            with progress(name):
                found[name] = {"family": family_of(camera).name, **read_out(camera, panel)}
            error, auc = found[name]["landmark_error"], found[name]["auc"]
            print(f"{name}: landmark error {error:.2%}, AUC {auc['value']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]")
            write_json(arguments.out / "read_out.json", plain(found))
        draw(found, arguments.out / "read_out.svg")
    except PhaseVeilError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
