"""One folder per image and one binary mask file per object, as in the 2018 Data Science Bowl; layouts as in
`data/formats/objects.py`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from perpixel.data.formats import objects as files
from perpixel.data.formats.layout import Layout
from perpixel.data.instances.sources import FileObjects
from perpixel.data.instances.tables import single_thing
from perpixel.data.sample import ObjectMasks, Sample
from perpixel.labels import ClassTable

detect = files.detect


def read(root: Path, classes: ClassTable | None) -> Layout:
    """Read one sample per folder; a folder without masks/ is unlabelled, one with an empty masks/ has no objects.

    Raises:
        InputError: no such folders, images/ with more or less than one file, or a table of several things.
    """
    layout = files.read(root, None)
    splits = {split: [_with_objects(sample) for sample in samples] for split, samples in layout.splits.items()}
    notes = [note for note in layout.notes if not note.startswith("one mask file per object")]
    return replace(layout, splits=splits, classes=single_thing(classes, root), notes=notes)


def _with_objects(sample: Sample) -> Sample:
    mask = sample.mask
    assert isinstance(mask, ObjectMasks)
    return replace(sample, mask=FileObjects(mask.folder, mask.files, mask.size))
