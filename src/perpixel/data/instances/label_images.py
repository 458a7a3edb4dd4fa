"""Label images: each object has a number of its own, 0 is background. 8, 16 or 32 bits, PNG or TIFF; pairs of image and
label as in `data/formats/pairs.py`.

    images/0001.png            train/images/0001.png
    labels/0001.png            train/labels/0001.png
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from perpixel.data.formats import pairs
from perpixel.data.formats.layout import Layout
from perpixel.data.instances.sources import MapObjects
from perpixel.data.instances.tables import single_thing
from perpixel.data.sample import FileMask, Sample
from perpixel.errors import InputError
from perpixel.labels import ClassTable

detect = pairs.detect


def read(
    root: Path, classes: ClassTable | None, *, split_parts: bool = False, ignore_values: tuple[int, ...] = ()
) -> Layout:
    """Read a folder of pairs; all objects are of one class.

    Args:
        split_parts: each connected part is an object (for masks that hold foreground and background only).
        ignore_values: numbers of pixels of which nothing is known.
    Raises:
        InputError: no pairs, images without labels or the other way round, or a table of several things.
    """
    layout = pairs.read(root, None)
    table = single_thing(classes, root)
    listed = (*ignore_values, *table.ignore_values)
    void = tuple(value for value in listed if isinstance(value, int))

    def change(sample: Sample) -> Sample:
        if not isinstance(sample.mask, FileMask):
            raise InputError(f"{sample.where}: no label image: give 2-D images and labels")
        mask = MapObjects(sample.mask.path, sample.mask.frame, void_values=void, split_parts=split_parts)
        return replace(sample, mask=mask)

    splits = {split: [change(sample) for sample in samples] for split, samples in layout.splits.items()}
    how = "each connected part is an object" if split_parts else "each number above 0 is an object"
    return replace(layout, splits=splits, classes=table, notes=[*layout.notes, f"label images: {how}"])
