"""Class tables of instance data: background is class 0 and no object, things follow; their values are ids in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perpixel.errors import InputError
from perpixel.labels import ClassInfo, ClassTable, default_colours
from perpixel.labels.colours import BACKGROUND

BACKGROUND_NAMES = ("background", "_background_", "bg")


def thing_table(
    things: Sequence[tuple[str, int]],
    *,
    colours: Sequence[tuple[int, int, int]] | None = None,
    ignore_values: Sequence[int] = (),
) -> ClassTable:
    """Background, then one class a thing.

    Args:
        things: name and id in the file; where no id is 0, background is.
        colours: of the things; None = default colours.
    """
    names = [name for name, _ in things]
    twice = next((name for name in names if names.count(name) > 1 or name.lower() in BACKGROUND_NAMES), None)
    chosen = default_colours(len(things) + 1, background=True).tolist()
    shown = [tuple(colour) for colour in chosen[1:]] if colours is None else list(colours)
    taken = any(value == 0 for _, value in things)
    infos = [ClassInfo("background", BACKGROUND, () if taken else (0,))]
    for (name, value), colour in zip(things, shown):
        # Two things of one name are told apart by their ids.
        unique = f"{name} ({value})" if twice is not None and (names.count(name) > 1 or _is_background(name)) else name
        infos.append(ClassInfo(unique, (int(colour[0]), int(colour[1]), int(colour[2])), (value,)))
    return ClassTable(tuple(infos), tuple(ignore_values))


def _is_background(name: str) -> bool:
    return name.lower() in BACKGROUND_NAMES


def with_background(table: ClassTable) -> ClassTable:
    """The table with background as class 0: as it is where its first class is that, else with one put in front."""
    first = table.classes[0]
    if _is_background(first.name) or 0 in first.values:
        return table
    has_zero = any(0 in info.values for info in table.classes)
    row = ClassInfo("background", BACKGROUND, () if has_zero else (0,))
    return ClassTable((row, *table.classes), table.ignore_values, table.others)


def single_thing(table: ClassTable | None, where: Path) -> ClassTable:
    """The table for data whose objects have no class: background and one thing.

    Raises:
        InputError: the user's table has more things.
    """
    if table is None:
        return thing_table([("object", 1)])
    full = with_background(table)
    if full.num_classes != 2:
        raise InputError(
            f"{where}: {full.num_classes - 1} classes ({', '.join(full.names[1:5])}), but objects in this layout have "
            "no class: list background and one class"
        )
    return full


def kinds_by_value(table: ClassTable, ids: Sequence[int], where: Path) -> dict[int, int | None]:
    """Id in the file -> class index; None for ids that the table leaves out.

    Raises:
        InputError: an id that a table with others="refuse" does not list.
    """
    known: dict[int, int | None] = {value: None for value in table.ignore_values if isinstance(value, int)}
    for index, info in enumerate(table.classes):
        known.update({value: index or None for value in info.values if isinstance(value, int)})
    missing = [number for number in ids if number not in known]
    if missing and table.others == "refuse":
        raise InputError(
            f"{where}: category {missing[0]} is not in the class table: add its id to the values of a class, or to "
            "ignore_values"
        )
    return {number: known.get(number) for number in ids}
