"""LabelMe: one JSON file per image.

    0001.jpg
    0001.json     shapes [{label, points, shape_type}], imagePath, imageHeight, imageWidth

Polygons, rectangles, circles and LabelMe's bitmap masks are painted in the order of the file, later over earlier.
The label `__ignore__` is left out of training and scores; `_background_` is background.
"""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from perpixel.data.class_file import make_table
from perpixel.data.formats.folder_words import is_image, read_folder_name, walk
from perpixel.data.formats.layout import Layout, first_few
from perpixel.data.sample import PolygonMask, Sample, Shape
from perpixel.data.shapes import circle_points, to_runs
from perpixel.errors import InputError
from perpixel.files import read_json
from perpixel.images import probe_image
from perpixel.labels import ClassTable

IGNORED, BACKGROUND = "__ignore__", "_background_"
IGNORE_VALUE = 65535
OUTLINES = ("polygon", "rectangle", "circle", "mask")
HEAD_BYTES = 4096


def detect(root: Path) -> bool:
    """Some JSON file under `root` speaks of shapes or of an imagePath near its beginning."""
    return root.is_dir() and any(looks_right(path) for path in json_files(root)[:5])


def json_files(root: Path) -> list[Path]:
    return [path for path in walk(root) if path.suffix.lower() == ".json"]


def looks_right(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    return b'"shapes"' in head or b'"imagePath"' in head


def read(root: Path, classes: ClassTable | None) -> Layout:
    """Read all annotated images under `root`; folders train, val and test give the splits.

    Args:
        classes: the user's table; labels are looked up in it by name.
    Raises:
        InputError: a damaged file, an image that does not exist, or a label that `classes` does not name.
    """
    files = [path for path in json_files(root) if looks_right(path)]
    if not files:
        raise InputError(f"{root}: no LabelMe JSON files: check the path or choose another format")
    contents = {path: load(path) for path in files}
    labels = sorted({shape["label"] for content in contents.values() for shape in content["shapes"]})
    table = classes or _table(labels)
    values = _values(table, labels, root)
    layout = Layout({}, classes=table, ignore_values=(IGNORE_VALUE,))
    images = {path.name: path for path in walk(root) if is_image(path)}
    skipped: Counter[str] = Counter()
    for path in files:
        sample = _sample(root, path, contents[path], values, images, skipped)
        layout.splits.setdefault(folder_split(root, path), []).append(sample)
    add_notes(layout, images, skipped)
    return layout


def folder_split(root: Path, path: Path) -> str | None:
    """The split that the innermost folder between `root` and a file names, or None."""
    words = [read_folder_name(part) for part in path.relative_to(root).parent.parts]
    return next((word.split for word in reversed(words) if word and word.split), None)


def load(path: Path) -> dict[str, Any]:
    """One file without its picture. Raises InputError when it has no list of labelled shapes."""
    content = read_json(path)
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list) or not all(isinstance(s, dict) and isinstance(s.get("label"), str) for s in shapes):
        raise InputError(f"{path}: no list of shapes with labels: open and save the file in LabelMe again")
    # The picture itself in base64, often megabytes: the file beside is read instead.
    content.pop("imageData", None)
    return content


def _table(labels: list[str]) -> ClassTable:
    names = ["background", *(label for label in labels if label not in (IGNORED, BACKGROUND, "background"))]
    if len(names) == 1:
        raise InputError("the LabelMe files hold no labelled shape: outline at least one object")
    return make_table([(name, index) for index, name in enumerate(names)], ignore_values=(IGNORE_VALUE,))


def _values(table: ClassTable, labels: list[str], root: Path) -> dict[str, int]:
    """Label -> value to paint, from the table's first plain value of that name."""
    known = {info.name: value for info in table.classes for value in info.values if isinstance(value, int)}
    zero = next((info.name for info in table.classes if 0 in info.values), None)
    extra = {IGNORED: IGNORE_VALUE, BACKGROUND: known.get("background", known.get(zero or "", 0))}
    unknown = [label for label in labels if label not in known and label not in extra]
    if unknown and table.others == "refuse":
        raise InputError(
            f"{root}: {len(unknown)} labels are not in the class table ({first_few(unknown)}; known: "
            f"{', '.join(table.names)}): add them to classes.json or correct the labels"
        )
    return {**dict.fromkeys(unknown, IGNORE_VALUE), **extra, **known}


