"""Objects over their image: tinted, outlined, with scores where there is room; for one object or a thousand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from perpixel.errors import InputError
from perpixel.labels.classes import ClassTable
from perpixel.labels.colours import FIRST
from perpixel.labels.instances import Instances

# Small images are enlarged by a whole number, very large ones shrunk, so that the long side lies between these.
SMALLEST_SIDE, LARGEST_SIDE, MOST_TIMES = 900, 4000, 4
# Images of small objects are enlarged further, up to a side, until the median object is so wide.
OBJECT_SIDE, ENLARGED_SIDE = 24, 2600
TINT = 0.28
# Side of an object over the width of its outline: lines take a small part of it.
LINE_SHARE = 22
# Distinct on most images: the first colours of all, without the dark blue and the grey.
OBJECT_COLOURS = np.array([colour for colour in FIRST if colour not in ((60, 90, 190), (200, 200, 200))], np.uint8)
NEIGHBOURS = 12
FONT_SIZE, PAD = 15, 4
BAR_HEIGHT, BAR, BAR_INK, BAR_SOFT = 34, (22, 24, 30), (236, 238, 242), (150, 156, 166)
HALO = (16, 18, 24)
COLOUR_BY = ("auto", "class", "object")

Rgb = tuple[int, int, int]


def draw_objects(
    image: np.ndarray,
    instances: Instances,
    table: ClassTable,
    *,
    colour_by: str = "auto",
    scores: bool = True,
    legend: bool = True,
    times: float | None = None,
) -> np.ndarray:
    """Tint, outline and name the objects of an image.

    Args:
        image: (H, W, 3) uint8.
        table: names and colours of the classes; class 0 is background.
        colour_by: "class", "object" (neighbours differ), or "auto": class where the table has several.
        scores: write class and score at objects that are large enough for it.
        legend: add a bar below that counts the objects of each class.
        times: enlarge so many times; None chooses by the sizes of image and objects.
    Returns:
        (h, w, 3) uint8; small images are enlarged, so that outlines stay thin beside small objects.
    Raises:
        InputError: image and objects differ in size.
    """
    if image.shape[:2] != instances.size or image.shape[2:] != (3,):
        raise InputError(f"objects of an image of {instances.size} over one of {image.shape}: give its own, in RGB")
    if colour_by not in COLOUR_BY:
        raise InputError(f"colour_by '{colour_by}': choose one of {', '.join(COLOUR_BY)}")
    by_class = colour_by == "class" or (colour_by == "auto" and table.num_classes > 2)
    colours = class_colours(instances, table) if by_class else distinct_colours(instances)
    times = display_times(instances) if times is None else times
    canvas = resize_by(image, times)
    paint_objects(canvas, instances, colours, times)
    if scores:
        words = [table.names[kind] if table.num_classes > 2 else "" for kind in instances.classes]
        canvas = _write_labels(canvas, instances, colours, words, times)
    return _with_legend(canvas, instances, table, by_class) if legend else canvas


def display_times(instances: Instances) -> float:
    """By how much the image of these objects is enlarged (a whole number) or shrunk to be looked at."""
    side = max(instances.size)
    if side > LARGEST_SIDE:
        return LARGEST_SIDE / side
    times = min(MOST_TIMES, max(1, -(-SMALLEST_SIDE // side)))
    width = float(np.sqrt(np.median(instances.masks.areas))) if len(instances) else OBJECT_SIDE
    while times < MOST_TIMES and times * width < OBJECT_SIDE and (times + 1) * side <= ENLARGED_SIDE:
        times += 1
    return float(times)


def resize_by(image: np.ndarray, times: float) -> np.ndarray:
    """(H, W, 3) -> a copy, `times` as large."""
    if times == 1:
        return image.copy()
    height, width = (max(1, round(side * times)) for side in image.shape[:2])
    mode = cv2.INTER_AREA if times < 1 else cv2.INTER_CUBIC
    return np.ascontiguousarray(cv2.resize(image, (width, height), interpolation=mode))


def class_colours(instances: Instances, table: ClassTable) -> np.ndarray:
    """(N, 3) uint8 colour of the class of each."""
    return table.colours[instances.classes]


def distinct_colours(instances: Instances) -> np.ndarray:
    """(N, 3) uint8 such that objects that lie near each other differ."""
    count = len(instances)
    if count == 0:
        return np.zeros((0, 3), np.uint8)
    from scipy.spatial import cKDTree

    centres = np.nan_to_num(instances.masks.centroids)
    near = cKDTree(centres).query(centres, k=min(count, NEIGHBOURS + 1))[1].reshape(count, -1)
    chosen = np.full(count, -1, np.int64)
    for index in range(count):
        taken = chosen[near[index]]
        used = np.bincount(taken[taken >= 0], minlength=len(OBJECT_COLOURS))
        # Of the least used ones the next in turn, so that an image with few objects is not all of one colour.
        turn = (np.arange(len(OBJECT_COLOURS)) - index) % len(OBJECT_COLOURS)
        chosen[index] = np.lexsort((turn, used))[0]
    return OBJECT_COLOURS[chosen]


def paint_objects(
    canvas: np.ndarray, instances: Instances, colours: np.ndarray, times: float, *, tint: float = TINT
) -> None:
    """Tint and outline each object of the image on a canvas that is `times` as large; in place."""
    order = instances.painting_order()
    sides = np.sqrt(np.maximum(instances.masks.areas, 1)) * times
    widths = np.clip(sides / LINE_SHARE, 1, 3).astype(int)
    shapes = [(int(index), *_enlarged(instances, int(index), times)) for index in order]
    if tint:
        for index, mask, (row, col) in shapes:
            rows, cols, inside = _on_canvas(canvas, mask, row, col)
            part = canvas[rows, cols]
            mixed = part * (1 - tint) + colours[index].astype(np.float32) * tint
            part[inside] = mixed[inside].round().astype(np.uint8)
    for index, mask, (row, col) in shapes:
        contours, width = _contours(mask, row, col), int(widths[index])
        if width > 1:
            cv2.polylines(canvas, contours, True, HALO, width + 2, cv2.LINE_AA)
        cv2.polylines(canvas, contours, True, rgb(colours[index]), width, cv2.LINE_AA)


def rgb(colour: Sequence[Any] | np.ndarray) -> Rgb:
    return int(colour[0]), int(colour[1]), int(colour[2])


def _enlarged(instances: Instances, index: int, times: float) -> tuple[np.ndarray, tuple[int, int]]:
    """The mask of an object on the canvas, one pixel of nothing around it, and the place of its corner."""
    mask, (row, col) = instances.masks.crop(index)
    padded = np.pad(mask, 1).astype(np.float32)
    if times == 1:
        return padded > 0.5, (row - 1, col - 1)
    height, width = (max(1, round(side * times)) for side in padded.shape)
    mode = cv2.INTER_AREA if times < 1 else cv2.INTER_CUBIC
    large = cv2.resize(padded, (width, height), interpolation=mode) > (0.5 if times > 1 else 0.25)
    return large, (round((row - 1) * times), round((col - 1) * times))


def _on_canvas(canvas: np.ndarray, mask: np.ndarray, row: int, col: int) -> tuple[slice, slice, np.ndarray]:
    rows = slice(max(0, row), min(canvas.shape[0], row + mask.shape[0]))
    cols = slice(max(0, col), min(canvas.shape[1], col + mask.shape[1]))
    return rows, cols, mask[rows.start - row : rows.stop - row, cols.start - col : cols.stop - col]


def _contours(mask: np.ndarray, row: int, col: int) -> list[np.ndarray]:
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(col, row))
    return list(found)


@dataclass
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


def _write_labels(
    canvas: np.ndarray, instances: Instances, colours: np.ndarray, words: Sequence[str], times: float
) -> np.ndarray:
    """Class and score of each object that is large enough, the best first, none over another."""
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(FONT_SIZE)
    marks = np.ones(len(instances)) if instances.scores is None else instances.scores
    placed: list[_Box] = []
    for index in np.argsort(-marks, kind="stable").tolist():
        text = " ".join([*([words[index]] if words[index] else []), *_score_text(instances, index)])
        x0, y0, x1, y1 = (instances.masks.boxes[index] * times).tolist()
        width, height = draw.textlength(text, font) + 2 * PAD, FONT_SIZE + 2 * PAD - 1
        if not text or x1 - x0 < 0.9 * width or y1 - y0 < 1.8 * height:
            continue
        mask, (_, col) = instances.masks.crop(index)
        tip = (col + float(np.flatnonzero(mask[0]).mean()) + 0.5) * times
        for left, top in _places((x0, y0, x1, y1), tip, width, height, canvas.shape):
            box = _Box(left, top, left + width, top + height)
            if not any(box.meets(other) for other in placed):
                placed.append(box)
                colour = rgb(colours[index])
                draw.rounded_rectangle((left, top, left + width, top + height), 4, fill=colour)
                draw.text((left + PAD, top + height / 2), text, fill=ink_on(colour), font=font, anchor="lm")
                break
    return np.array(picture)


def _score_text(instances: Instances, index: int) -> list[str]:
    return [] if instances.scores is None else [f"{instances.scores[index]:.2f}"]


def _places(
    box: tuple[float, float, float, float], tip: float, width: float, height: float, shape: tuple[int, ...]
) -> Iterator[tuple[float, float]]:
    """Corners for a label: on the object's highest point, below it, in the middle of the box, at its foot."""
    x0, y0, x1, y1 = box
    middle = (x0 + x1 - width) / 2
    for left, top in (
        (tip - width / 2, y0 - height - 1),
        (tip - width / 2, y0 + 4),
        (middle, (y0 + y1 - height) / 2),
        (middle, y1 - height - 2),
    ):
        if top >= 0 and top + height <= shape[0]:
            yield float(np.clip(left, 0, max(0.0, shape[1] - width))), top


