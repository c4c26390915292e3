"""Measures what the project promises: geometry, hidden identity, the new faces, speed.

    python -m bench.quality landmarks identity faces speed --prepared DIR --lfw DIR --perceptual FILE --out quality.json

Each part runs alone too, and on a random subset (--limit). Prints a table. What is computed from clear photographs is
kept in --cache.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench.lfw import BATCH, FMR, batches, cached, load_photographs, recogniser
from torch import Tensor

from phaseveil.data.datasets import DOMAINS, FaceDataset, load_faces
from phaseveil.data.heatmaps import GROUPS, draw_heatmaps, normalised_mean_error
from phaseveil.data.image_io import ImageArray, resize, to_array, to_tensor
from phaseveil.data.landmarks import DlibDetector, LandmarkPredictor, MTCNNDetector
from phaseveil.errors import PhaseVeilError
from phaseveil.losses.perceptual import LPIPS
from phaseveil.metrics.detection import FRAME, detection_score, find_faces, read_by_points, read_by_predictor
from phaseveil.metrics.identity import Floats, Integers, Pairs, rank_one, rank_one_by_chance, similarity, verify
from phaseveil.models.heatmap import HeatmapNet, load_heatmap_net
from phaseveil.optics.camera import Camera, load_camera
from phaseveil.pipeline import PhaseVeil
from phaseveil.progress import progress

IMPOSTORS = 20  # other sources that each new face is compared with
SPEED_IMAGES = 200
Report = dict[str, Any]


def measure_landmarks(args: argparse.Namespace) -> Report:
    """Error of the 68 points read from val's acquisitions, and whether the heatmaps follow the face."""
    faces = load_faces(args.prepared, "val", args.size)
    network, camera = heatmap_net_of(args), camera_of(args)
    clear_network = load_heatmap_net(args.clear_heatmap).to(args.device) if args.clear_heatmap else network
    noise = torch.Generator(args.device).manual_seed(args.seed)
    chosen = subset(len(faces), args)
    target, found, clear, heatmaps = [], [], [], []
    with progress("landmarks") as report, torch.inference_mode():
        for batch in map(faces.batch, batches(chosen)):
            image = batch.image.to(args.device)
            output = network(camera(image, noise))
            target.append(batch.landmarks)
            found.append(output.landmarks.cpu())
            clear.append(clear_network(image).landmarks.cpu())
            heatmaps.append(output.heatmap.cpu())
            report(sum(map(len, target)), len(chosen))
    truth, predicted = torch.cat(target), torch.cat(heatmaps)
    error, clear_error = landmark_errors(torch.cat(found), truth), landmark_errors(torch.cat(clear), truth)
    teacher = draw_heatmaps(truth, predicted.shape[-1])
    spread, wanted = (maps.var(dim=0).mean(dim=(1, 2)) for maps in (predicted, teacher))
    return {
        "faces": len(truth),
        "acquisition": error,
        "clear": clear_error,
        "clear network": str(args.clear_heatmap or "the same"),
        "acquisition / clear": error["over eye centres"] / clear_error["over eye centres"],
        "mean face": landmark_errors(mean_face(args.prepared).expand_as(truth), truth),
        "heatmap variance over faces": dict(zip(GROUPS, spread.tolist(), strict=True)),
        "heatmap variance / teacher's": dict(zip(GROUPS, (spread / wanted).tolist(), strict=True)),
    }


def measure_identity(args: argparse.Namespace) -> Report:
    """Acquisitions against clear photographs: another one of the person (the risk), and the same one (worst case)."""
    photographs = load_photographs(args.lfw, args.cache)
    kept = np.arange(len(photographs.pairs))
    if args.limit is not None:
        probes = np.unique(photographs.pairs[photographs.same, 0])
        kept = np.flatnonzero(np.isin(photographs.pairs[:, 0], probes[subset(len(probes), args)]))
    firsts = np.unique(photographs.pairs[kept, 0])
    camera, noise = camera_of(args), torch.Generator(args.device).manual_seed(args.seed)
    acquired = np.zeros_like(photographs.embeddings)
    with progress("identity") as report:
        for done, places in enumerate(batches(firsts)):
            seen = acquire(camera, [photographs.crop(place) for place in places], args.size, noise)
            acquired[places] = recogniser().embed(seen, photographs.landmarks[places])
            report(min(BATCH * (done + 1), len(firsts)), len(firsts))
    threshold = photographs.threshold
    other = photographs.score(acquired, kept)
    itself = similarity(acquired[firsts], photographs.embeddings[firsts])
    same = with_genuine(other, itself, photographs.persons[firsts])
    people, place = np.unique(photographs.persons[firsts], return_index=True)
    gallery = firsts[place]
    return {
        "clear against clear": asdict(verify(photographs.score(photographs.embeddings, kept), threshold, FMR)),
        "another photograph": asdict(verify(other, threshold, FMR)),
        "same photograph": asdict(verify(same, threshold, FMR)),
        "same photograph, rank-1": rank_one(acquired[gallery], photographs.embeddings[gallery], people, people),
        "rank-1 by chance": rank_one_by_chance(people, people),
        "rank-1 gallery": len(people),
    }


