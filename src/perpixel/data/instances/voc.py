"""Pascal VOC's objects: SegmentationObject numbers them, SegmentationClass gives their classes; folders as in
`data/formats/voc.py`. The void (255) is a crowd of no class.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from perpixel.data.class_file import make_table
from perpixel.data.formats import voc as files
from perpixel.data.formats.folder_words import image_files
from perpixel.data.formats.layout import Layout, first_few
from perpixel.data.infer_classes import infer_classes
from perpixel.data.instances.sources import PairedObjects
from perpixel.data.instances.tables import with_background
from perpixel.data.sample import FileMask, Sample
from perpixel.data.scan_masks import scan_masks
from perpixel.errors import InputError
from perpixel.labels import ClassTable

OBJECT_FOLDERS = ("SegmentationObject", "SegmentationObjectPNG")


def detect(root: Path) -> bool:
    """VOC's folders with SegmentationObject beside them."""
    home = files.find_home(root)
    return home is not None and _object_folder(home) is not None


def _object_folder(home: Path) -> Path | None:
    return next((home / name for name in OBJECT_FOLDERS if image_files(home / name)), None)


def read(root: Path, classes: ClassTable | None) -> Layout:
    """Read a VOC folder.

    Raises:
        InputError: no such folders, or images without one of the two masks.
    """
    layout = files.read(root, classes)
    home = files.find_home(root)
    folder = None if home is None else _object_folder(home)
    if folder is None:
        raise InputError(f"{root}: no folder SegmentationObject: add it, or choose another format")
    objects = {path.stem: path for path in image_files(folder)}
    samples = [sample for found in layout.splits.values() for sample in found]
    bare = [sample.name for sample in samples if sample.name not in objects]
    if bare:
        raise InputError(
            f"{folder}: {len(bare)} of {len(samples)} images have no file here ({first_few(bare)}): add the files or "
            "take the names out of the lists"
        )
    table = with_background(classes or layout.classes or _infer(samples))

    def change(sample: Sample) -> Sample:
        assert isinstance(sample.mask, FileMask)
        return replace(sample, mask=PairedObjects(objects[sample.name], sample.mask.path, table))

    splits = {split: [change(sample) for sample in found] for split, found in layout.splits.items()}
    return replace(layout, splits=splits, classes=table)


def _infer(samples: list[Sample]) -> ClassTable:
    """Classes called after the values in the masks, where no list names them."""
    scan = scan_masks(samples)
    values = sorted(value for value in scan.pixels if isinstance(value, int) and value not in (0, 255))
    if len(values) < len(set(scan.pixels) - {0, 255}):
        return infer_classes(scan).classes
    return make_table([("background", 0), *((f"class_{value}", value) for value in values)], ignore_values=(255,))
