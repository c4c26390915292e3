"""Speed of ``phaseveil anonymize`` from file to file, start-up apart.

    python -m bench.anonymize_speed --images 200

The input is the example crop, slightly changed for every file, so that nothing but the repository is needed.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from phaseveil.apps.anonymize import Batch, Options, latent_styles
from phaseveil.apps.sources import AlignedCrops, crop_detector
from phaseveil.data.image_io import read_image, write_png
from phaseveil.pipeline import PhaseVeil

EXAMPLE = Path(__file__).parent.parent / "examples" / "crops" / "astronaut.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=Options.batch_size)
    parser.add_argument("--weights", type=Path, help="folder of weights; the bundled ones by default")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    pipeline = PhaseVeil.from_pretrained(arguments.weights, device=arguments.device)
    source = AlignedCrops(crop_detector, pipeline.size)
    options = Options(seed=0, batch_size=arguments.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        inputs, out = Path(folder) / "in", Path(folder) / "out"
        write_variants(inputs, arguments.images)
        batch = Batch(pipeline, source, latent_styles(pipeline, None), options, out)
        summary = batch.run([inputs], lambda done, total: None, print)
    rate = summary.as_dict()["images_per_second"]
    print(f"{summary.done} crops of 256 px at {pipeline.size} px: {rate} images/s, {torch.get_num_threads()} threads")


def write_variants(folder: Path, count: int) -> None:
    """Write the example crop ``count`` times with a little noise."""
    noise = np.random.default_rng(0)
    crop = read_image(EXAMPLE).astype(int)
    for number in range(count):
        changed = crop + noise.integers(-8, 9, crop.shape)
        write_png(folder / f"{number:04}.png", changed.clip(0, 255).astype(np.uint8))


if __name__ == "__main__":
    main()
