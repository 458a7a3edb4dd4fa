"""LabelMe: one JSON file per image, one shape an object; shapes of one label and group_id are parts of one object.

Layouts on the disk as in `data/formats/labelme.py`. `__ignore__` marks pixels of which nothing is known, `_background_`
marks nothing.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import UnidentifiedImageError

from perpixel.data.formats import labelme as files
from perpixel.data.formats.folder_words import is_image, walk
from perpixel.data.formats.labelme import BACKGROUND, IGNORED, OUTLINES
from perpixel.data.formats.layout import Layout, first_few
from perpixel.data.instances.shapes import ObjectShape, ShapeObjects
from perpixel.data.instances.tables import thing_table, with_background
from perpixel.data.sample import Sample, Shape
from perpixel.data.shapes import to_runs
from perpixel.errors import InputError
from perpixel.labels import VOID, ClassTable

detect = files.detect


def read(root: Path, classes: ClassTable | None) -> Layout:
    """Read all annotated images under `root`; folders train, val and test give the splits.

    Args:
        classes: the user's table; labels are looked up in it by name.
    Raises:
        InputError: a damaged file, an image that does not exist, or a label that `classes` does not name.
    """
    paths = [path for path in files.json_files(root) if files.looks_right(path)]
    if not paths:
        raise InputError(f"{root}: no LabelMe JSON files: check the path or choose another format")
    contents = {path: files.load(path) for path in paths}
    labels = sorted({shape["label"] for content in contents.values() for shape in content["shapes"]})
    things = [label for label in labels if label not in (IGNORED, BACKGROUND, "background")]
    if not things:
        raise InputError(f"{root}: the LabelMe files hold no labelled shape: outline at least one object")
    table = with_background(classes) if classes else thing_table([(name, i) for i, name in enumerate(things, 1)])
    kinds = _kinds(table, things, root)
    layout = Layout({}, table)
    images = {path.name: path for path in walk(root) if is_image(path)}
    skipped: Counter[str] = Counter()
    for path in paths:
        sample = _sample(root, path, contents[path], kinds, images, skipped)
        layout.splits.setdefault(files.folder_split(root, path), []).append(sample)
    files.add_notes(layout, images, skipped)
    return layout


def _kinds(table: ClassTable, labels: list[str], root: Path) -> dict[str, int]:
    """Label -> class index. Labels that the table leaves out are not in it."""
    known = {name: index for index, name in enumerate(table.names) if index}
    unknown = [label for label in labels if label not in known]
    if unknown and table.others == "refuse":
        raise InputError(
            f"{root}: {len(unknown)} labels are not in the class table ({first_few(unknown)}; known: "
            f"{', '.join(table.names)}): add them to classes.json or correct the labels"
        )
    return {**known, IGNORED: VOID}


def _sample(
    root: Path,
    path: Path,
    content: dict[str, Any],
    kinds: dict[str, int],
    images: dict[str, Path],
    skipped: Counter[str],
) -> Sample:
    image = files.find_image(path, content, images)
    size = files.stated_size(content, image)
    groups: dict[object, list[tuple[int, dict[str, Any]]]] = {}
    for index, entry in enumerate(content["shapes"]):
        kind = entry.get("shape_type") or "polygon"
        if kind not in OUTLINES:
            skipped[str(kind)] += 1
        elif entry["label"] in kinds:
            group = entry.get("group_id")
            key = index if not isinstance(group, int) else (entry["label"], group)
            groups.setdefault(key, []).append((index, entry))
    shapes = tuple(_object(found, kinds[found[0][1]["label"]], size) for found in groups.values())
    name = path.relative_to(root).with_suffix("").as_posix()
    return Sample(name, (image,), ShapeObjects(shapes, size, "centre", path, image.name))


def _object(entries: list[tuple[int, dict[str, Any]]], kind: int, size: tuple[int, int]) -> ObjectShape:
    index, first = entries[0]
    name = f"shape {index} ('{first['label']}')"
    parts: list[Shape] = []
    for _, entry in entries:
        try:
            parts.append(files.read_shape(entry, entry.get("shape_type") or "polygon", 0, size))
        except (TypeError, ValueError, KeyError, IndexError, OverflowError, UnidentifiedImageError) as error:
            return ObjectShape(kind, name, fault=f"damaged ({error})")
    is_crowd = kind == VOID
    if all(part.runs is None for part in parts):
        polygons = tuple(points for part in parts for points in part.polygons)
        return ObjectShape(kind, name, polygons, is_crowd=is_crowd)
    union = np.logical_or.reduce([part.mask(size) for part in parts])
    return ObjectShape(kind, name, runs=to_runs(union), is_crowd=is_crowd)
