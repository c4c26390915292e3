"""Scenes are followed and pasted into; the coded camera's footage is read from one constant square."""

import numpy as np
import pytest
import torch
from clips import drawn_face, scene
from test_motion import points_of

from phaseveil import PhaseVeil
from phaseveil.apps.footage import AcquiredFootage, Region, Scenes, reach
from phaseveil.apps.tracking import Sighting
from phaseveil.data.align import template_points
from phaseveil.data.image_io import ImageArray, resize, to_tensor
from phaseveil.data.landmarks import VideoDetector, crop_box
from phaseveil.errors import ConfigError, InputError


def test_a_face_is_cut_out_and_put_back_in_its_place() -> None:
    footage = Scenes(VideoDetector(640), 64)
    frame = scene({1: (100, 80, 90)})
    points = points_of(100, 80, 90)
    cut = footage.cut_out(frame, Sighting(1, crop_box(points), points))
    assert np.abs(cut.face.numpy().transpose(1, 2, 0)[16:48, 16:48] * 255 - drawn_face(1, 64)[16:48, 16:48]).mean() < 9
    green = np.zeros((64, 64, 3), np.uint8)
    green[..., 1] = 255
    picture = footage.put(frame, green, cut.matrix)
    assert (picture[75:85, 95:105, 1] > 200).all()
    assert np.array_equal(picture[:, 160:], frame[:, 160:])
    assert footage.view(frame) is frame


@pytest.mark.parametrize("text", ["1,2", "a,b,c", "0,0,8", "-1,0,64", "1.5,0,64"])
def test_a_region_is_three_whole_numbers(text: str) -> None:
    with pytest.raises(ConfigError, match="need x,y,side in whole pixels"):
        Region.parse(text)


def test_the_coded_camera_shows_its_face_in_one_square() -> None:
    frame = scene({})
    assert Region.parse("40, 20,100") == Region(40, 20, 100)
    view = AcquiredFootage(32, Region(40, 20, 100)).view(frame)
    assert np.array_equal(view, frame[20:120, 40:140])
    with pytest.raises(InputError, match=r"not square \(240×160 px\); say where the face is with --region"):
        AcquiredFootage(32).view(frame)
    with pytest.raises(InputError, match="reaches beyond the frame of 240×160 px"):
        AcquiredFootage(32, Region(200, 0, 100)).view(frame)
    assert AcquiredFootage(32).view(view) is view


def test_an_acquisition_is_person_1_and_becomes_the_new_face() -> None:
    footage = AcquiredFootage(32)
    frame = drawn_face(1, 80)
    ((sighting,), _) = footage.follow([frame, frame], [0.0, 0.04])
    assert sighting.track == 1
    assert sighting.points is not None
    np.testing.assert_allclose(sighting.points, template_points(80))
    cut = footage.cut_out(frame, sighting)
    torch.testing.assert_close(cut.face, to_tensor(resize(frame, 32)))
    face = np.full((32, 32, 3), 77, np.uint8)
    assert np.array_equal(footage.put(frame, face, cut.matrix), np.full((80, 80, 3), 77, np.uint8))
    footage.restore(footage.state())
    footage.see(frame, 0.0)


def test_the_heatmap_network_tells_faces_from_other_things() -> None:
    pipeline = PhaseVeil.from_pretrained(dtype=torch.float32)
    footage = AcquiredFootage(pipeline.size)

    def shown(picture: ImageArray) -> bool:
        acquisition = pipeline.acquire(to_tensor(resize(picture, pipeline.size))[None], [0])
        return footage.shows(footage.draw(pipeline, acquisition, pipeline.latent_styles([0]), [0]))[0]

    assert all(shown(drawn_face(number, 128)) for number in (1, 2, 3, 4))
    assert not any(shown(scene({}, seed)[:, :160]) for seed in (0, 1, 2))
    assert not shown(np.full((128, 128, 3), 120, np.uint8))


@pytest.mark.parametrize("face", [20, 30])
def test_faces_of_the_smallest_size_are_found(face: int) -> None:
    frame = scene({3: (500, 300, face / 0.7)}, height=720, width=1280)
    (found,) = VideoDetector(reach(1280, face)).find(frame)
    assert found.centre == pytest.approx((500, 300), abs=4)


def test_the_search_is_as_fine_as_it_has_to_be() -> None:
    assert reach(1920, 20) == 1920
    assert reach(1920, 50) == 768
