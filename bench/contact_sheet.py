"""The contact sheet of 64 new faces: held-out sources at random, a latent style each.

python -m bench.contact_sheet val --out docs/images/faces-64.jpg
"""

import argparse
import random
from pathlib import Path

import torch
from PIL import Image

from phaseveil.data.image_io import list_images, read_image, resize, to_array, to_tensor
from phaseveil.pipeline import STRENGTH, PhaseVeil

SIDE = 8  # faces across and down
FIRST_SEED, SHUFFLE = 100, 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", type=Path, help="folder of aligned crops, at least 64")
    parser.add_argument("--out", type=Path, required=True, help="picture to write; the suffix chooses the format")
    parser.add_argument("--weights", type=Path, help="folder of weights; the bundled ones by default")
    parser.add_argument("--strength", type=float, default=STRENGTH, help="of the styles")
    arguments = parser.parse_args()

    pipeline = PhaseVeil.from_pretrained(arguments.weights)
    files = sorted(list_images([arguments.sources]))
    if len(files) < SIDE**2:
        parser.error(f"{arguments.sources}: {len(files)} pictures, needs {SIDE**2}")
    random.Random(SHUFFLE).shuffle(files)
    scenes = torch.stack([to_tensor(resize(read_image(file), pipeline.size)) for file in files[: SIDE**2]])
    seeds = range(FIRST_SEED, FIRST_SEED + len(scenes))
    faces = pipeline.generate(scenes, pipeline.latent_styles(seeds, strength=arguments.strength), seeds).face
    rows = [torch.cat(list(row), dim=-1) for row in faces.split(SIDE)]
    Image.fromarray(to_array(torch.cat(rows, dim=-2))).save(arguments.out, quality=88)


if __name__ == "__main__":
    main()
