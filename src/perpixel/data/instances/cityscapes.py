"""Cityscapes' instances: the eight things of its benchmark, from *_instanceIds.png; folders as in
`data/formats/cityscapes.py`.

Groups of one thing that are not told apart are crowds. Pixels of labels that the benchmark leaves out (trailers, the
bonnet, ...) are void.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from perpixel.data.formats import cityscapes as files
from perpixel.data.formats.layout import Layout
from perpixel.data.instances.sources import CodedObjects
from perpixel.data.instances.tables import kinds_by_value, thing_table, with_background
from perpixel.data.sample import Sample
from perpixel.errors import InputError
from perpixel.labels import ClassTable

THINGS = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
ROWS = [row for row in files.CLASSES if row[0] in THINGS]
# As in an 8-bit file, 255 there; the licence plate is -1, which 16 bits hold as 65535.
VOID_LABELS = (*files.IGNORED_IDS, 65535 // 1000)


def detect(root: Path) -> bool:
    """Cityscapes' folders with at least one file of instance ids."""
    return files.detect(root) and _find_kind(root) is not None


def _find_kind(root: Path) -> str | None:
    for folder in files.MASK_FOLDERS:
        if next((root / folder).glob(f"*/*/*_{folder}_instanceIds.png"), None) is not None:
            return folder
    return None


def read(root: Path, classes: ClassTable | None) -> Layout:
    """Read Cityscapes; cities become groups.

    Args:
        classes: the user's table; its values are label ids.
    Raises:
        InputError: no files of instance ids, or images of train or val without one.
    """
    folder = _find_kind(root)
    if folder is None:
        raise InputError(f"{root}: no *_instanceIds.png under gtFine or gtCoarse: add the files")
    table = thing_table([(row[0], row[1]) for row in ROWS], colours=[row[3] for row in ROWS])
    table = table if classes is None else with_background(classes)
    listed = [value for info in table.classes[1:] for value in info.values if isinstance(value, int)]
    kinds = {label: kind for label, kind in kinds_by_value(table, listed, root).items() if kind}
    layout = files.read_masks(root, folder, "instanceIds", files.table("labelIds"))

    def change(sample: Sample) -> Sample:
        assert sample.mask is not None
        return replace(sample, mask=CodedObjects(sample.mask.paths[0], kinds, VOID_LABELS))

    splits = {split: [change(sample) for sample in samples] for split, samples in layout.splits.items()}
    return replace(layout, splits=splits, classes=table, notes=[*layout.notes, "groups of objects are read as crowds"])