def measure_faces(args: argparse.Namespace) -> Report:
    """New faces of val: geometry kept (FD, BB, LM), identity gone, and how much two seeds of one source differ."""
    pipeline = pipeline_of(args)
    sources = load_faces(args.prepared, "val", FRAME)
    chosen = subset(len(sources), args)
    landmarks = (sources.landmarks[chosen].numpy() * FRAME - 0.5).astype(np.float64)
    first: list[ImageArray] = []
    distances: list[Tensor] = []
    lpips = LPIPS(args.perceptual)
    with progress("faces") as report:
        for places in batches(chosen):
            one, other = (draw(pipeline, sources, places, args.seed + take) for take in (0, 1))
            with torch.inference_mode():
                distances.append(lpips(one, other))
            first += [resize(to_array(face), FRAME) for face in one]
            report(len(first), len(chosen))
    originals = [sources.images[place] for place in chosen]
    return {
        "pairs": len(chosen),
        **{name: asdict(score) for name, score in geometry(originals, first).items()},
        **identity_of_faces(args, [sources.names[place] for place in chosen], originals, landmarks, first),
        "LPIPS-AlexNet between two seeds of one source, same domain": float(torch.cat(distances).mean()),
        "LPIPS-AlexNet, tenth percentile": float(torch.cat(distances).quantile(0.1)),
    }


def measure_speed(args: argparse.Namespace) -> Report:
    """Images a second of camera, heatmap network and generator together, files and start-up apart."""
    pipeline = pipeline_of(args)
    faces = load_faces(args.prepared, "val", pipeline.size)
    images = faces.batch(subset(min(len(faces), SPEED_IMAGES), args)).image
    seeds = list(range(len(images)))
    styles = pipeline.latent_styles(seeds)
    pipeline.generate(images[: args.batch_size], styles[: args.batch_size], seeds[: args.batch_size])
    started = time.perf_counter()
    for start in range(0, len(images), args.batch_size):
        part = slice(start, start + args.batch_size)
        pipeline.generate(images[part], styles[part], seeds[part])
    elapsed = time.perf_counter() - started
    return {"images": len(images), "images a second": len(images) / elapsed, "threads": torch.get_num_threads()}


def landmark_errors(predicted: Tensor, target: Tensor) -> Report:
    """Mean error of the 68 points by both usual norms; the project's target is by the eye centres."""
    corners = (target[:, 36] - target[:, 45]).norm(dim=-1)
    return {
        "over eye centres": float(normalised_mean_error(predicted, target).mean()),
        "over outer eye corners": float(((predicted - target).norm(dim=-1).mean(dim=-1) / corners).mean()),
    }


def mean_face(prepared: Path) -> Tensor:
    """Mean landmarks of the training split, normalised to [0, 1]. Shape ``(68, 2)``."""
    records = map(json.loads, (prepared / "index.jsonl").read_text().splitlines())
    points = [(np.array(r["landmarks"]) + 0.5) / r.get("size", FRAME) for r in records if r["split"] == "train"]
    return torch.from_numpy(np.mean(points, axis=0)).float()


def acquire(camera: Camera, crops: list[ImageArray], size: int, noise: torch.Generator) -> list[ImageArray]:
    """What the camera makes of 256-px crops, brought to that frame again."""
    scene = torch.stack([to_tensor(resize(crop, size)) for crop in crops]).to(noise.device)
    with torch.inference_mode():
        return [resize(to_array(image), FRAME) for image in camera(scene, noise)]


def with_genuine(pairs: Pairs, scores: Floats, persons: Integers) -> Pairs:
    """The impostor pairs of ``pairs`` beside other genuine ones, of these persons with themselves."""
    return Pairs(
        np.concatenate([scores, pairs.impostor]),
        np.repeat([True, False], [len(scores), len(pairs.impostor)]),
        np.concatenate([np.stack([persons, persons], axis=1), pairs.identities[~pairs.same]]),
    )


def draw(pipeline: PhaseVeil, sources: FaceDataset, places: Integers, seed: int) -> Tensor:
    """New faces of sources; the seed changes the style alone, the domains take turns. Shape ``(B, 3, S, S)``."""
    scenes = torch.stack([to_tensor(resize(sources.images[place], pipeline.size)) for place in places])
    # Seeds of different takes must not meet: the same number gives the same face.
    styles = [pipeline.latent_styles([seed * len(sources) + p], DOMAINS[p % len(DOMAINS)]) for p in places.tolist()]
    return pipeline.generate(scenes, torch.cat(styles), places.tolist()).face


def geometry(sources: list[ImageArray], generated: list[ImageArray]) -> Report:
    """FD, BB and LM by MTCNN and by dlib."""
    readers = {
        "MTCNN": read_by_points(MTCNNDetector()),
        "dlib": read_by_predictor(DlibDetector(), LandmarkPredictor().predict),
    }
    return {
        name: detection_score(find_faces(sources, reader), find_faces(generated, reader))
        for name, reader in readers.items()
    }