def ink_on(colour: Rgb) -> Rgb:
    """Black or white, whichever reads better."""
    light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return (18, 20, 24) if light > 130 else (255, 255, 255)


def _with_legend(canvas: np.ndarray, instances: Instances, table: ClassTable, by_class: bool) -> np.ndarray:
    kinds, counts = np.unique(instances.classes, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    entries = [
        (table.names[kinds[i]], str(counts[i]), rgb(table.colours[kinds[i]]) if by_class else None) for i in order
    ]
    return legend_bar(canvas, entries or [("no objects", "", None)])


def legend_bar(canvas: np.ndarray, entries: Sequence[tuple[str, str, Rgb | None]]) -> np.ndarray:
    """A picture with a bar below it: name, number and colour of each entry, in as many rows as they need."""
    font = ImageFont.load_default(FONT_SIZE)
    width, rows = canvas.shape[1], 1
    spots, left = [], 12.0
    for name, number, colour in entries:
        length = font.getlength(name) + (font.getlength(number) + 7 if number else 0) + (20 if colour else 0)
        if left + length > width - 8 and left > 12:
            left, rows = 12.0, rows + 1
        spots.append((left, rows - 1))
        left += length + 20
    bar = Image.new("RGB", (width, BAR_HEIGHT * rows), BAR)
    draw = ImageDraw.Draw(bar)
    for (left, row), (name, number, colour) in zip(spots, entries):
        middle = BAR_HEIGHT * (row + 0.5)
        if colour:
            draw.rounded_rectangle((left, middle - 6, left + 12, middle + 6), 3, fill=colour)
            left += 20
        draw.text((left, middle), name, fill=BAR_INK, font=font, anchor="lm")
        draw.text((left + font.getlength(name) + 7, middle), number, fill=BAR_SOFT, font=font, anchor="lm")
    return np.concatenate([canvas, np.array(bar)])
