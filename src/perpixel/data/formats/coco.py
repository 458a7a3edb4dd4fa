"""COCO JSON, read for semantic segmentation.

    annotations/instances_{train,val}2017.json + {train,val}2017/*.jpg       COCO's own
    {train,val}/instances.json + {train,val}/images/*.jpg                    one folder per split
    {train,valid,test}/_annotations.coco.json + images beside it             Roboflow

An annotation is the union of its polygons, or a run-length mask. Crowds are ignored. Smaller objects are painted over
larger ones. Values are the category ids, 0 is background; the class table maps them, gaps and all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from perpixel.data.class_file import make_table
from perpixel.data.formats.folder_words import split_of
from perpixel.data.formats.layout import Layout, first_few
from perpixel.data.sample import PolygonMask, Sample, Shape
from perpixel.errors import InputError
from perpixel.files import read_json
from perpixel.labels import ClassTable

IGNORE_VALUE = 65535
OTHER_TASKS = ("captions", "keypoints", "panoptic", "image_info", "stuff")
HEAD_BYTES = 4096


def detect(root: Path) -> bool:
    """A JSON file (itself, at the root, in annotations/ or one level down) that begins like COCO's."""
    return bool(find_files(root))


def find_files(root: Path) -> list[Path]:
    """The COCO files of a data set, by the place where they usually stand."""
    if root.is_file():
        return [root] if root.suffix.lower() == ".json" and _looks_right(root) else []
    if not root.is_dir():
        return []
    for pattern in ("annotations/*.json", "*.json", "*/*.json"):
        files = [path for path in sorted(root.glob(pattern)) if _looks_right(path)]
        files = [path for path in files if not any(task in path.name for task in OTHER_TASKS)]
        if files:
            return files
    return []


