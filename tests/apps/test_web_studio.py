"""What the web page does, without the page."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from phaseveil import PhaseVeil
from phaseveil.apps import web_studio
from phaseveil.apps.web_studio import VISITS, Controls, Studio, Visit, Visits, exact_psf, has_mask, scaled_mask
from phaseveil.data.image_io import write_png
from phaseveil.errors import ConfigError, InputError
from phaseveil.optics.camera import GaussianCamera, PhaseMaskCamera, build_camera, load_camera, save_camera
from phaseveil.optics.dynamic import dynamic_from
from phaseveil.pipeline import noise_generator


@pytest.fixture(scope="module")
def studio(tiny_weights: Path) -> Studio:
    return Studio(PhaseVeil.from_pretrained(tiny_weights, dtype=torch.float32))


@pytest.fixture(scope="module")
def photograph(astronaut: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_png(tmp_path_factory.mktemp("photograph") / "secret-name.png", astronaut)


@pytest.fixture(scope="module")
def visit(studio: Studio, photograph: Path) -> Visit:
    return studio.take(photograph)


@pytest.fixture(scope="module")
def masked(small_camera: Path) -> PhaseMaskCamera:
    camera = load_camera(small_camera)
    assert isinstance(camera, PhaseMaskCamera)
    camera.coefficients.data.normal_(0, 2e-7, generator=torch.Generator().manual_seed(0))
    return camera


def test_a_photograph_is_searched_and_every_face_replaced(studio: Studio, visit: Visit, astronaut: np.ndarray) -> None:
    drawn = studio.draw(visit, Controls(seed=3))
    assert np.array_equal(visit.photograph, astronaut)
    assert drawn.faces == 1
    assert [part.shape for part in drawn[:4]] == [(32, 32, 3), (32, 32, 3), (16, 16, 3), (32, 32, 3)]
    changed = (drawn.photograph != astronaut).any(axis=2)
    assert changed[60:180, 150:300].mean() > 0.3
    assert not changed[300:].any()


def test_the_seed_decides_and_every_control_matters(studio: Studio, visit: Visit) -> None:
    plain = studio.draw(visit, Controls(seed=3, domain="female"))
    assert np.array_equal(plain.photograph, studio.draw(visit, Controls(seed=3, domain="female")).photograph)
    others = (
        Controls(seed=4, domain="female"),
        Controls(seed=3, domain="male"),
        Controls(seed=3, domain="female", strength=0.2),
        Controls(seed=3, domain="female", erase_shape=20),
        Controls(seed=3, domain="female", camera="identity"),
    )
    for controls in others:
        assert not np.array_equal(plain.face, studio.draw(visit, controls).face)


def test_each_face_of_a_photograph_has_its_own_seed(studio: Studio, visit: Visit) -> None:
    task = visit.task
    twice = Visit(visit.photograph, type(task)(task.job, task.faces.repeat(2, 1, 1, 1), lambda new: new[1], 0.0, 1))
    drawn = studio.draw(twice, Controls(seed=2**32 - 1))
    assert drawn.faces == 2
    assert not np.array_equal(drawn.photograph, drawn.face)
    assert np.abs(drawn.photograph - studio.draw(visit, Controls(seed=2**32 - 2)).face.astype(int)).max() <= 1


def test_what_cannot_be_used_is_told_without_the_files_name(
    studio: Studio, photograph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grey = write_png(tmp_path / "grey.png", np.full((120, 160, 3), 128, np.uint8))
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"no picture")
    cases = [(grey, "no face found"), (damaged, "not an image"), (tmp_path / "gone.png", "no such file")]
    for path, reason in cases:
        with pytest.raises(InputError, match=f"^{reason}"):
            studio.take(path)
    monkeypatch.setattr(web_studio, "MAX_PIXELS", 512 * 512 - 1)
    with pytest.raises(InputError, match=r"^512×512 px is too large"):
        studio.take(photograph)
    monkeypatch.setattr(web_studio, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match=r"^the file is too large"):
        studio.take(photograph)


@pytest.mark.parametrize(("side", "message"), [(10_000, "^10000×10000 px is"), (16_000, "^the image is")])
def test_a_bomb_is_refused_before_it_is_decoded(studio: Studio, tmp_path: Path, side: int, message: str) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (side, side)).save(path)
    assert path.stat().st_size < 100_000
    with pytest.raises(InputError, match=f"{message} too large"):
        studio.take(path)


def test_the_attack_comes_closer_to_the_source(studio: Studio, visit: Visit) -> None:
    attacked = studio.attack(visit, Controls())
    assert attacked.gain[1] > attacked.gain[0] + 1
    distance = [
        np.abs(attacked.source.astype(float) - part).mean() for part in (attacked.acquisition, attacked.recovered)
    ]
    assert distance[1] < distance[0]
    drawn = studio.draw(visit, Controls())
    assert np.array_equal(attacked.acquisition, drawn.acquisition)


def test_a_masks_height_is_scaled_and_nothing_else(masked: PhaseMaskCamera) -> None:
    half = scaled_mask(masked, 0.5)
    assert isinstance(half, PhaseMaskCamera)
    torch.testing.assert_close(half.height_map(), masked.height_map() / 2)
    assert has_mask(half)
    flat = scaled_mask(masked, 0.0)
    assert not has_mask(flat)
    torch.testing.assert_close(flat.psf(32), build_camera(masked.config).psf(32))
    gaussian = load_camera("gaussian")
    assert isinstance(gaussian, GaussianCamera)
    assert not has_mask(gaussian)
    torch.testing.assert_close(scaled_mask(gaussian, 0.0).psf(32), gaussian.psf(32))


def test_a_familys_members_are_scaled_together(masked: PhaseMaskCamera) -> None:
    family = dynamic_from(masked, 2, 1e-7, torch.Generator().manual_seed(1))
    half = scaled_mask(family, 0.5)
    torch.testing.assert_close(half.directions, family.directions / 2)
    torch.testing.assert_close(half.coefficients, family.coefficients / 2)


def test_the_exact_psf_of_a_family_is_that_of_the_exposure(masked: PhaseMaskCamera) -> None:
    family = dynamic_from(masked, 2, 1e-7, torch.Generator().manual_seed(1))
    scene = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    noise = noise_generator(7)
    family.draw(1, noise)  # the sensor's noise comes after it
    with torch.no_grad():
        through = family.through(scene, exact_psf(family, 32, 7)[None], noise)
        torch.testing.assert_close(through, family(scene, noise_generator(7)))
    assert not torch.equal(exact_psf(family, 32, 7), exact_psf(family, 32, 8))
    torch.testing.assert_close(exact_psf(masked, 32, 7), masked.psf(32).detach())


def test_the_chosen_camera_has_the_chosen_height(
    studio: Studio, masked: PhaseMaskCamera, small_camera: Path, tmp_path: Path
) -> None:
    assert not studio.has_mask("own")
    assert not studio.has_mask(str(small_camera))
    file = str(save_camera(tmp_path / "masked.safetensors", masked))
    assert studio.has_mask(file)
    half = studio.camera(Controls(camera=file, mask_height=0.5))
    assert isinstance(half, PhaseMaskCamera)
    torch.testing.assert_close(half.height_map(), masked.height_map() / 2)
    with pytest.raises(ConfigError, match="telescope"):
        studio.has_mask("telescope")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": -1}, "seed must lie between 0"),
        ({"seed": 2**32}, "seed must"),
        ({"mask_height": 1.1}, "mask's height"),
    ],
)
def test_impossible_controls_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Controls(**values)  # type: ignore[arg-type]


def test_few_photographs_are_held_and_closed_pages_forgotten(visit: Visit) -> None:
    visits = Visits()
    for number in range(VISITS + 1):
        visits.put(str(number), visit)
        assert visits.get("0") is visit  # looked at: stays
    assert len(visits) == VISITS
    assert visits.get("1") is None
    visits.drop("0")
    visits.drop("0")
    assert visits.get("0") is None


def test_the_upload_itself_is_left_to_who_made_it(studio: Studio, photograph: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copy(photograph, tmp_path))
    studio.take(copied)
    assert copied.is_file()
