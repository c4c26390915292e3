"""Pictures of a run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from phaseveil.optics.camera import load_camera
from phaseveil.training.pictures import heatmap_pictures, save_grid, save_optics_figure


def test_a_grid_has_a_row_per_batch(tmp_path: Path) -> None:
    save_grid(tmp_path / "grid.png", [torch.zeros(3, 3, 8, 8), torch.ones(3, 3, 8, 8) * 2])
    pixels = np.asarray(Image.open(tmp_path / "grid.png"))
    assert pixels.shape == (16, 24, 3)
    assert np.all(pixels[:8] == 0)
    assert np.all(pixels[8:] == 255)


def test_heatmaps_become_coloured_pictures() -> None:
    heatmap = torch.zeros(2, 5, 8, 8)
    heatmap[1, 2] = 1
    pictures = heatmap_pictures(heatmap, 16)
    assert pictures.shape == (2, 3, 16, 16)
    assert pictures[0].abs().max() == 0
    assert pictures[1].max() > 0.5
    assert pictures[1].std(dim=(1, 2)).max() < 1e-6


@pytest.mark.parametrize("camera", ["small_camera", "gaussian"])
def test_the_optics_figure_is_drawn(tmp_path: Path, camera: str, small_camera: Path) -> None:
    save_optics_figure(tmp_path / "optics.png", load_camera(small_camera if camera == "small_camera" else camera), 32)
    with Image.open(tmp_path / "optics.png") as picture:
        assert picture.width > 2 * picture.height