def _looks_right(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    found = sum(key in head for key in (b'"images"', b'"info"', b'"annotations"', b'"categories"', b'"licenses"'))
    return found >= 1 and b'"shapes"' not in head and b'"training"' not in head and b'"file_ending"' not in head


@dataclass(frozen=True)
class CocoFile:
    """One annotation file, checked."""

    path: Path
    images: list[dict[str, Any]]
    categories: dict[int, str]
    annotations: dict[int, list[dict[str, Any]]] = field(default_factory=dict)  # by image id
    strays: list[str] = field(default_factory=list)  # annotations without image or category, in words


def read(root: Path, classes: ClassTable | None) -> Layout:
    """Read all COCO files of a data set; the split is in the file's or the folder's name.

    Raises:
        InputError: a damaged file, images that do not exist, or files with different categories.
    """
    paths = find_files(root)
    if not paths:
        raise InputError(f"{root}: no COCO annotation file: check the path or choose another format")
    base = root.parent if root.is_file() else root
    files = [load(path) for path in paths]
    categories = one_list(files)
    categories, notes = drop_placeholder(categories, files)
    value_of = _values(categories)
    layout = Layout({}, classes or _table(categories, value_of), notes, ignore_values=(IGNORE_VALUE,))
    empty = 0
    for file in files:
        split = split_of(file.path.stem) or (split_of(file.path.parent.name) if file.path.parent != base else None)
        samples = _samples(file, base, value_of)
        empty += sum(not sample.mask.shapes for sample in samples if isinstance(sample.mask, PolygonMask))
        layout.splits.setdefault(split, []).extend(samples)
    rename_repeated(layout)
    if any(value_of[category] != category for category in categories):
        layout.notes.append("category 0 is taken by background here: values are places in the category list, from 1")
    if empty:
        layout.notes.append(f"{empty} images have no annotations: read as background")
    layout.notes.append(f"{len(categories)} COCO categories read as classes, after background; crowds are ignored")
    return layout


def load(path: Path, *, keep_strays: bool = False) -> CocoFile:
    """Read one file and check its parts.

    Args:
        keep_strays: annotations without image or category are left out and listed, not refused.
    Raises:
        InputError: a missing list, an entry without its keys, a doubled image id, or an unknown category.
    """
    content = read_json(path)
    lists = {key: content.get(key) if isinstance(content, dict) else None for key in ("images", "categories")}
    annotations = content.get("annotations") if isinstance(content, dict) else None
    for key, value in (*lists.items(), ("annotations", annotations)):
        if not isinstance(value, list):
            raise InputError(f"{path}: has no list '{key}': export the data set as COCO instances again")
    _need_keys(path, "images", content["images"], ("id", "file_name", "width", "height"))
    _need_keys(path, "categories", content["categories"], ("id", "name"))
    _need_keys(path, "annotations", content["annotations"], ("image_id", "category_id", "segmentation"))
    _need_numbers(path, "images", content["images"], ("id", "width", "height"))
    _need_numbers(path, "categories", content["categories"], ("id",))
    _need_numbers(path, "annotations", content["annotations"], ("image_id", "category_id"))
    categories = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
    file = CocoFile(path, content["images"], categories)
    ids = Counter(entry["id"] for entry in file.images)
    if ids and max(ids.values()) > 1:
        raise InputError(f"{path}: image id {ids.most_common(1)[0][0]} is given twice: number the images differently")
    for index, entry in enumerate(content["annotations"]):
        stray = _stray(index, entry, categories, ids)
        if stray and not keep_strays:
            raise InputError(f"{path}: {stray}")
        if stray:
            file.strays.append(stray)
        else:
            file.annotations.setdefault(entry["image_id"], []).append(entry)
    return file


def _stray(index: int, entry: dict[str, Any], categories: dict[int, str], images: Counter[int]) -> str:
    """What an annotation points to that does not exist, and what to do; empty when all is well."""
    if entry["category_id"] not in categories:
        return (
            f"annotation {index} has category {entry['category_id']}, which is not in the list of "
            f"{len(categories)} categories: add the category"
        )
    if entry["image_id"] not in images:
        return (
            f"annotation {index} belongs to image {entry['image_id']}, which is not in the list of "
            f"{len(images)} images: add the image"
        )
    return ""


def _need_keys(path: Path, name: str, entries: Iterable[Any], needed: tuple[str, ...]) -> None:
    for index, entry in enumerate(entries):
        missing = [key for key in needed if not isinstance(entry, dict) or key not in entry]
        if missing:
            raise InputError(f"{path}: {name}[{index}] lacks {', '.join(missing)}: export the data set again")


def one_list(files: list[CocoFile]) -> dict[int, str]:
    merged: dict[int, str] = {}
    for file in files:
        for number, name in file.categories.items():
            if merged.setdefault(number, name) != name:
                raise InputError(
                    f"{file.path}: category {number} is '{name}', but '{merged[number]}' in another file: "
                    "number the categories alike in all files"
                )
    if not merged:
        raise InputError(f"{files[0].path}: the list of categories is empty: add at least one category")
    return dict(sorted(merged.items()))


def drop_placeholder(categories: dict[int, str], files: list[CocoFile]) -> tuple[dict[int, str], list[str]]:
    """Roboflow adds a category 0 that only names the group of the others and is never used."""
    used = {entry["category_id"] for file in files for found in file.annotations.values() for entry in found}
    if 0 in categories and 0 not in used and len(categories) > 1:
        rest = {number: name for number, name in categories.items() if number != 0}
        return rest, [f"category 0 ('{categories[0]}') is never used and is left out"]
    return categories, []


def _values(categories: dict[int, str]) -> dict[int, int]:
    """Category id -> value in the mask: itself, or its place from 1 when an id cannot be stored beside background."""
    if min(categories) > 0 and max(categories) < IGNORE_VALUE:
        return {number: number for number in categories}
    return {number: place for place, number in enumerate(categories, 1)}


def _table(categories: dict[int, str], value_of: dict[int, int]) -> ClassTable:
    rows = [("background", 0), *((name, value_of[number]) for number, name in categories.items())]
    return make_table(rows, ignore_values=(IGNORE_VALUE,))


def _need_numbers(path: Path, name: str, entries: list[dict[str, Any]], keys: tuple[str, ...]) -> None:
    """Ids and sizes must be whole numbers of a sane size; some exporters write ids as text."""
    for index, entry in enumerate(entries):
        for key in keys:
            value = entry[key]
            if isinstance(value, str) and value.isdecimal() and len(value) < 16:
                value = entry[key] = int(value)
            if isinstance(value, float) and value.is_integer():
                value = entry[key] = int(value)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
                raise InputError(
                    f"{path}: {key} of entry {index} in '{name}' is {value!r}: write a whole number from 0"
                )


def _samples(file: CocoFile, base: Path, value_of: dict[int, int]) -> list[Sample]:
    folder = image_folder(file, base)
    paths = [folder / str(entry["file_name"]) for entry in file.images]
    refuse_missing_images(file, folder, paths)
    samples = []
    for entry, path in zip(file.images, paths):
        name = Path(str(entry["file_name"])).with_suffix("").as_posix()
        size = (int(entry["height"]), int(entry["width"]))
        mask = PolygonMask(_shapes(file, entry, value_of), size, file.path, path.name)
        samples.append(Sample(name, (path,), mask))
    return samples


def refuse_missing_images(file: CocoFile, folder: Path, paths: list[Path]) -> None:
    """Raise InputError when any of the images (in the order of `file.images`) does not exist."""
    missing = [str(entry["file_name"]) for entry, path in zip(file.images, paths) if not path.is_file()]
    if missing:
        raise InputError(
            f"{file.path}: {len(missing)} of {len(paths)} images are not in {folder} ({first_few(missing)}): "
            "add the images or take their entries out"
        )


def image_folder(file: CocoFile, base: Path) -> Path:
    """The first of the usual folders that holds the first listed image."""
    home = file.path.parent
    # "instances_train2017" speaks of the folder train2017.
    word = file.path.stem.removeprefix("instances_")
    split = split_of(file.path.stem) or ""
    tries = [home, home / "images", base, base / "images", base / word, base / "images" / word]
    tries += [base / split, base / split / "images", base / "images" / split, home.parent, home.parent / "images"]
    if file.images:
        first = str(file.images[0]["file_name"])
        for folder in tries:
            if (folder / first).is_file():
                return folder
    return home


def _shapes(file: CocoFile, image: dict[str, Any], value_of: dict[int, int]) -> tuple[Shape, ...]:
    """Crowds first, then objects from large to small, so that each later one lies on top."""
    size = (int(image["height"]), int(image["width"]))
    found = []
    for entry in file.annotations.get(image["id"], []):
        crowd = bool(entry.get("iscrowd", 0))
        shape = _shape(file.path, entry, IGNORE_VALUE if crowd else value_of.get(entry["category_id"], 0), size)
        if shape is not None:
            found.append((not crowd, -_area(entry, shape, size), shape))
    found.sort(key=lambda item: item[:2])
    return tuple(shape for _, _, shape in found)


def _area(entry: dict[str, Any], shape: Shape, size: tuple[int, int]) -> float:
    area = entry.get("area")
    if isinstance(area, int | float):
        return float(area)
    try:
        return float(shape.mask(size).sum())
    except InputError:
        return 0.0  # damaged run lengths; reading the mask names them


def _shape(path: Path, entry: dict[str, Any], value: int, size: tuple[int, int]) -> Shape | None:
    """One annotation; None when it has no outline at all (a box without a mask)."""
    outline = entry["segmentation"]
    where = f"{path}: annotation {entry.get('id', '?')} of image {entry['image_id']}"
    if isinstance(outline, dict):
        counts = outline.get("counts")
        if list(outline.get("size", size)) != list(size):
            raise InputError(
                f"{where}: run lengths of size {outline.get('size')} for an image of {list(size)}: export it again"
            )
        if isinstance(counts, str):
            return Shape(value, runs=counts)
        if isinstance(counts, list) and all(isinstance(count, int) for count in counts):
            return Shape(value, runs=tuple(counts))
        raise InputError(f"{where}: run lengths without counts: export it again")
    if not isinstance(outline, list):
        raise InputError(f"{where}: segmentation is neither polygons nor run lengths: export it again")
    polygons = []
    for numbers in outline:
        if not isinstance(numbers, list) or len(numbers) < 6 or len(numbers) % 2:
            raise InputError(f"{where}: a polygon needs at least 3 points x, y: draw it again")
        try:
            points = np.asarray(numbers, dtype=np.float64).reshape(-1, 2)
        except (TypeError, ValueError) as error:
            raise InputError(f"{where}: a polygon holds something else than numbers: draw it again") from error
        if not np.isfinite(points).all():
            raise InputError(f"{where}: a polygon holds numbers that are not finite: draw it again")
        polygons.append(points)
    return Shape(value, tuple(polygons)) if polygons else None


def rename_repeated(layout: Layout) -> None:
    """Splits often reuse names; then the split becomes part of every name."""
    names = [sample.name for samples in layout.splits.values() for sample in samples]
    if len(set(names)) == len(names):
        return
    for split, samples in layout.splits.items():
        layout.splits[split] = [
            Sample(f"{split or 'images'}/{sample.name}", sample.images, sample.mask) for sample in samples
        ]
