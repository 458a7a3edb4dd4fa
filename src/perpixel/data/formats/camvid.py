"""CamVid as SegNet's authors laid it out.

    train/0001TP_006690.png   trainannot/0001TP_006690.png   (val, valannot, test, testannot)

The folders give the splits; the lists train.txt ... beside them repeat the same and are not read.
"""

from __future__ import annotations

from pathlib import Path

from perpixel.data.class_file import make_table
from perpixel.data.formats import pairs
from perpixel.data.formats.layout import Layout
from perpixel.labels import ClassTable

# The authors' order and colours; 11 is void.
CLASSES: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("sky", (128, 128, 128)),
    ("building", (128, 0, 0)),
    ("pole", (192, 192, 128)),
    ("road", (128, 64, 128)),
    ("pavement", (60, 40, 222)),
    ("tree", (128, 128, 0)),
    ("sign", (192, 128, 128)),
    ("fence", (64, 64, 128)),
    ("car", (64, 0, 128)),
    ("pedestrian", (64, 64, 0)),
    ("bicyclist", (0, 128, 192)),
)


def detect(root: Path) -> bool:
    """Folders train and trainannot side by side."""
    return (root / "train").is_dir() and (root / "trainannot").is_dir()


def read(root: Path, classes: ClassTable | None) -> Layout:
    """Read SegNet's layout. Only a folder called CamVid gets CamVid's classes; others are inferred from the masks.

    Raises:
        InputError: as for pairs.
    """
    layout = pairs.read(root, classes)
    if "camvid" not in root.resolve().name.lower():
        return layout
    layout.notes.append("the folder is called CamVid: its 11 classes are taken, 11 (void) is ignored")
    rows = [(name, index) for index, (name, _) in enumerate(CLASSES)]
    table = make_table(rows, colours=[colour for _, colour in CLASSES], ignore_values=(11,))
    return Layout(layout.splits, table, layout.notes, layout.unlabelled)
