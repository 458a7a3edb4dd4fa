"""The class table: names, colours, and which values of a mask file mean which class. Written into every artefact."""

from __future__ import annotations

import re
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
SMALLEST_VALUE, LARGEST_VALUE = -(2**31), 2**32 - 1
# Keys that are no class where values and names stand at the top level.
SETTINGS = ("ignore_values", "ignore_index", "others")
SHOWN_LENGTH = 60
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
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
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
            (H, W) label map of `dtype`, `ignore_index` where ignored or unknown; and value -> pixels of each unknown
            value (always empty with others="ignore").
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
        table = np.full(256**dtype.itemsize, -1, np.int32)
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
            {"0": "background", "1": "cell"}   {"background": 0, "cell": 1}   ["background", "cell"]

        Values are whole numbers of 32 bits, or colours: [255, 0, 0], "255 0 0" or "#ff0000".

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


# ---- from JSON


def _read(content: Any, where: str) -> ClassTable:
    if isinstance(content, list):
        content = {"classes": content}
    if not isinstance(content, dict):
        raise InputError(f"{where}: a class table is an object or a list of names, not {_short(content)}: mend it")
    if "classes" not in content:
        content = {**content, "classes": {key: one for key, one in content.items() if key not in SETTINGS}}
    entries, values = content["classes"], content.get("values")
    if isinstance(entries, dict):
        values = _names_by_value(entries, where)
        entries = list(dict.fromkeys(values.values()))
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{where}: 'classes' holds no class: list at least one name")
    if len(entries) > MAX_CLASSES:
        raise InputError(f"{where}: {len(entries)} classes: at most {MAX_CLASSES} are possible")
    ignored = [_value(value, where) for value in _list(content.get("ignore_values", []), "ignore_values", where)]
    if content.get("ignore_index") is not None:
        ignored.append(_value(content["ignore_index"], where))
    others = content.get("others", "refuse")
    if others not in ("refuse", "ignore"):
        raise InputError(f'{where}: others is {_short(others)}: write "refuse" or "ignore"')
    table = ClassTable(_entries(entries, values, set(ignored), where), tuple(dict.fromkeys(ignored)), others)
    _check(table, where)
    return table


def _names_by_value(table: dict[str, Any], where: str) -> dict[str, str]:
    """Value -> name from either {"0": "background"} or {"background": 0}."""
    if table and all(_is_int(value) for value in table.values()):
        twice = _repeated(table.values())
        if twice is not None:
            raise InputError(f"{where}: mask value {twice} has two meanings: give each value one class, or ignore it")
        return {str(value): name for name, value in table.items()}
    for value, name in table.items():
        if not isinstance(name, str):
            raise InputError(f"{where}: {_short(value)} means {_short(name)}, which is no class name: write a text")
    return table


def _list(value: Any, key: str, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{where}: {key} is {_short(value)}: write a list of values")
    return value


def _entries(entries: list[Any], values: Any, ignored: set[FileValue], where: str) -> tuple[ClassInfo, ...]:
    names: list[Any] = [entry.get("name") if isinstance(entry, dict) else entry for entry in entries]
    for name in names:
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise InputError(f"{where}: class name {_short(name)} is not a line of text: give every class a name")
    named = _values_by_name(values, set(names), where)
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
        ClassInfo(name, _colour(entry, listed, colour, where), listed)
        for (entry, name, listed), colour in zip(rows, colours)
    )


def _own_values(entry: dict[str, Any], where: str) -> tuple[FileValue, ...] | None:
    if "values" in entry:
        return tuple(_value(value, where) for value in _list(entry["values"], "values", where))
    for key in ("value", "id"):
        if key in entry:
            return (_value(entry[key], where),)
    return None


def _values_by_name(values: Any, names: set[str], where: str) -> dict[str, tuple[FileValue, ...]]:
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f'{where}: values is {_short(values)}: write an object such as {{"0": "background"}}')
    found: dict[str, tuple[FileValue, ...]] = {}
    for key, name in values.items():
        if not isinstance(name, str) or name not in names:
            raise InputError(
                f"{where}: value {_short(key)} means {_short(name)}, which is not among the classes: "
                "add it, or mend the name"
            )
        found[name] = (*found.get(name, ()), _value(key, where))
    return found


def _value(value: Any, where: str) -> FileValue:
    found: Any = _value_of_text(value) if isinstance(value, str) else value
    if _is_int(found) and SMALLEST_VALUE <= found <= LARGEST_VALUE:
        return int(found)
    if _is_colour(found):
        return int(found[0]), int(found[1]), int(found[2])
    raise InputError(
        f"{where}: {_short(value)} is not a mask value: write a whole number, or a colour as [red, green, blue]"
    )


def _value_of_text(text: str) -> int | tuple[int, ...] | None:
    """Of "7", "-1", "255 0 0", "(255, 0, 0)" and "#ff0000"; None for other texts."""
    if re.fullmatch(r"\s*#[0-9a-fA-F]{6}\s*", text):
        return _unpack(int(text.strip()[1:], 16))
    numbers = tuple(int(part) for part in re.findall(r"-?[0-9]{1,11}", text))
    if re.fullmatch(r"\s*-?[0-9]{1,11}\s*", text):
        return numbers[0]
    if re.fullmatch(r"\s*[(\[]?\s*[0-9]{1,3}\s*[, ]\s*[0-9]{1,3}\s*[, ]\s*[0-9]{1,3}\s*[)\]]?\s*", text):
        return numbers
    return None


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_colour(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple)) and len(value) == 3 and all(_is_int(one) and 0 <= one <= 255 for one in value)
    )


def _colour(entry: Any, values: Sequence[FileValue], default: np.ndarray, where: str) -> Colour:
    """The colour given, else the one that codes the class in masks, else the default."""
    given = entry.get("colour", entry.get("color")) if isinstance(entry, dict) else None
    if given is None:
        coded = [value for value in values if not isinstance(value, int)]
        return coded[0] if coded else (int(default[0]), int(default[1]), int(default[2]))
    colour: Any = _value_of_text(given) if isinstance(given, str) else given
    if not _is_colour(colour):
        raise InputError(f"{where}: {_short(given)} is not a colour: write [red, green, blue], each 0..255")
    red, green, blue = (int(one) for one in colour)
    return red, green, blue


def _check(table: ClassTable, where: str) -> None:
    if not table.classes:
        raise InputError(f"{where}: every class is ignored: leave at least one to learn")
    twice = _repeated(table.names)
    if twice is not None:
        raise InputError(f"{where}: class name {_short(twice)} stands twice: names must differ")
    value = _repeated([value for one in table.classes for value in one.values] + list(table.ignore_values))
    if value is not None:
        raise InputError(f"{where}: mask value {value} has two meanings: give each value one class, or ignore it")


def _repeated(items: Iterable[Any]) -> Any:
    """The first item that stands twice, or None."""
    seen = set()
    for item in items:
        if item in seen:
            return item
        seen.add(item)
    return None


def _short(value: Any) -> str:
    """A value as an error shows it, however long it is."""
    text = repr(value)
    return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}..."
