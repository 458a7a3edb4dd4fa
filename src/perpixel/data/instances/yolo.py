"""YOLO's text files for segmentation: one line an object, `class x y x y ...`, from 0 to 1 across the image.

    data.yaml                    path, train, val, test, names
    images/{train,val}/x.jpg     or {train,valid,test}/images/x.jpg
    labels/{train,val}/x.txt     the same path with labels/ for images/; without a file the image has no objects

A line cannot hold a hole, nor an object of several parts. Lines of four numbers are boxes without an outline.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from perpixel.data.formats.folder_words import image_files, is_image, split_of, walk
from perpixel.data.formats.layout import Layout, first_few
from perpixel.data.formats.list_files import read_list
from perpixel.data.instances.shapes import ObjectShape, ShapeObjects, points_of
from perpixel.data.instances.tables import kinds_by_value, thing_table, with_background
from perpixel.data.sample import Sample
from perpixel.errors import InputError
from perpixel.images import probe_image
from perpixel.labels import ClassTable

NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
MOST_BYTES = 1 << 20
MOST_CLASSES = 10_000
BOX_NUMBERS = 4


def detect(root: Path) -> bool:
    """A data.yaml at the root, or text files beside images in folders labels/ and images/."""
    if root.is_file():
        return root.suffix.lower() in (".yaml", ".yml")
    if _settings_file(root) is not None:
        return True
    return any(_label_file(path).is_file() for path in _all_images(root)[:20])


def _settings_file(root: Path) -> Path | None:
    if root.is_file():
        return root
    return next((root / name for name in NAMES if (root / name).is_file()), None)


def _all_images(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return [path for path in walk(root) if is_image(path) and "images" in path.relative_to(root).parent.parts]


def _label_file(image: Path) -> Path:
    """The last folder called images becomes labels, the suffix .txt."""
    parts = list(image.with_suffix(".txt").parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts)


def read(root: Path, classes: ClassTable | None) -> Layout:
    """Read a YOLO data set.

    Raises:
        InputError: a damaged data.yaml or text file, images that do not exist, or a class without a name.
    """
    file = _settings_file(root)
    settings = {} if file is None else _load(file)
    home = (file or root).parent if file is not None else root
    found = _images_by_split(root, home, settings)
    lines = {image: _read_lines(_label_file(image)) for images in found.values() for image in images}
    numbers = sorted({line[0] for every in lines.values() for line in every})
    names = _class_names(settings, file)
    if names is None:
        names = {number: f"class_{number}" for number in range(max(numbers, default=0) + 1)}
    astray = [number for number in numbers if number not in names]
    if astray:
        raise InputError(f"{file}: class {astray[0]} has no name among {len(names)}: add it to names")
    table = thing_table([(name, number) for number, name in sorted(names.items())])
    table = table if classes is None else with_background(classes)
    kinds = kinds_by_value(table, sorted(names), root)
    layout = Layout({}, table)
    for split, images in found.items():
        layout.splits[split] = [_sample(home, image, lines[image], kinds) for image in images]
    empty = sum(not every for every in lines.values())
    if empty:
        layout.notes.append(f"{empty} images have no lines: kept as examples of background")
    if file is None:
        layout.notes.append(f"no data.yaml: classes are called after their numbers ({len(names)})")
    return layout


def _load(file: Path) -> dict[str, Any]:
    """data.yaml, which is plain YAML without tags."""
    import yaml

    try:
        if file.stat().st_size > MOST_BYTES:
            raise InputError(f"{file}: larger than {MOST_BYTES} bytes, which no list of names is: check the file")
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{file}: cannot be read as YAML ({reason}): mend the file") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds no keys: write train, val and names")
    return {str(key): value for key, value in content.items()}


def _class_names(settings: dict[str, Any], file: Path | None) -> dict[int, str] | None:
    names = settings.get("names")
    if names is None:
        return None
    pairs = (
        list(enumerate(names)) if isinstance(names, list) else list(names.items()) if isinstance(names, dict) else []
    )
    if not pairs or len(pairs) > MOST_CLASSES:
        raise InputError(f"{file}: names holds {len(pairs)} classes: write a list of names, or number: name")
    found = {}
    for number, name in pairs:
        if not str(number).isdecimal() or len(str(number)) > 9 or not str(name).strip() or not str(name).isprintable():
            raise InputError(f"{file}: names holds {str(number)[:20]!r}: {str(name)[:40]!r}: write number: name")
        found[int(number)] = str(name)
    return found


def _images_by_split(root: Path, home: Path, settings: dict[str, Any]) -> dict[str | None, list[Path]]:
    """Images of each split, from data.yaml, else from the names of the folders."""
    listed: dict[str | None, list[Path]] = {}
    for key, split in SPLIT_KEYS.items():
        if settings.get(key):
            listed.setdefault(split, []).extend(_listed_images(home, settings, key))
    if listed:
        return listed
    if root.is_file():
        raise InputError(f"{root}: names no folder of images: add train and val")
    for image in _all_images(root):
        parts = image.relative_to(root).parent.parts
        words = [split_of(part) for part in reversed(parts)]
        listed.setdefault(next((word for word in words if word), None), []).append(image)
    if not listed:
        raise InputError(f"{root}: no images in folders called images: check the path or choose another format")
    return listed


def _listed_images(home: Path, settings: dict[str, Any], key: str) -> list[Path]:
    """The images of a folder, a list of folders, or a text file of paths."""
    values = settings[key] if isinstance(settings[key], list) else [settings[key]]
    found: list[Path] = []
    for value in values:
        place = _place(home, str(settings.get("path") or ""), str(value))
        if place is None:
            raise InputError(f"{home}: '{str(value)[:80]}' of {key} in data.yaml does not exist: correct the path")
        if place.is_dir():
            found.extend(image_files(place) or [path for path in walk(place) if is_image(path)])
        else:
            images = [(place.parent / line) for line in read_list(place)]
            missing = [path for path in images if not path.is_file()]
            if missing:
                raise InputError(f"{place}: {len(missing)} images do not exist ({first_few(missing)}): mend the list")
            found.extend(images)
    return sorted(dict.fromkeys(found))


def _place(home: Path, base: str, value: str) -> Path | None:
    """Where a path of data.yaml leads: from `path`, or from the file itself; exporters write one level too many."""
    tries = [
        home / base / value,
        home / value,
        home / value.removeprefix("../"),
        home / base / value.removeprefix("../"),
    ]
    try:
        return next((path for path in tries if path.is_file() or path.is_dir()), None)
    except (OSError, ValueError):
        return None


def _read_lines(file: Path) -> list[tuple[int, list[float], int]]:
    """(class, numbers, line from 1) of each line; none where the file does not exist."""
    if not file.is_file():
        return []
    found = []
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as UTF-8 text ({error}): check the file") from error
    for place, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            numbers = [float(word) for word in words]
        except ValueError as error:
            raise InputError(f"{file}: line {place} holds something else than numbers: mend the line") from error
        kind = numbers[0]
        if not (kind.is_integer() and 0 <= kind < MOST_CLASSES):
            raise InputError(f"{file}: line {place} begins with {words[0][:20]}: write the number of a class first")
        found.append((int(kind), numbers[1:], place))
    return found


def _sample(home: Path, image: Path, lines: list[tuple[int, list[float], int]], kinds: dict[int, int | None]) -> Sample:
    info = probe_image(image)
    size = (info.height, info.width)
    known = [(kinds[number], numbers, place) for number, numbers, place in lines]
    shapes = tuple(_shape(kind, numbers, place, size) for kind, numbers, place in known if kind is not None)
    relative = image.relative_to(home) if image.is_relative_to(home) else Path(image.name)
    source = ShapeObjects(shapes, size, "centre", _label_file(image), image.name)
    return Sample(relative.with_suffix("").as_posix(), (image,), source)


def _shape(kind: int, numbers: list[float], place: int, size: tuple[int, int]) -> ObjectShape:
    name = f"line {place}"
    if len(numbers) == BOX_NUMBERS:
        return ObjectShape(kind, name, fault="a box without an outline (4 numbers)")
    if len(numbers) % 2 or not numbers:
        return ObjectShape(kind, name, fault=f"{len(numbers)} numbers after the class where pairs x y are expected")
    if not all(math.isfinite(number) and abs(number) < 1e6 for number in numbers):
        return ObjectShape(kind, name, fault="numbers that are not finite")
    points = points_of(numbers) * (size[1], size[0])
    if len(points) < 3:
        return ObjectShape(kind, name, short=1)
    return ObjectShape(kind, name, (points,))
