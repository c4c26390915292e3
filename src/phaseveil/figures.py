"""Pictures that people look at: coloured heatmaps and contact sheets."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# One colour per heatmap channel: jaw, brows, nose, eyes, mouth.
CHANNEL_COLOURS = np.array(
    [[89, 140, 255], [255, 191, 51], [102, 230, 102], [77, 230, 242], [255, 89, 115]], dtype=np.float32
)
PAPER, INK = (255, 255, 255), (40, 40, 40)


def colour_heatmap(heatmap: np.ndarray) -> np.ndarray:
    """Show the channels of a landmark heatmap as one picture, a colour each on black.

    Args:
        heatmap: Values 0 to 1. Shape ``(K, H, W)``, K at most 5.

    Returns:
        RGB, uint8. Shape ``(H, W, 3)``.
    """
    picture = (np.clip(heatmap, 0, 1)[..., None] * CHANNEL_COLOURS[: len(heatmap), None, None]).max(axis=0)
    return np.rint(picture).astype(np.uint8)


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]], headings: Sequence[str], captions: Sequence[str], cell: int = 192
) -> np.ndarray:
    """Lay out pictures as a table with a heading over each column and a caption under each row.

    Args:
        rows: Pictures, uint8 RGB, each row as long as ``headings``; squares are shown at ``cell`` pixels.
        headings: One a column.
        captions: One a row.
        cell: Side of a picture on the sheet, pixels.

    Returns:
        RGB, uint8. Shape ``(H, W, 3)``.
    """
    gap, line = max(4, cell // 24), max(12, cell // 10)
    font = ImageFont.load_default(size=line)
    width = gap + len(headings) * (cell + gap)
    row_height = cell + 2 * line
    sheet = Image.new("RGB", (width, gap + 2 * line + len(rows) * row_height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings):
        draw.text((gap + column * (cell + gap), gap), heading, fill=INK, font=font)
    for index, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        top = gap + 2 * line + index * row_height
        for column, picture in enumerate(row):
            tile = Image.fromarray(picture).resize((cell, cell), Image.Resampling.LANCZOS)
            sheet.paste(tile, (gap + column * (cell + gap), top))
        draw.text((gap, top + cell + line // 4), _fit(caption, draw, font, width - 2 * gap), fill=INK, font=font)
    return np.asarray(sheet)


def _fit(text: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Shorten a text from its front until it is at most ``width`` pixels long."""
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength("…" + text, font=font) > width:
        text = text[1:]
    return "…" + text
