"""A contact sheet: some images beside their masks, with the class legend, to see at a glance what was read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from perpixel.data.dataset import Dataset
from perpixel.data.formats.layout import SPLITS
from perpixel.data.sample import Sample
from perpixel.errors import InputError
from perpixel.files import atomic
from perpixel.images import resize_image, to_display
from perpixel.labels import draw_planes, overlay, resize_label_map

MARGIN, GAP, PAIR_GAP = 36, 22, 4
TITLE_HEIGHT, CAPTION_HEIGHT, LEGEND_ROW = 74, 26, 30
SHEET_WIDTH = 1840
PAPER, INK, SOFT, LINE = (250, 250, 248), (32, 34, 38), (112, 116, 122), (224, 224, 220)
SPLIT_INKS = {"train": (38, 98, 170), "val": (176, 96, 16), "test": (46, 125, 72)}
TALLEST = 300  # of one picture, in pixels
DARK = 128  # an 8-bit image with hardly a pixel above this is stretched
NAME_WIDTH = 330


@dataclass(frozen=True)
class Tile:
    """One picture pair, drawn, or the reason why it could not be; `is_stacked` = one below the other."""

    sample: Sample
    split: str
    image: np.ndarray | None
    painted: np.ndarray | None
    classes: frozenset[int]
    error: str = ""
    is_stacked: bool = False


def overlay_sheet(dataset: Dataset, path_png: str | Path, *, seed: int = 0, count: int = 12) -> Path:
    """Draw up to `count` labelled samples, spread over the splits, image left and mask over image right.

    Of volumes three planes are shown, and below them the same with the label map.

    Unreadable samples show their error. The legend lists the classes; those in the pictures come in full ink.

    Raises:
        InputError: no labelled sample, or the file cannot be written.
    """
    chosen = choose_samples(dataset, seed, count)
    if not chosen:
        raise InputError(f"{dataset.root}: no labelled images to show: add masks")
    columns = 2 if len(chosen) <= 4 else 3
    width = (SHEET_WIDTH - 2 * MARGIN - (columns - 1) * GAP) // columns
    box = ((width - PAIR_GAP) // 2, TALLEST)
    tiles = [draw_tile(dataset, split, sample, box) for split, sample in chosen]
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(_tile_height(tile, box) for tile in row) for row in rows]
    legend = _legend_rows(dataset, {index for tile in tiles for index in tile.classes})
    total = TITLE_HEIGHT + sum(heights) + len(rows) * (CAPTION_HEIGHT + GAP) + len(legend) * LEGEND_ROW + 2 * MARGIN
    sheet = Image.new("RGB", (SHEET_WIDTH, total), PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_title(draw, dataset)
    top = MARGIN + TITLE_HEIGHT
    for row, height in zip(rows, heights):
        for column, tile in enumerate(row):
            _paste_tile(sheet, draw, tile, MARGIN + column * (width + GAP), top, (width, height))
        top += height + CAPTION_HEIGHT + GAP
    _draw_legend(draw, legend, top)
    with atomic(path_png) as temporary:
        sheet.save(temporary, format="PNG")
    return Path(path_png)


def choose_samples(dataset: Dataset, seed: int, count: int) -> list[tuple[str, Sample]]:
    """Labelled samples in proportion to the splits, at least one of each, by `seed`."""
    pools = {split: [s for s in dataset.splits.get(split, ()) if s.mask is not None] for split in SPLITS}
    pools = {split: pool for split, pool in pools.items() if pool}
    total = sum(len(pool) for pool in pools.values())
    rng = np.random.default_rng(seed)
    shares = {split: min(len(pool), max(1, round(count * len(pool) / total))) for split, pool in pools.items()}
    while sum(shares.values()) > max(count, len(shares)):
        shares[max(shares, key=lambda split: shares[split])] -= 1
    return [
        (split, pools[split][index])
        for split, share in shares.items()
        for index in sorted(rng.choice(len(pools[split]), share, replace=False))
    ]


def draw_tile(dataset: Dataset, split: str, sample: Sample, box: tuple[int, int]) -> Tile:
    """Read one sample and scale it into `box` (width, height)."""
    if dataset.spatial_dims == 3:
        return _draw_volume(dataset, split, sample, box)
    try:
        image = dataset.load_image(sample)
        label_map, _ = dataset.encode_mask(sample, size=(image.shape[0], image.shape[1]))
    except InputError as error:
        return Tile(sample, split, None, None, frozenset(), str(error))
    scale = min(box[0] / image.shape[1], box[1] / image.shape[0])
    size = (max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale)))
    shown = resize_image(_brighten(image), size)
    painted = overlay(shown, resize_label_map(label_map, size), dataset.classes, alpha=0.55)
    return Tile(sample, split, shown, painted, frozenset(int(index) for index in np.unique(label_map)))


def _draw_volume(dataset: Dataset, split: str, sample: Sample, box: tuple[int, int]) -> Tile:
    try:
        case = dataset.load_case(sample)
    except InputError as error:
        return Tile(sample, split, None, None, frozenset(), str(error))
    assert case.label_map is not None
    whole = (2 * box[0] + PAIR_GAP, box[1])
    shown, painted = draw_planes(case.image, case.label_map, dataset.classes, case.spacing_mm, whole, PAPER)
    classes = frozenset(int(index) for index in np.unique(case.label_map))
    return Tile(sample, split, shown, painted, classes, is_stacked=True)


def _brighten(image: np.ndarray) -> np.ndarray:
    """As `to_display`, but a dark 8-bit image (fluorescence) is stretched too, to show what is there."""
    if image.dtype == np.uint8:
        high = float(np.percentile(image, 99.8))
        if high < DARK:
            return to_display(image, low=float(image.min()), high=max(high, float(image.min()) + 1))
    return to_display(image)


def _tile_height(tile: Tile, box: tuple[int, int]) -> int:
    if tile.image is None:
        return box[1] // 2
    return 2 * tile.image.shape[0] + PAIR_GAP if tile.is_stacked else tile.image.shape[0]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _draw_title(draw: ImageDraw.ImageDraw, dataset: Dataset) -> None:
    draw.text((MARGIN, MARGIN - 6), dataset.root.resolve().name, fill=INK, font=_font(30))
    counts = "   ".join(f"{split} {len(samples)}" for split, samples in dataset.splits.items())
    line = f"{counts}   |   {dataset.classes.num_classes} classes   |   read as {dataset.format}"
    draw.text((MARGIN, MARGIN + 34), line, fill=SOFT, font=_font(17))


def _paste_tile(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, left: int, top: int, size: tuple[int, int]
) -> None:
    width, height = size
    font = _font(15)
    if tile.image is None or tile.painted is None:
        draw.rectangle((left, top, left + width, top + height), outline=(190, 60, 50), width=2)
        for number, line in enumerate(_wrap(tile.error, 16, width - 24)[:7]):
            draw.text((left + 12, top + 12 + 21 * number), line, fill=(160, 40, 30), font=_font(16))
    else:
        high, wide = tile.image.shape[:2]
        used = wide if tile.is_stacked else 2 * wide + PAIR_GAP
        start = left + (width - used) // 2
        right, below = (0, high + PAIR_GAP) if tile.is_stacked else (wide + PAIR_GAP, 0)
        sheet.paste(Image.fromarray(tile.image), (start, top))
        sheet.paste(Image.fromarray(tile.painted), (start + right, top + below))
        left, width, height = start, used, high + below
    draw.text((left, top + height + 5), tile.split, fill=SPLIT_INKS.get(tile.split, SOFT), font=font)
    indent = draw.textlength(tile.split + "  ", font=font)
    draw.text(
        (left + indent, top + height + 5),
        _shorten(tile.sample.name, 15, min(NAME_WIDTH, width - indent)),
        fill=SOFT,
        font=font,
    )


def _shorten(text: str, size: int, width: float) -> str:
    """The end of a long name, since names differ there."""
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text


def _wrap(text: str, size: int, width: float) -> list[str]:
    font = _font(size)
    lines = [""]
    for letter in text:
        if font.getlength(lines[-1] + letter) > width:
            lines.append("")
        lines[-1] += letter
    return lines


@dataclass(frozen=True)
class LegendEntry:
    """A swatch with its name; None = the ignored pixels."""

    name: str
    colour: tuple[int, int, int] | None
    is_shown: bool
    width: int


def _legend_rows(dataset: Dataset, shown: set[int]) -> list[list[LegendEntry]]:
    """Classes in order (of more than 40 only those shown), then ignored, broken into rows."""
    table = dataset.classes
    font = _font(17)
    rows: list[list[LegendEntry]] = [[]]
    infos = [(info.name, info.colour, index in shown) for index, info in enumerate(table.classes)]
    if len(infos) > 40:
        infos = [entry for entry in infos if entry[2]]
    entries: list[tuple[str, tuple[int, int, int] | None, bool]] = [*infos]
    if table.ignore_index in shown or table.ignore_values:
        entries.append(("ignored", None, table.ignore_index in shown))
    used = 0
    for name, colour, is_shown in entries:
        width = 22 + 9 + round(font.getlength(name)) + 28
        if used + width > SHEET_WIDTH - 2 * MARGIN and rows[-1]:
            rows.append([])
            used = 0
        rows[-1].append(LegendEntry(name, colour, is_shown, width))
        used += width
    return rows


def _draw_legend(draw: ImageDraw.ImageDraw, rows: list[list[LegendEntry]], top: int) -> None:
    draw.line((MARGIN, top - 6, SHEET_WIDTH - MARGIN, top - 6), fill=LINE, width=1)
    for number, row in enumerate(rows):
        left, y = MARGIN, top + 8 + number * LEGEND_ROW
        for entry in row:
            swatch = (left, y, left + 21, y + 17)
            if entry.colour is None:
                draw.rectangle(swatch, outline=SOFT)
                draw.line((left, y + 17, left + 21, y), fill=SOFT)
            else:
                draw.rectangle(swatch, fill=tuple(entry.colour), outline=(90, 90, 90))
            draw.text((left + 31, y - 2), entry.name, fill=INK if entry.is_shown else (168, 170, 174), font=_font(17))
            left += entry.width
