"""Many files in, their objects out: each result is whole or absent, and what is done is not done again.

out/
  predictions.json    which model and settings made these
  objects.json        COCO: images, annotations (run lengths, box, area, category, score), categories
  objects.csv         one row an object
  NAME.png            label image: number i is object i of objects.csv; NAME.tif above 65,535 objects
  overlays/NAME.png   outlines and scores over the image
  parts/NAME.json     the image's share of objects.json and objects.csv, written when all else of it is there
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from perpixel.errors import InputError
from perpixel.files import atomic, make_folder, read_json, write_json
from perpixel.images import read_image, to_display, write_png
from perpixel.inference.files import OVERLAYS, RECORD, result_names
from perpixel.inference.instance_predictor import InstancePredictor
from perpixel.inference.instance_tables import coco_annotations, coco_categories, object_rows
from perpixel.labels import ClassTable, Instances, draw_objects

OBJECTS, TABLE, PARTS = "objects.json", "objects.csv", "parts"
# An image of 8 bits whose brightest part lies below this is brightened for the overlay.
DARK = 128


def predict_instance_files(
    predictor: InstancePredictor,
    images: Sequence[Path],
    out: str | Path,
    *,
    overlays: bool = True,
    overwrite: bool = False,
    image_ids: Mapping[str, int] | None = None,
    on_image: Callable[[int, int, str], None] | None = None,
) -> tuple[list[str], list[str]]:
    """Find the objects of each image and write them to `out`.

    Args:
        images: files; results take their names (without the common folder).
        overlays: also write overlays/NAME.png.
        overwrite: do again what is done by this model with these settings, and replace the results of others.
        image_ids: id in objects.json by name, such as those of the truths to compare with; by default names in their
            order are numbered from 1.
        on_image: called with (done, total, name).
    Returns:
        (written, skipped) names.
    Raises:
        InputError: two images with one name, results of another model in `out`, unreadable or unwritable files, a name
            that is not in `image_ids`.
    """
    folder = make_folder(out)
    names = result_names(images)
    _check_names(images, names, folder, image_ids)
    _claim(folder, predictor, overwrite)
    written, skipped = [], []
    for done, (path, name) in enumerate(zip(images, names)):
        if not overwrite and _is_done(folder, name, overlays):
            skipped.append(name)
        else:
            _predict_one(predictor, path, folder, name, overlays)
            written.append(name)
        if on_image is not None:
            on_image(done + 1, len(images), name)
    join_parts(folder, predictor.classes, image_ids=image_ids)
    return written, skipped


def _check_names(
    images: Sequence[Path], names: Sequence[str], folder: Path, image_ids: Mapping[str, int] | None
) -> None:
    for image, name in zip(images, names):
        if image.resolve() in ((folder / f"{name}.png").resolve(), (folder / f"{name}.tif").resolve()):
            raise InputError(f"{image}: its label image would be written over it: choose another --out than its folder")
        if name.split("/")[0] in (OVERLAYS, PARTS):
            raise InputError(f"{image}: its results would lie among those in {name.split('/')[0]}: predict it apart")
        if image_ids is not None and name not in image_ids:
            raise InputError(f"{image}: '{name}' has no id in image_ids: add it, or leave image_ids out")


def _claim(folder: Path, predictor: InstancePredictor, overwrite: bool) -> None:
    """Write down who makes the results here; refuse to mix them with another's."""
    record = {"task": "instances", "fingerprint": predictor.fingerprint(), **predictor.settings()}
    path = folder / RECORD
    if path.is_file() and not overwrite and read_json(path) != record:
        raise InputError(
            f"{folder}: holds predictions of another model or other settings: choose another --out, or replace them "
            "with --overwrite"
        )
    if overwrite and path.is_file():
        path.unlink()
        stale = [*folder.rglob("*.png"), *folder.rglob("*.tif"), *folder.glob(f"{PARTS}/**/*.json")]
        for each in [*stale, folder / OBJECTS, folder / TABLE]:
            each.unlink(missing_ok=True)
    write_json(path, record)


def _is_done(folder: Path, name: str, overlays: bool) -> bool:
    has_labels = any((folder / f"{name}{suffix}").is_file() for suffix in (".png", ".tif"))
    has_overlay = not overlays or (folder / OVERLAYS / f"{name}.png").is_file()
    return has_labels and has_overlay and _part(folder, name).is_file()


def _part(folder: Path, name: str) -> Path:
    return folder / PARTS / f"{name}.json"


