"""Prepared faces in memory, from a tiny synthetic folder."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from phaseveil.data.datasets import load_faces
from phaseveil.errors import InputError

SIZE = 48


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five training faces of two domains, one held-out face; each image has one colour, which tells them apart."""
    lines = []
    for number, domain in enumerate(["male", "female", "female", "male", "female", "female"]):
        split = "val" if number == 5 else "train"
        file = f"images/{split}/{domain}/{number}.png"
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIZE, SIZE), (40 * number, 10, 255 - 40 * number)).save(tmp_path / file)
        landmarks = [[number + 0.5, point / 2] for point in range(68)]
        record = {"file": file, "split": split, "domain": domain, "landmarks": landmarks, "size": SIZE}
        lines.append(json.dumps(record))
    (tmp_path / "index.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_split_is_read_with_its_landmarks_and_domains(root: Path) -> None:
    faces = load_faces(root, "train", 16)
    assert len(faces) == 5
    assert faces.names == sorted(faces.names)
    assert faces.domains.tolist() == [0, 0, 0, 1, 1]  # female first, by name
    batch = faces.batch(range(5))
    assert batch.image.shape == (5, 3, 16, 16)
    assert batch.image.dtype == torch.float32
    for face, name in enumerate(faces.names):
        number = int(Path(name).stem)
        torch.testing.assert_close(batch.image[face, :, 3, 5], torch.tensor([40 * number, 10, 255 - 40 * number]) / 255)
        # Pixel centres of the stored image: u = (x + 0.5) / W.
        assert batch.landmarks[face, 10, 0].item() == pytest.approx((number + 1.0) / SIZE)
        assert batch.landmarks[face, 10, 1].item() == pytest.approx(5.5 / SIZE)


def test_images_come_at_the_size_asked_for(root: Path) -> None:
    assert load_faces(root, "train", SIZE).images.shape == (5, SIZE, SIZE, 3)
    assert load_faces(root, "train", 8).images.shape == (5, 8, 8, 3)


def test_faces_whose_eyes_lie_elsewhere_are_not_drawn(root: Path) -> None:
    """They lie 0, 1, 2, 3 and 4 px to the right, and are 3 px apart."""
    faces = load_faces(root, "train", 16)
    assert faces.eyes_within(0.0) is faces
    near = faces.eyes_within(0.5)
    assert len(near) == 5
    assert [Path(near.names[place]).stem for place in near.drawable] == ["1", "2", "3"]
    drawn = near.draw(200, seeded())
    shifts = (drawn.landmarks[:, 0, 0] * SIZE - 1).round().unique().tolist()
    assert shifts == [1, 2, 3]
    with pytest.raises(InputError, match="eyes_within=0"):
        faces.eyes_within(0.1)  # of the women one is left, of the men none


def test_the_second_start_reads_the_cache(root: Path) -> None:
    first = load_faces(root, "train", 16)
    for file in (root / "images" / "train").rglob("*.png"):
        file.unlink()  # no longer needed
    second = load_faces(root, "train", 16)
    np.testing.assert_array_equal(first.images, second.images)


def test_a_newer_index_makes_a_new_cache(root: Path) -> None:
    load_faces(root, "train", 16)
    Image.new("RGB", (SIZE, SIZE), (1, 2, 3)).save(root / "images" / "train" / "female" / "1.png")
    later = (root / "cache" / "train-16.npy").stat().st_mtime + 10
    os.utime(root / "index.jsonl", (later, later))
    assert load_faces(root, "train", 16).images[0, 0, 0].tolist() == [1, 2, 3]


def test_batches_depend_on_the_generator_alone(root: Path) -> None:
    faces = load_faces(root, "train", 16)
    first, again, other = (faces.draw(8, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.domain, again.domain)
    assert not torch.equal(first.image, other.image)


def test_domains_are_drawn_equally_often(root: Path) -> None:
    drawn = load_faces(root, "train", 8).draw(400, seeded())
    assert 160 < drawn.domain.sum().item() < 240
    assert len(drawn.image[:, 0, 0, 0].unique()) == 5  # and every face comes up


def test_faces_of_wanted_domains(root: Path) -> None:
    wanted = torch.tensor([1, 0, 0, 1, 1])
    assert torch.equal(load_faces(root, "train", 8).draw_of(wanted, seeded()).domain, wanted)


def test_a_split_without_a_domain_is_refused(root: Path) -> None:
    with pytest.raises(InputError, match="split 'val' has no face of domain male"):
        load_faces(root, "val", 16)
    with pytest.raises(InputError, match="split 'test' has no face of domain female, male"):
        load_faces(root, "test", 16)


def test_a_folder_that_is_not_prepared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no index.jsonl; run 'phaseveil prepare SOURCE"):
        load_faces(tmp_path, "train", 16)


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    (tmp_path / "index.jsonl").write_text('{"file": "images/tra')
    with pytest.raises(InputError, match="damaged"):
        load_faces(tmp_path, "train", 32)
