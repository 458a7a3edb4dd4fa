"""A class table from the values that masks hold, and a sentence that says what was read into them.

The order of the questions matters: is it smoothed or lossy (refused, or snapped)? object numbers? else classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from perpixel.data.class_file import make_table
from perpixel.data.formats.layout import first_few
from perpixel.data.scan_masks import MaskFacts, MaskScan
from perpixel.errors import InputError
from perpixel.labels import ClassTable, FileValue

ADVICE = "write classes.json to name them"
# Values between classes: rare in all masks together, and hardly ever in a flat area.
RARE_SHARE = 0.01
EDGE_FLAT_SHARE = 0.35
# A main value when snapping: this share of all flat pixels, and this far from a more frequent one.
MAIN_SHARE = 0.001
MAIN_DISTANCE = 16
# More classes than this are not taken from numbers without a class table.
MAX_CLASSES = 256
# Objects in one image from which on 1, 2, ..., n are taken for object numbers, in 8-bit files and in deeper ones.
MIN_OBJECTS = {8: 16, 16: 4}
COLOUR_NAMES = {
    (0, 0, 0): "background",
    (255, 255, 255): "white",
    (255, 0, 0): "red",
    (0, 255, 0): "green",
    (0, 0, 255): "blue",
    (255, 255, 0): "yellow",
    (0, 255, 255): "cyan",
    (255, 0, 255): "magenta",
    (128, 128, 128): "grey",
}


@dataclass(frozen=True)
class Inference:
    """What the masks' values were taken for.

    Attributes:
        instances: values above 0 are object numbers, to be read as 1.
        snap_to: the main values to which every pixel is to be snapped; empty = as stored.
    """

    classes: ClassTable
    notes: tuple[str, ...]
    instances: bool = False
    snap_to: tuple[FileValue, ...] = ()


def infer_classes(scan: MaskScan, *, snap: bool = False, ignore_values: Sequence[int] = ()) -> Inference:
    """Decide what the values of all masks mean.

    Args:
        snap: take smoothed or lossy masks, each pixel as the nearest main value.
        ignore_values: values that are no class.
    Raises:
        InputError: no masks, one value only, in-between values without `snap`, or too many values.
    """
    if not scan.masks:
        raise InputError("no masks to infer classes from: check the path, or write classes.json")
    values = [value for value in scan.pixels if value not in ignore_values]
    edge = edge_values(scan)
    if edge:
        mains = main_values(scan)
        if not snap:
            raise InputError(_smoothed(scan, edge, mains))
        _need_two(scan, mains)
        inference = _classes(scan, [value for value in mains if value not in ignore_values], ignore_values)
        note = f"{len(edge)} in-between values are snapped to the nearest of {_listed(mains)}"
        return Inference(inference.classes, (*inference.notes, note), snap_to=tuple(mains))
    if looks_like_instances(scan):
        return _instances(scan)
    _need_two(scan, values)
    return _classes(scan, values, ignore_values)


def edge_values(scan: MaskScan) -> list[FileValue]:
    """Values that only stand between others, as smoothing and lossy files make them; empty for clean masks."""
    total = sum(scan.pixels.values())
    rare = [
        value
        for value, count in scan.pixels.items()
        if count < RARE_SHARE * total and scan.flat[value] < EDGE_FLAT_SHARE * count
    ]
    if any(mask.lossy for mask in scan.masks):
        mains = set(main_values(scan))
        return [value for value in scan.pixels if value not in mains]
    # Thin classes (cracks, vessels) also lack flat areas; small dense numbers cannot come from smoothing 0 and 255.
    if len(rare) < 2 or len(rare) < len(scan.pixels) / 2 or _are_indices(set(scan.pixels) - {255, 65535}, 64):
        return []
    return rare


def _are_indices(values: Iterable[FileValue], most: int) -> bool:
    """Whether plain numbers lie dense enough from 0 to be class indices: 0..20, 0 2 3 5, but not 0 128."""
    listed = list(values)
    numbers = [value for value in listed if isinstance(value, int)]
    return len(numbers) == len(listed) and 1 < len(numbers) <= most and max(numbers) <= 4 * len(numbers)


def main_values(scan: MaskScan) -> list[FileValue]:
    """The values that fill areas, each at a distance from every more frequent one; sorted."""
    total = max(1, sum(scan.flat.values()))
    mains: list[FileValue] = []
    for value, count in scan.flat.most_common():
        if count < MAIN_SHARE * total:
            break
        if all(_distance(value, other) >= MAIN_DISTANCE for other in mains):
            mains.append(value)
    return sorted(mains, key=lambda value: value if isinstance(value, tuple) else (value,))


def _distance(one: FileValue, other: FileValue) -> int:
    return int(np.abs(np.subtract(one, other)).max())


def _smoothed(scan: MaskScan, edge: list[FileValue], mains: list[FileValue]) -> str:
    between = set(edge)
    counts = [sum(count for value, count in mask.pixels.items() if value in between) for mask in scan.masks]
    worst: MaskFacts = scan.masks[int(np.argmax(counts))]
    affected = sum(count > 0 for count in counts)
    cause = "lossy file" if worst.lossy else "smoothed or resized"
    return (
        f"{worst.where}: {len(worst.pixels)} different values, {max(counts)} pixels between the main values "
        f"{_listed(mains)} ({cause}; {affected} of {len(scan.masks)} masks are like this): save masks as PNG without "
        "smoothing, or use --snap (snap=True) to take the nearest main value"
    )


def _need_two(scan: MaskScan, values: Sequence[FileValue]) -> None:
    if len(values) < 2:
        found = f"only {_listed(values)}" if values else "ignored values only"
        raise InputError(
            f"{scan.masks[0].where} and the other {len(scan.masks) - 1} masks hold {found}: nothing can be learnt from "
            "one class; check that these are the masks"
        )


def looks_like_instances(scan: MaskScan) -> bool:
    """Whether masks number their objects: 1..n without gaps, n differing from image to image, or very many values."""
    if scan.is_colour:
        return False
    highest: list[int] = []
    complete = 0
    for mask in scan.masks:
        numbers = [value for value in mask.pixels if isinstance(value, int) and value > 0]
        if numbers:
            highest.append(max(numbers))
            complete += len(numbers) >= 0.95 * max(numbers)
    if not highest:
        return False
    if len(scan.pixels) > MAX_CLASSES:
        return True
    least = MIN_OBJECTS[8 if max(mask.bits for mask in scan.masks) == 8 else 16]
    varied = len(set(highest)) >= min(3, len(highest))
    return varied and complete >= 0.9 * len(highest) and max(highest) >= least


def _instances(scan: MaskScan) -> Inference:
    counts = [sum(value != 0 for value in mask.pixels) for mask in scan.masks]
    note = (
        f"masks number their objects ({min(counts)} to {max(counts)} in an image): read as background (0) and object "
        "(task=instances tells them apart) "
        '(all other values); to name the class write classes.json with "instances": true, to read the values as '
        "classes list them there"
    )
    table = make_table([("background", 0), ("object", 1)])
    return Inference(table, (note,), instances=True)


def _classes(scan: MaskScan, values: Sequence[FileValue], ignore_values: Sequence[int]) -> Inference:
    if len(values) > MAX_CLASSES:
        raise InputError(
            f"masks hold {len(values)} different values ({first_few(values)}): too many for classes; "
            "write classes.json that lists what they mean"
        )
    if scan.is_colour:
        return _colour_classes([value for value in values if isinstance(value, tuple)])
    numbers = sorted(value for value in values if isinstance(value, int))
    void = _void(numbers)
    ignored = tuple(dict.fromkeys((*ignore_values, *void)))
    numbers = [number for number in numbers if number not in void]
    binary = len(numbers) == 2 and numbers[0] == 0
    names = ["background", "foreground"] if binary else [f"class_{number}" for number in numbers]
    palette = next((mask.palette for mask in scan.masks if mask.palette is not None), None)
    colours = None if palette is None else palette[numbers]
    table = make_table(list(zip(names, numbers)), colours=colours, ignore_values=ignored)
    if binary:
        note = f"masks hold {_listed(numbers)}: read as background and foreground; {ADVICE}"
    else:
        note = f"masks hold {_listed(numbers)}: read as {len(numbers)} classes called after their values; {ADVICE}"
    if ignored:
        note = f"{note}; {_listed(sorted(ignored))} is taken for void and ignored in training and scores"
    return Inference(table, (note,))


def _void(numbers: list[int]) -> tuple[int, ...]:
    """255 (or 65535) beside values that look like indices is void; beside 0 alone, or 0 and 128, it is a class."""
    rest = [number for number in numbers if number not in (255, 65535)]
    top = [number for number in numbers if number in (255, 65535)]
    return tuple(top) if top and len(rest) >= 2 and _are_indices(rest, MAX_CLASSES) and max(rest) < 200 else ()


def _colour_classes(colours: list[tuple[int, int, int]]) -> Inference:
    colours = sorted(colours)
    names = [COLOUR_NAMES.get(colour, f"#{bytes(colour).hex()}") for colour in colours]
    table = make_table(list(zip(names, colours)), colours=colours)
    shown = first_few(names, 6)
    return Inference(table, (f"masks are colour-coded: {len(colours)} colours read as classes ({shown}); {ADVICE}",))


def _listed(values: Sequence[FileValue]) -> str:
    """ "0, 128 and 255", or "0, 1, 2, ... 40" when long."""
    words = [str(value) for value in values]
    if len(words) > 12:
        words = [*words[:4], "...", words[-1]]
        return ", ".join(words)
    return words[0] if len(words) == 1 else " and ".join((", ".join(words[:-1]), words[-1])) if words else "nothing"