def _sample(
    root: Path,
    path: Path,
    content: dict[str, Any],
    values: dict[str, int],
    images: dict[str, Path],
    skipped: Counter[str],
) -> Sample:
    image = find_image(path, content, images)
    whole = stated_size(content, image)
    shapes = []
    for index, entry in enumerate(content["shapes"]):
        kind = entry.get("shape_type") or "polygon"
        if kind not in OUTLINES:
            skipped[str(kind)] += 1
            continue
        try:
            shapes.append(read_shape(entry, kind, values[entry["label"]], whole))
        except (TypeError, ValueError, KeyError, IndexError, UnidentifiedImageError) as error:
            raise InputError(
                f"{path}: shape {index} ('{entry['label']}', {kind}) is damaged ({error}): draw it again in LabelMe"
            ) from error
    name = path.relative_to(root).with_suffix("").as_posix()
    return Sample(name, (image,), PolygonMask(tuple(shapes), whole, path, image.name))


def stated_size(content: dict[str, Any], image: Path) -> tuple[int, int]:
    """(H, W) from the file, or of the image where the file does not say."""
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if all(isinstance(side, int) and side > 0 for side in (height, width)):
        return int(height or 0), int(width or 0)
    info = probe_image(image)
    return info.height, info.width


def find_image(path: Path, content: dict[str, Any], images: dict[str, Path]) -> Path:
    """imagePath beside the JSON, else an image of that name, or of the JSON's name, anywhere in the data set."""
    stated = str(content.get("imagePath") or "").replace("\\", "/")
    beside = path.parent / stated
    if stated and beside.is_file():
        return beside
    for name in (Path(stated).name, *(path.stem + suffix for suffix in (".jpg", ".jpeg", ".png", ".tif", ".bmp"))):
        if name in images:
            return images[name]
    raise InputError(f"{path}: its image '{stated}' does not exist: put the image beside the JSON file")


def read_shape(entry: dict[str, Any], kind: str, value: int, size: tuple[int, int]) -> Shape:
    points = np.asarray(entry["points"], dtype=np.float64)
    least = 3 if kind == "polygon" else 2
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < least or not np.isfinite(points).all():
        raise ValueError(f"needs at least {least} points x, y")
    if kind == "mask":
        return Shape(value, runs=to_runs(_bitmap(entry["mask"], points, size)))
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points[0], points[1]
        points = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    elif kind == "circle":
        points = circle_points(points[0, 0], points[0, 1], math.dist(points[0], points[1]))
    return Shape(value, (points,))


def _bitmap(text: str, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """LabelMe's bitmap: a PNG in base64, its top left corner at the first point."""
    with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
        small = np.asarray(picture).astype(bool)
    col, row = round(float(points[0, 0])), round(float(points[0, 1]))
    if row < 0 or col < 0 or small.ndim != 2:
        raise ValueError("the bitmap lies outside the image")
    whole = np.zeros(size, dtype=bool)
    part = whole[row : row + small.shape[0], col : col + small.shape[1]]
    part[...] = small[: part.shape[0], : part.shape[1]]
    return whole


def add_notes(layout: Layout, images: dict[str, Path], skipped: Counter[str]) -> None:
    used = {sample.images[0].resolve() for samples in layout.splits.values() for sample in samples}
    bare = [name for name, path in images.items() if path.resolve() not in used]
    if bare:
        layout.notes.append(f"{len(bare)} images have no JSON file and are left out ({first_few(bare)})")
    if skipped:
        kinds = ", ".join(f"{count} of type {kind}" for kind, count in sorted(skipped.items()))
        layout.notes.append(f"shapes without an area are left out: {kinds}")
