"""dataset.json as nnU-Net and the Medical Segmentation Decathlon write it: what its labels and lists mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perpixel.data.class_file import make_table
from perpixel.errors import InputError
from perpixel.files import read_json
from perpixel.labels import ClassTable


def load(root: Path) -> dict[str, Any]:
    """dataset.json under `root`.

    Raises:
        InputError: missing, no JSON, or not an object.
    """
    content = read_json(root / "dataset.json")
    if not isinstance(content, dict):
        raise InputError(f"{root / 'dataset.json'}: holds no object: it needs the keys labels and file lists")
    return content


def keys(root: Path) -> set[str]:
    """The top keys of dataset.json; none when there is no such file or it cannot be read."""
    try:
        return set(load(root)) if (root / "dataset.json").is_file() else set()
    except InputError:
        return set()


def read_labels(content: dict[str, Any], where: Path) -> ClassTable:
    """The class table from `labels`: name -> value (nnU-Net 2) or value -> name (Decathlon, nnU-Net 1).

    Values keep their gaps; a label called ignore is left out of training and scores.

    Raises:
        InputError: no labels, a value that is no whole number, or regions (lists of values).
    """
    labels = content.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise InputError(f'{where}: has no labels: add "labels": {{"background": 0, ...}}')
    pairs = [_name_and_value(str(key), value, where) for key, value in labels.items()]
    pairs.sort(key=lambda pair: pair[1])
    kept = [(name, value) for name, value in pairs if name.lower() != "ignore"]
    ignored = tuple(value for name, value in pairs if name.lower() == "ignore")
    return make_table(kept, ignore_values=ignored)


def _name_and_value(key: str, value: object, where: Path) -> tuple[str, int]:
    if isinstance(value, list):
        raise InputError(
            f"{where}: label '{key}' is the region {value}: regions (overlapping labels) are not supported, "
            "give each label one number"
        )
    if key.isdigit() and isinstance(value, str) and not value.isdigit():
        return value, int(key)
    if isinstance(value, bool) or not str(value).isdigit():
        raise InputError(f"{where}: label '{key}' has the value {value!r}: give each label one whole number")
    if int(str(value)) >= 2**31:
        raise InputError(f"{where}: label '{key}' has the value {value}, too large for a mask: mend it")
    return key, int(str(value))


def channel_names(content: dict[str, Any], where: Path) -> tuple[str, ...]:
    """The names in `channel_names` (nnU-Net 2) or `modality` (Decathlon, nnU-Net 1), in the order of their numbers.

    Raises:
        InputError: no object.
    """
    named = content.get("channel_names") or content.get("modality") or {}
    if not isinstance(named, dict):
        raise InputError(f'{where}: channel_names is {named!r}: write {{"0": "name", ...}}')
    order = sorted(named, key=lambda key: (not str(key).isdigit(), int(key) if str(key).isdigit() else 0, str(key)))
    return tuple(str(named[key]) for key in order)
