"""Class tables: from classes.json (the user's own, at the root of a data set or given) and from names and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from perpixel.errors import InputError
from perpixel.files import read_json
from perpixel.labels import ClassInfo, ClassTable, FileValue, default_colours

FILE_NAME = "classes.json"


def make_table(
    rows: Sequence[tuple[str, FileValue]],
    *,
    colours: Sequence[Sequence[int]] | np.ndarray | None = None,
    ignore_values: Sequence[FileValue] = (),
) -> ClassTable:
    """A class table of one value per class.

    Args:
        rows: name and value in the file, in class order.
        colours: one (r, g, b) per row; None = distinct default colours.
    """
    chosen = default_colours(len(rows), background=rows[0][0] == "background") if colours is None else colours
    shown = [(int(colour[0]), int(colour[1]), int(colour[2])) for colour in chosen]
    infos = tuple(ClassInfo(name, colour, (value,)) for (name, value), colour in zip(rows, shown))
    return ClassTable(infos, ignore_values=tuple(ignore_values))


@dataclass(frozen=True)
class ClassFile:
    """A class table from a file.

    Attributes:
        instances: the file says that masks number their objects; values above 0 are read as 1.
    """

    table: ClassTable
    path: Path
    instances: bool

    @property
    def note(self) -> str:
        ignored = self.table.ignore_values
        tail = f", mask value {', '.join(map(str, ignored))} is ignored" if ignored else ""
        how = "; masks number their objects, read as value 1" if self.instances else ""
        return f"{self.table.num_classes} classes from {self.path.name}{tail}{how}"


def find_class_file(root: Path, classes: str | Path | None) -> ClassFile | None:
    """Read the file given, else classes.json at `root` (or beside it, when `root` is a file), else None.

    Raises:
        InputError: the file is missing, no JSON, or no class table.
    """
    if classes is not None:
        return read_class_file(Path(classes))
    beside = (root if root.is_dir() else root.parent) / FILE_NAME
    return read_class_file(beside) if beside.is_file() else None


def read_class_file(path: Path) -> ClassFile:
    """Read one class table; the key "instances" is ours, the rest belongs to ClassTable."""
    content = read_json(path)
    instances = False
    if isinstance(content, dict) and "instances" in content:
        content = dict(content)
        instances = content.pop("instances")
        if not isinstance(instances, bool):
            raise InputError(f"{path}: instances is {instances!r}: write true or false")
    return ClassFile(ClassTable.from_json(content, str(path)), path, instances)


def ignore_more(table: ClassTable, values: Sequence[FileValue]) -> ClassTable:
    """The table with `values` ignored; a class whose every value is ignored is taken out.

    Raises:
        InputError: no class is left.
    """
    ignored = set(values)
    if not ignored:
        return table
    kept = []
    for info in table.classes:
        left = tuple(value for value in info.values if value not in ignored)
        if left:
            kept.append(info if left == info.values else replace(info, values=left))
    if not kept:
        raise InputError(f"ignore_values {', '.join(map(str, values))} leave no class: ignore fewer values")
    every = tuple(dict.fromkeys((*table.ignore_values, *values)))
    return replace(table, classes=tuple(kept), ignore_values=every)
