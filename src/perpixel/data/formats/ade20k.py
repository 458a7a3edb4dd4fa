"""ADE20K, scene parsing edition (ADEChallengeData2016).

images/{training,validation}/ADE_train_00000001.jpg
annotations/{training,validation}/ADE_train_00000001.png     0 = not labelled (ignored), 1..150 = classes
objectInfo150.txt                                            Idx, Ratio, Train, Val, Stuff, Name
"""

from __future__ import annotations

from pathlib import Path

from perpixel.data.class_file import make_table
from perpixel.data.formats import pairs
from perpixel.data.formats.layout import Layout
from perpixel.data.formats.list_files import read_list
from perpixel.errors import InputError
from perpixel.labels import ClassTable


def detect(root: Path) -> bool:
    """objectInfo150.txt beside images/training and annotations/training."""
    return (root / "objectInfo150.txt").is_file() and (root / "annotations" / "training").is_dir()


def read(root: Path, classes: ClassTable | None) -> Layout:
    """Read ADE20K.

    Raises:
        InputError: as for pairs, or a damaged objectInfo150.txt.
    """
    layout = pairs.read(root, classes)
    return Layout(layout.splits, _table(root / "objectInfo150.txt"), layout.notes, layout.unlabelled)


def _table(file: Path) -> ClassTable:
    rows = [line.split("\t") for line in read_list(file)[1:]]
    if any(len(row) < 2 or not row[0].strip().isdigit() for row in rows):
        raise InputError(f"{file}: a row without number or name: copy the file again from the data set")
    # A name cell lists synonyms; the first is enough.
    names = [row[-1].split(",")[0].strip() for row in rows]
    return make_table([(name, int(row[0])) for name, row in zip(names, rows)], ignore_values=(0,))
