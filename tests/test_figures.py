import numpy as np

from phaseveil.figures import CHANNEL_COLOURS, colour_heatmap, contact_sheet


def test_each_channel_has_its_colour() -> None:
    heatmap = np.zeros((5, 4, 6), dtype=np.float32)
    heatmap[2, 1, 3] = 1.0
    picture = colour_heatmap(heatmap)
    assert picture.shape == (4, 6, 3)
    assert picture[1, 3].tolist() == CHANNEL_COLOURS[2].tolist()
    assert picture.sum() == CHANNEL_COLOURS[2].sum()


def test_a_sheet_holds_every_picture_in_its_cell() -> None:
    colours = [[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 0, 255)]]
    rows = [[np.full((20, 20, 3), colour, dtype=np.uint8) for colour in row] for row in colours]
    sheet = contact_sheet(
        rows, ["left", "right"], ["one", "a caption that is far too long for so narrow a sheet " * 3], cell=48
    )
    for row in colours:
        for colour in row:
            assert (sheet == colour).all(axis=-1).sum() >= 44 * 44
    assert (sheet[:, -1] == 255).all()
