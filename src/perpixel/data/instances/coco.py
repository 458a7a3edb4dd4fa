"""COCO JSON: the objects, with crowds, stated boxes and areas. Layouts on the disk as in `data/formats/coco.py`.

Polygons are filled by COCO's own rule, so that scores are those of its tools to the last pixel. As there, an object
that has several polygons is their union: one inside another makes no hole. Category ids, gaps and all, map through the
values of the class table.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from perpixel.data.formats import coco as files
from perpixel.data.formats.folder_words import split_of
from perpixel.data.formats.layout import Layout, first_few
from perpixel.data.instances.shapes import ObjectShape, ShapeObjects, points_of
from perpixel.data.instances.sources import Finding
from perpixel.data.instances.tables import kinds_by_value, thing_table, with_background
from perpixel.data.sample import Sample
from perpixel.errors import InputError
from perpixel.labels import ClassTable

detect = files.detect


def read(root: Path, classes: ClassTable | None) -> Layout:
    """Read all COCO files of a data set.

    Raises:
        InputError: a damaged file, images that do not exist, or files with different categories.
    """
    paths = files.find_files(root)
    if not paths:
        raise InputError(f"{root}: no COCO annotation file: check the path or choose another format")
    base = root.parent if root.is_file() else root
    loaded = [files.load(path, keep_strays=True) for path in paths]
    categories, notes = files.drop_placeholder(files.one_list(loaded), loaded)
    table = thing_table([(name, number) for number, name in categories.items()])
    table = table if classes is None else with_background(classes)
    kinds = kinds_by_value(table, list(categories), root)
    layout = Layout({}, table, notes)
    empty = dropped = 0
    for file in loaded:
        split = split_of(file.path.stem) or (split_of(file.path.parent.name) if file.path.parent != base else None)
        samples = _samples(file, base, kinds)
        empty += sum(not file.annotations.get(entry["id"]) for entry in file.images)
        dropped += sum(kinds.get(e["category_id"]) is None for found in file.annotations.values() for e in found)
        layout.splits.setdefault(split, []).extend(samples)
    files.rename_repeated(layout)
    if empty:
        layout.notes.append(f"{empty} images have no objects: kept as examples of background")
    if dropped:
        layout.notes.append(f"{dropped} objects of categories that the class table leaves out are not read")
    layout.notes.append(f"{table.num_classes - 1} classes of {len(categories)} COCO categories, after background")
    return layout


def _samples(file: files.CocoFile, base: Path, kinds: dict[int, int | None]) -> list[Sample]:
    folder = files.image_folder(file, base)
    paths = [folder / str(entry["file_name"]) for entry in file.images]
    files.refuse_missing_images(file, folder, paths)
    general = _file_findings(file)
    samples = []
    for place, (entry, path) in enumerate(zip(file.images, paths)):
        size = (int(entry["height"]), int(entry["width"]))
        found = file.annotations.get(entry["id"], [])
        known = [(one, kinds.get(one["category_id"])) for one in found]
        shapes = tuple(_shape(one, kind) for one, kind in known if kind is not None)
        # What concerns the whole file is said once, with its first image.
        findings = (*(general if place == 0 else ()), *_twice(found))
        source = ShapeObjects(shapes, size, "coco", file.path, path.name, findings)
        name = Path(str(entry["file_name"])).with_suffix("").as_posix()
        samples.append(Sample(name, (path,), source))
    return samples


def _file_findings(file: files.CocoFile) -> tuple[Finding, ...]:
    """Annotations that point nowhere, and ids given twice."""
    found = []
    for what in ("category", "image"):
        strays = [stray for stray in file.strays if f"add the {what}" in stray]
        if strays:
            first, _, remedy = strays[0].rpartition(": ")
            message = f"{len(strays)} annotations are left out: {first}" if len(strays) > 1 else f"{first}: left out"
            severity = "error" if what == "category" else "warning"
            found.append(Finding(severity, f"dangling_{what}", message, len(strays), remedy))
    ids = Counter(str(entry["id"]) for every in file.annotations.values() for entry in every if "id" in entry)
    twice = [number for number, count in ids.items() if count > 1]
    if twice:
        message = f"{len(twice)} annotation ids are given more than once ({first_few(twice)})"
        found.append(Finding("warning", "duplicate_id", message, len(twice), "number the annotations differently"))
    return tuple(found)


def _twice(entries: list[dict[str, Any]]) -> tuple[Finding, ...]:
    """Objects of one image with the same category and the same outline."""
    seen: Counter[str] = Counter(f"{entry['category_id']} {entry['segmentation']}" for entry in entries)
    count = sum(number - 1 for number in seen.values())
    if not count:
        return ()
    message = f"{count} objects are annotated twice, with the same outline"
    return (Finding("warning", "duplicate_object", message, count, "delete one of each pair"),)


def _shape(entry: dict[str, Any], kind: int) -> ObjectShape:
    box, area = entry.get("bbox"), entry.get("area")
    more: dict[str, Any] = {
        "is_crowd": bool(entry.get("iscrowd", 0)),
        "box": _box(box),
        "area": _area(area),
    }
    name = f"annotation {entry.get('id', '?')}"
    outline = entry["segmentation"]
    if isinstance(outline, dict):
        return ObjectShape(kind, name, **_runs(outline), **more)
    if not isinstance(outline, list):
        return ObjectShape(kind, name, fault="its segmentation is neither polygons nor run lengths", **more)
    polygons, short = [], 0
    try:
        for numbers in outline:
            points = points_of(numbers)
            short += len(points) < 3
            if len(points) >= 3:
                polygons.append(points)
    except InputError as error:
        return ObjectShape(kind, name, fault=str(error), **more)
    return ObjectShape(kind, name, tuple(polygons), short=short, **more)


def _runs(outline: dict[str, Any]) -> dict[str, Any]:
    counts, size = outline.get("counts"), outline.get("size")
    stated = None
    if isinstance(size, list) and len(size) == 2 and all(_is_number(side) for side in size):
        stated = (int(size[0]), int(size[1]))
    if isinstance(counts, str):
        return {"runs": counts, "runs_size": stated}
    if isinstance(counts, list) and all(isinstance(n, int) and 0 <= n < 2**40 for n in counts):
        return {"runs": tuple(counts), "runs_size": stated}
    return {"fault": "run lengths without counts"}


def _area(area: Any) -> float | None:
    return float(area) if _is_number(area) and area >= 0 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(_as_float(value))


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _box(box: Any) -> tuple[float, float, float, float] | None:
    """x, y, width, height -> x0 y0 x1 y1; None where there is no box; NaN, which fits no image, for a damaged one."""
    if box is None:
        return None
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(side) for side in box):
        return (math.nan,) * 4
    x, y, width, height = (float(side) for side in box)
    return (x, y, x + width, y + height)