def _predict_one(predictor: InstancePredictor, path: Path, folder: Path, name: str, overlays: bool) -> None:
    image = read_image(path)
    instances = predictor.predict(image).instances
    assert instances is not None
    for suffix in (".png", ".tif"):
        (folder / f"{name}{suffix}").unlink(missing_ok=True)  # of an earlier try, which may have the other form
    write_label_image(folder / name, instances)
    if overlays:
        picture = draw_objects(display_bright(image), instances, predictor.classes)
        write_png(folder / OVERLAYS / f"{name}.png", picture)
    height, width = instances.size
    part = {
        "image": {"file_name": path.name, "width": width, "height": height},
        "annotations": coco_annotations(instances, predictor.classes),
        "rows": object_rows(image, instances, predictor.classes),
    }
    with atomic(_part(folder, name)) as temporary:
        temporary.write_text(json.dumps(part, allow_nan=False, ensure_ascii=False), encoding="utf-8")


def write_label_image(stem: Path, instances: Instances) -> Path:
    """Object i as number i + 1: a 16-bit PNG, or a TIFF of 32 bits above 65,535 objects. `stem` is without suffix."""
    label_map = instances.to_label_map()
    if label_map.dtype == np.uint16:
        return write_png(stem.with_name(f"{stem.name}.png"), label_map)
    path = stem.with_name(f"{stem.name}.tif")
    with atomic(path) as temporary:
        tifffile.imwrite(temporary, label_map.astype(np.uint32), compression="zlib")
    return path


def display_bright(image: np.ndarray) -> np.ndarray:
    """(H, W, C) -> (H, W, 3) uint8 as `to_display`; dark images of 8 bits are brightened."""
    shown = image[..., :3]
    if image.dtype == np.uint8:
        high = float(np.percentile(shown[:: max(1, len(shown) // 1000)], 99.8))
        if high < DARK:
            return to_display(image, 0.0, max(high, 1.0))
    return to_display(image)


def join_parts(folder: Path, table: ClassTable, *, image_ids: Mapping[str, int] | None = None) -> None:
    """Write objects.json and objects.csv from the parts of all images in `folder`, one part in memory at a time."""
    names = sorted(
        path.relative_to(folder / PARTS).with_suffix("").as_posix() for path in (folder / PARTS).rglob("*.json")
    )
    ids = {name: number for number, name in enumerate(names, 1)}
    if image_ids is not None:
        # Images of an earlier call, which the present ids do not know, come after all others.
        unknown = [name for name in names if name not in image_ids]
        first = max(image_ids.values(), default=0) + 1
        ids = dict(image_ids) | {name: number for number, name in enumerate(unknown, first)}
    with atomic(folder / OBJECTS) as temporary, open(temporary, "w", encoding="utf-8") as file:
        _write_coco(file, folder, names, ids, table)
    with atomic(folder / TABLE) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        _write_rows(file, folder, names)


def _parts(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in names:
        yield name, read_json(_part(folder, name))


def _write_coco(file: Any, folder: Path, names: Sequence[str], ids: Mapping[str, int], table: ClassTable) -> None:
    """One image and one annotation a line, so that the file can be read by people and compared line by line."""

    def lines(entries: Iterator[dict[str, Any]]) -> None:
        for place, entry in enumerate(entries):
            file.write((",\n" if place else "\n") + json.dumps(entry, allow_nan=False, ensure_ascii=False))

    def annotations() -> Iterator[dict[str, Any]]:
        number = 0
        for name, part in _parts(folder, names):
            for entry in part["annotations"]:
                number += 1
                yield {"id": number, **entry, "image_id": ids[name]}

    file.write('{"images": [')
    lines({"id": ids[name], **part["image"]} for name, part in _parts(folder, names))
    file.write('],\n"annotations": [')
    lines(annotations())
    file.write('],\n"categories": ' + json.dumps(coco_categories(table), ensure_ascii=False) + "}\n")


def _write_rows(file: Any, folder: Path, names: Sequence[str]) -> None:
    """Columns of the first object, and what later images have besides: their number of channels may differ."""
    columns = {"image": None, "id": None}
    for _, part in _parts(folder, names):
        for row in part["rows"][:1]:
            columns |= dict.fromkeys(row)
    writer = csv.DictWriter(file, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    for name, part in _parts(folder, names):
        writer.writerows({"image": name, **row} for row in part["rows"])
