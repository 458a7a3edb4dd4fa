"""The class table: names, colours, and which values of a mask file mean which class. Written into every artefact."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from perpixel.errors import InputError
from perpixel.labels.colours import default_colours

Colour = tuple[int, int, int]
# A whole number, or a colour in masks that are coded by colour.
FileValue = int | Colour

MAX_CLASSES = 65535
VOID_COLOUR: Colour = (128, 128, 128)


@dataclass(frozen=True)
class ClassInfo:
    """One class; `values` are all the file values that mean it."""

    name: str
    colour: Colour
    values: tuple[FileValue, ...]


@dataclass(frozen=True)
class ClassTable:
    """The classes of a data set, in the order of their indices in label maps.

    Attributes:
        ignore_values: file values of pixels that are left out of loss and scores.
        others: what values that are not listed are: "refuse" (an error) or "ignore".
    """

    classes: tuple[ClassInfo, ...]
    ignore_values: tuple[FileValue, ...] = ()
    others: str = "refuse"

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.classes)

    @property
    def colours(self) -> np.ndarray:
        """(K, 3) uint8."""
        return np.array([one.colour for one in self.classes], np.uint8).reshape(-1, 3)

    @property
    def ignore_index(self) -> int:
        """The index of ignored pixels in label maps: 255, or 65535 where 255 is a class."""
        return 255 if self.num_classes <= 255 else 65535

    @property
    def dtype(self) -> type[np.generic]:
        return np.uint8 if self.num_classes <= 255 else np.uint16

    def palette(self) -> np.ndarray:
        """(256, 3) uint8 for indexed PNGs: class colours, grey for the ignored, black for the rest."""
        colours = np.zeros((256, 3), np.uint8)
        shown = min(256, self.num_classes)
        colours[:shown] = self.colours[:shown]
        if self.num_classes <= 255:
            colours[255] = VOID_COLOUR
        return colours

    def encode(self, values: np.ndarray) -> tuple[np.ndarray, dict[FileValue, int]]:
        """File values -> class indices.

        Args:
            values: (H, W) integers, or (H, W, 3) uint8 colours.
        Returns:
            (H, W) label map of `dtype`, `ignore_index` where ignored or unknown; and value -> pixels of each unknown value
            (always empty with others="ignore").
        """
        is_colour = values.ndim == 3
        keys = _pack(values) if is_colour else values
        known, indices = self._colour_keys if is_colour else self._number_keys
        if keys.dtype.itemsize <= 2 and keys.dtype.kind == "u":
            found = self._table(keys.dtype)[keys]
        else:
            found = _search(keys, known, indices)
        unknown: dict[FileValue, int] = {}
        missing = found == -1
        if missing.any():
            if self.others == "refuse":
                left, counts = np.unique(keys[missing], return_counts=True)
                unknown = {_unpack(key) if is_colour else int(key): int(n) for key, n in zip(left, counts)}
            found = np.where(missing, self.ignore_index, found)
        return found.astype(self.dtype), unknown

    @cached_property
    def _number_keys(self) -> tuple[np.ndarray, np.ndarray]:
        return self._sorted_keys(lambda value: value if isinstance(value, int) else None)

    @cached_property
    def _colour_keys(self) -> tuple[np.ndarray, np.ndarray]:
        return self._sorted_keys(lambda value: None if isinstance(value, int) else _key(value))

    def _sorted_keys(self, key_of: Any) -> tuple[np.ndarray, np.ndarray]:
        pairs = [(key_of(value), index) for index, one in enumerate(self.classes) for value in one.values]
        pairs += [(key_of(value), self.ignore_index) for value in self.ignore_values]
        pairs = sorted({key: index for key, index in pairs if key is not None}.items())
        return np.array([k for k, _ in pairs], np.int64), np.array([i for _, i in pairs], np.int32)

    def _table(self, dtype: np.dtype) -> np.ndarray:
        table = np.full(256 ** dtype.itemsize, -1, np.int32)
        known, indices = self._number_keys
        fits = (known >= 0) & (known < len(table))
        table[known[fits]] = indices[fits]
        return table

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {
            "classes": [
                {"name": one.name, "colour": list(one.colour), "values": [_plain(value) for value in one.values]}
                for one in self.classes
            ],
            "ignore_values": [_plain(value) for value in self.ignore_values],
            "others": self.others,
        }

    @classmethod
    def from_json(cls, content: Any, where: str = "classes.json") -> ClassTable:
        """A table from any of its written forms; `where` is named in errors.

            {"classes": [{"name": "cell", "colour": [255, 0, 0], "values": [1]}, ...], "ignore_values": [255]}
            {"classes": ["background", "cell"], "values": {"0": "background", "255": "cell"}}
            {"classes": ["sky", ..., "void"], "ignore_index": 11}      the class at that value is no class
            {"0": "background", "1": "cell"}          ["background", "cell"]

        Raises:
            InputError: none of these, no class, a name or a value twice.
        """
        return _read(content, where)


def _pack(colours: np.ndarray) -> np.ndarray:
    wide = colours.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def _key(colour: Colour) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def _unpack(key: int) -> Colour:
    return int(key) >> 16 & 255, int(key) >> 8 & 255, int(key) & 255


def _search(keys: np.ndarray, known: np.ndarray, indices: np.ndarray) -> np.ndarray:
    if not len(known):
        return np.full(keys.shape, -1, np.int32)
    places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[places] == keys, indices[places], -1)


def _plain(value: FileValue) -> int | list[int]:
    return value if isinstance(value, int) else list(value)


def _read(content: Any, where: str) -> ClassTable:
    if isinstance(content, list):
        content = {"classes": content}
    if not isinstance(content, dict):
        raise InputError(f"{where}: a class table is an object or a list of names, not {type(content).__name__}: mend it")
    if "classes" not in content:
        keys = {k: v for k, v in content.items() if k not in ("ignore_values", "ignore_index", "others")}
        content = {**content, "classes": list(keys.values()), "values": keys}
    entries = content["classes"]
    if isinstance(entries, dict):
        content, entries = {**content, "values": entries}, list(entries.values())
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{where}: 'classes' holds no class: list at least one name")
    ignored = [_value(value, where) for value in _list(content.get("ignore_values", []), where)]
    void = content.get("ignore_index")
    if void is not None:
        ignored.append(_value(void, where))
    others = content.get("others", "refuse")
    if others not in ("refuse", "ignore"):
        raise InputError(f"{where}: others is {others!r}: write \"refuse\" or \"ignore\"")
    parts = _entries(entries, content.get("values"), ignored, where)
    table = ClassTable(parts, tuple(dict.fromkeys(ignored)), others)
    _check(table, where)
    return table


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{where}: ignore_values is {value!r}: write a list of values")
    return value


def _entries(
    entries: list[Any], values: Any, ignored: Sequence[FileValue], where: str
) -> tuple[ClassInfo, ...]:
    names = [entry.get("name") if isinstance(entry, dict) else entry for entry in entries]
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{where}: class name {name!r} is not a text: give every class a name")
    named = _values_by_name(values, names, where)
    # A list of names gives each its place as value; the name at an ignored value is void, not a class.
    rows = []
    for place, (entry, name) in enumerate(zip(entries, names)):
        own = _own_values(entry, where) if isinstance(entry, dict) else None
        listed = own if own is not None else named.get(name, () if named else (place,))
        if listed and all(value in ignored for value in listed):
            continue
        rows.append((entry, name, listed))
    colours = default_colours(len(rows), background=bool(rows) and "background" in rows[0][1].lower())
    return tuple(
        ClassInfo(name, _colour(entry, tuple(int(v) for v in colour), where), listed)
        for (entry, name, listed), colour in zip(rows, colours)
    )


def _own_values(entry: dict[str, Any], where: str) -> tuple[FileValue, ...] | None:
    if "values" in entry:
        return tuple(_value(value, where) for value in _list(entry["values"], where))
    for key in ("value", "id"):
        if key in entry:
            return (_value(entry[key], where),)
    return None


def _values_by_name(values: Any, names: Sequence[str], where: str) -> dict[str, tuple[FileValue, ...]]:
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{where}: 'values' is {type(values).__name__}: write an object such as {{\"0\": \"background\"}}")
    found: dict[str, tuple[FileValue, ...]] = {}
    for key, name in values.items():
        if name not in names:
            raise InputError(f"{where}: value {key} means {name!r}, which is not among the classes: add it, or mend the name")
        found[name] = (*found.get(name, ()), _value(key, where))
    return found


def _value(value: Any, where: str) -> FileValue:
    if isinstance(value, str):
        text = value.strip().lstrip("#")
        if value.strip().startswith("#") and len(text) == 6 and all(c in "0123456789abcdefABCDEF" for c in text):
            return _unpack(int(text, 16))
        parts = text.strip("()[] ").replace(",", " ").split()
        if parts and all(part.isdecimal() and len(part) < 12 for part in parts) and len(parts) in (1, 3):
            value = int(parts[0]) if len(parts) == 1 else [int(part) for part in parts]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32:
        return value
    is_colour = isinstance(value, (list, tuple)) and len(value) == 3
    if is_colour and all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 255 for v in value):
        return int(value[0]), int(value[1]), int(value[2])
    raise InputError(f"{where}: {value!r} is not a mask value: write a whole number, or a colour as [red, green, blue]")


def _colour(entry: Any, default: tuple[int, ...], where: str) -> Colour:
    given = (entry.get("colour") or entry.get("color")) if isinstance(entry, dict) else None
    if given is None:
        return default[0], default[1], default[2]
    value = _value(given, where)
    if isinstance(value, int):
        raise InputError(f"{where}: colour {given!r} is a number: write [red, green, blue]")
    return value


def _check(table: ClassTable, where: str) -> None:
    if not table.classes:
        raise InputError(f"{where}: every class is ignored: leave at least one to learn")
    if table.num_classes > MAX_CLASSES:
        raise InputError(f"{where}: {table.num_classes} classes: at most {MAX_CLASSES} are possible")
    twice = _repeated(table.names)
    if twice is not None:
        raise InputError(f"{where}: class name {twice!r} stands twice: names must differ")
    value = _repeated([value for one in table.classes for value in one.values] + list(table.ignore_values))
    if value is not None:
        raise InputError(f"{where}: mask value {value} has two meanings: give each value one class, or ignore it")


def _repeated(items: Iterable[Any]) -> Any:
    seen = set()
    for item in items:
        if item in seen:
            return item
        seen.add(item)
    return None
