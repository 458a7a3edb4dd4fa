"""Pairs listed in CSV files: columns image,mask and, if wanted, split and group; paths are relative to the CSV.

    pairs.csv                      train.csv, val.csv, test.csv
    image,mask,split,group         images/a.jpg,masks/a.png
    images/a.jpg,masks/a.png,train,slide 7

Without a header the columns are image, mask[, split]. A CSV without a mask column (a table of facts) is no list.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from perpixel.data.formats.folder_words import SPLIT_WORDS, bare_name, is_image, is_there, is_volume, split_of
from perpixel.data.formats.layout import Layout, first_few, of_volumes
from perpixel.data.formats.stacks import expand_stacks
from perpixel.data.sample import FileMask, Sample
from perpixel.errors import InputError
from perpixel.labels import ClassTable

COLUMNS = {
    "image": ("image", "images", "img", "image_path", "img_path", "image_file", "input"),
    "mask": ("mask", "masks", "label", "labels", "mask_path", "label_path", "annotation", "segmentation", "target"),
    "split": ("split", "set", "subset", "fold", "phase"),
    "group": ("group", "patient", "slide", "case", "video", "sequence"),
}


@dataclass(frozen=True)
class Row:
    """One line of a list."""

    line: int
    image: str
    mask: str
    split: str
    group: str


def detect(root: Path) -> bool:
    """A CSV file, or a folder with a CSV whose first line names an image and a mask that exist."""
    if root.is_file():
        return root.suffix.lower() == ".csv"
    return bool(_lists(root))


def read(root: Path, classes: ClassTable | None, spatial_dims: int = 2) -> Layout:
    """Read the pairs of one CSV, or of all lists in a folder (train.csv, val.csv, ...).

    Raises:
        InputError: no image or mask column, a missing file, an unknown split word, an image listed twice.
    """
    files = [root] if root.is_file() else _lists(root)
    if not files:
        raise InputError(f"{root}: no CSV with the columns image,mask: add one, paths relative to the CSV")
    folder = root.parent if root.is_file() else root
    splits: dict[str | None, list[Sample]] = {}
    unlabelled: list[Sample] = []
    owner: dict[str, str] = {}
    for file in files:
        rows = read_rows(file)
        _refuse_missing(file, rows)
        for row in rows:
            sample = _sample(file, folder, row)
            where = f"{file.name} line {row.line}"
            if sample.name in owner:
                raise InputError(
                    f"{file}: line {row.line} lists '{row.image}' again (first in {owner[sample.name]}): "
                    "list each image once"
                )
            owner[sample.name] = where
            target = unlabelled if sample.mask is None else splits.setdefault(_split(file, row), [])
            target.append(sample)
    notes = [f"pairs from {', '.join(file.name for file in files)}"]
    if unlabelled:
        notes.append(f"{len(unlabelled)} rows name no mask: kept as unlabelled")
    layout = Layout(splits, unlabelled=unlabelled, notes=notes)
    return of_volumes(layout) if spatial_dims == 3 else expand_stacks(layout)


def read_rows(file: Path) -> list[Row]:
    """The rows of one list.

    Raises:
        InputError: not text, no rows, or no columns for image and mask.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as UTF-8 text ({error}): save the list as UTF-8 CSV") from error
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    lines = [(number, cells) for number, cells in enumerate(csv.reader(text.splitlines(), delimiter=delimiter), 1)]
    lines = [(number, [cell.strip() for cell in cells]) for number, cells in lines if any(cells)]
    if not lines:
        raise InputError(f"{file}: holds no rows: list one pair per line as image,mask")
    places = _columns(file, lines[0][1])
    if places is None:
        places = {"image": 0, "mask": 1, "split": 2}
    else:
        lines = lines[1:]
    return [_row(number, cells, places) for number, cells in lines]


def _columns(file: Path, cells: list[str]) -> dict[str, int] | None:
    """Column -> place from a header line; None when the first line is already a pair."""
    if any(_is_file_name(cell) for cell in cells[:2]):
        return None
    heads = [cell.lower().replace(" ", "_") for cell in cells]
    places = {
        column: next(index for index, head in enumerate(heads) if head in words)
        for column, words in COLUMNS.items()
        if any(head in words for head in heads)
    }
    if "image" not in places or "mask" not in places:
        raise InputError(f"{file}: no column image or mask in the header ({', '.join(cells)}): name them image,mask")
    return places


def _row(number: int, cells: list[str], places: dict[str, int]) -> Row:
    def cell(column: str) -> str:
        place = places.get(column)
        return cells[place] if place is not None and place < len(cells) else ""

    return Row(number, cell("image"), cell("mask"), cell("split"), cell("group"))


def _refuse_missing(file: Path, rows: list[Row]) -> None:
    missing = [
        f"line {row.line}: {name or '(empty)'}"
        for row in rows
        for name in ((row.image, row.mask) if row.mask else (row.image,))
        if not name or not is_there(_resolve(file, name))
    ]
    if missing:
        raise InputError(
            f"{file}: {len(missing)} listed files do not exist ({first_few(missing)}): "
            "write the paths relative to the CSV"
        )


def _resolve(file: Path, name: str) -> Path:
    return file.parent / name.replace("\\", "/")


def _split(file: Path, row: Row) -> str | None:
    if not row.split:
        return split_of(file.stem)
    split = SPLIT_WORDS.get(row.split.lower())
    if split is None:
        raise InputError(f"{file}: line {row.line}: split '{row.split}' is not known: write train, val or test")
    return split


def _sample(file: Path, folder: Path, row: Row) -> Sample:
    path = _resolve(file, row.image)
    listed = Path(row.image.replace("\\", "/"))
    name = listed.with_name(bare_name(listed)).as_posix().removeprefix("./")
    mask = FileMask(_resolve(file, row.mask)) if row.mask else None
    return Sample(name, (path,), mask, group=row.group or None)


def _lists(root: Path) -> list[Path]:
    """The CSV files in `root` that list pairs: those named after splits if any is, else the only one."""
    if not root.is_dir():
        return []
    found = [path for path in sorted(root.glob("*.csv")) if _is_list(path)]
    named = [path for path in found if split_of(path.stem)]
    return named or found[:1]


def _is_list(file: Path) -> bool:
    try:
        row = next(iter(read_rows(file)), None)
    except InputError:
        return False
    if row is None or not row.image or not row.mask:
        return False
    return is_there(_resolve(file, row.image)) and _is_file_name(row.mask)


def _is_file_name(text: str) -> bool:
    return is_image(Path(text)) or is_volume(Path(text))