def identity_of_faces(
    args: argparse.Namespace,
    names: list[str],
    sources: list[ImageArray],
    landmarks: Floats,
    generated: list[ImageArray],
) -> Report:
    """Generated faces against their sources, aligned with the sources' landmarks; each source file is one identity."""
    threshold = load_photographs(args.lfw, args.cache).threshold
    clean = cached(
        args.cache / f"val-{len(names)}-{args.seed}.json",
        names,
        lambda place: recogniser().embed([sources[place]], landmarks[place][None])[0],
    )
    new = recogniser().embed(generated, landmarks)
    generator, count = np.random.default_rng(args.seed), len(names)
    others = np.stack([(np.arange(count) + step) % count for step in generator.permutation(count - 1)[:IMPOSTORS] + 1])
    matched = np.concatenate([np.arange(count)[None], others])
    scores = similarity(new[None], clean[matched])
    identities = np.stack([np.broadcast_to(np.arange(count), matched.shape), matched], axis=-1)
    same = identities[..., 0] == identities[..., 1]
    pairs = Pairs(scores.ravel(), same.ravel(), identities.reshape(-1, 2))
    places = np.arange(count)
    return {
        "generated against source": asdict(verify(pairs, threshold, FMR)),
        "generated against source, rank-1": rank_one(new, clean, places, places),
        "rank-1 by chance": rank_one_by_chance(places, places),
        "rank-1 gallery": count,
    }


def camera_of(args: argparse.Namespace) -> Camera:
    fallback = "learned" if args.weights is None else args.weights / "camera.safetensors"
    return load_camera(args.camera or fallback).frozen(args.size).eval().to(args.device)


def heatmap_net_of(args: argparse.Namespace) -> HeatmapNet:
    return load_heatmap_net(None if args.weights is None else args.weights / "heatmap.safetensors").to(args.device)


def pipeline_of(args: argparse.Namespace) -> PhaseVeil:
    return PhaseVeil.from_pretrained(args.weights, camera=args.camera, device=args.device)


def subset(count: int, args: argparse.Namespace) -> Integers:
    """Places of a random subset of ``--limit``, or all. Sorted."""
    order = np.random.default_rng(args.seed).permutation(count)
    return np.sort(order[: args.limit])


PARTS = {
    "landmarks": measure_landmarks,
    "identity": measure_identity,
    "faces": measure_faces,
    "speed": measure_speed,
}
NEEDED = {"prepared": {"landmarks", "faces", "speed"}, "lfw": {"identity", "faces"}, "perceptual": {"faces"}}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=list(PARTS), help="what to measure")
    parser.add_argument(
        "--prepared", type=Path, help="folder that 'phaseveil prepare' wrote, with splits train and val"
    )
    parser.add_argument("--lfw", type=Path, help="folder of photographs by identity, with pairs.csv")
    parser.add_argument("--perceptual", type=Path, help="LPIPS-AlexNet weights (safetensors)")
    parser.add_argument("--weights", type=Path, help="folder of weights; the bundled ones by default")
    parser.add_argument("--camera", help="name or file; the camera among the weights by default")
    parser.add_argument("--clear-heatmap", type=Path, help="heatmap network trained on clear images, to compare with")
    parser.add_argument(
        "--size", type=int, default=128, help="side of the camera's frames, pixels (landmarks, identity)"
    )
    parser.add_argument("--limit", type=int, help="random subset of so many images (identity needs about 250)")
    parser.add_argument("--batch-size", type=int, default=16, help="images at a time (speed)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache", type=Path, default=Path("out/quality-cache"))
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    for option, parts in NEEDED.items():
        if getattr(args, option) is None and parts & set(args.parts):
            parser.error(f"--{option} is needed for {', '.join(sorted(parts & set(args.parts)))}")
    return args


def rows(report: Report, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and printed values of a nested report."""
    for name, value in report.items():
        if isinstance(value, dict):
            yield from rows(value, f"{prefix}{name}: ")
        elif isinstance(value, tuple):
            yield f"{prefix}{name}", "{:.4f}  [{:.4f}, {:.4f}]".format(*value)
        else:
            yield f"{prefix}{name}", f"{value:.4f}" if isinstance(value, float) else str(value)


def without_nan(value: Any) -> Any:
    """The same report with ``null`` where there is no number, as JSON wants it."""
    if isinstance(value, dict):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def main() -> int:
    args = parse_arguments()
    report: Report = {"arguments": {name: str(value) for name, value in vars(args).items()}}
    try:
        for part in args.parts:
            started = time.perf_counter()
            report[part] = PARTS[part](args)
            report[part]["seconds"] = time.perf_counter() - started
            for name, value in rows(report[part], f"{part}: "):
                print(f"{name:<76}{value}", flush=True)
    except PhaseVeilError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(without_nan(report), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
