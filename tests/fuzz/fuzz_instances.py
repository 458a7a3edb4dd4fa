"""Instance data with one damaged file against open, check and load: each is read or refused, nothing else happens.

    python tests/fuzz/fuzz_instances.py --count 1000 --seed 0

Every layout of the table; every text or image file of it may be the damaged one. Exits with 1 where anything but an
InputError escaped, or a message has more than one line.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from perpixel.data.instances import check_instances, open_instances
from perpixel.errors import InputError

SIZE = (24, 32)
# What a value of a JSON file or a word of a text file is replaced by.
STRANGE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e308,
    10**30,
    "",
    "x" * 50,
    "../..",
    [],
    {},
    [[]],
    [None],
    {"a": 1},
    0.5,
)


@dataclass
class Tally:
    """`failures` are tracebacks."""

    tried: int = 0
    read: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)

    def line(self) -> str:
        return f"{self.tried} data sets, {self.read} read, {self.refused} refused, {len(self.failures)} tracebacks"


def image(path: Path, rng: random.Random) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.frombuffer(rng.randbytes(SIZE[0] * SIZE[1] * 3), np.uint8).reshape(*SIZE, 3)).save(path)


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def draw_map(rng: random.Random) -> np.ndarray:
    """Rectangles 1..n beside each other, some in contact."""
    label_map = np.zeros(SIZE, np.uint8)
    for number, (row, col) in enumerate([(0, 0), (0, 12), (12, 0), (13, 14)], 1):
        height, width = rng.randint(4, 11), rng.randint(4, 14)
        label_map[row : row + height, col : col + width] = number
    return label_map


def corners(rng: random.Random) -> list[float]:
    """A rectangle x, y, ... off the pixel grid."""
    x0, y0 = rng.uniform(0, 16), rng.uniform(0, 12)
    x1, y1 = x0 + rng.uniform(3, 15), y0 + rng.uniform(3, 11)
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def coco(root: Path, rng: random.Random) -> None:
    images, annotations = [], []
    for index in range(1, 6):
        image(root / "images" / f"{index}.png", rng)
        images.append({"id": index, "file_name": f"{index}.png", "height": SIZE[0], "width": SIZE[1]})
        for number in range(3):
            points = corners(rng)
            box = [points[0], points[1], points[2] - points[0], points[5] - points[1]]
            more = {"bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            place = {"id": 10 * index + number, "image_id": index, "category_id": rng.choice((3, 9))}
            annotations.append({**place, **more, "segmentation": [points]})
        runs = {"size": list(SIZE), "counts": [600, 100, 68]}
        annotations.append(
            {"id": 10 * index + 5, "image_id": index, "category_id": 3, "segmentation": runs, "iscrowd": 1}
        )
    categories = [{"id": 3, "name": "a"}, {"id": 9, "name": "b"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(content))


def labelme(root: Path, rng: random.Random) -> None:
    for index in range(5):
        image(root / f"{index}.png", rng)
        polygons = [np.reshape(corners(rng), (-1, 2)).tolist() for _ in range(3)]
        shapes = [
            {"label": rng.choice("ab"), "points": points, "shape_type": "polygon", "group_id": None}
            for points in polygons
        ]
        shapes.append({"label": "__ignore__", "points": [[20, 20], [24, 24]], "shape_type": "rectangle"})
        content = {"shapes": shapes, "imagePath": f"{index}.png", "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        (root / f"{index}.json").write_text(json.dumps(content))


def yolo(root: Path, rng: random.Random) -> None:
    for index in range(6):
        split = "val" if index == 5 else "train"
        image(root / "images" / split / f"{index}.png", rng)
        file = root / "labels" / split / f"{index}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        scale = np.tile([SIZE[1], SIZE[0]], 4)
        lines = [[rng.choice((0, 1)), *(np.array(corners(rng)) / scale).round(5).tolist()] for _ in range(3)]
        file.write_text("\n".join(" ".join(map(str, line)) for line in lines))
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [a, b]\n")


def label_images(root: Path, rng: random.Random) -> None:
    for index in range(5):
        image(root / "images" / f"{index}.png", rng)
        save(root / "labels" / f"{index}.png", draw_map(rng).astype(np.uint16))


def objects(root: Path, rng: random.Random) -> None:
    for index in range(5):
        image(root / f"case{index}" / "images" / f"case{index}.png", rng)
        label_map = draw_map(rng)
        for number in range(1, 5):
            save(root / f"case{index}" / "masks" / f"{number}.png", ((label_map == number) * 255).astype(np.uint8))


def cityscapes(root: Path, rng: random.Random) -> None:
    for index in range(4):
        split, city = ("val", "ulm") if index == 3 else ("train", "bonn")
        stem = f"{city}_00000{index}_000019"
        image(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", rng)
        ids = np.array([7, 24000, 26001, 26, 0], np.uint16)[draw_map(rng)]
        save(root / "gtFine" / split / city / f"{stem}_gtFine_instanceIds.png", ids)


def voc(root: Path, rng: random.Random) -> None:
    names = [f"2007_00000{index}" for index in range(4)]
    for name in names:
        image(root / "JPEGImages" / f"{name}.png", rng)
        label_map = draw_map(rng)
        label_map[20:, 28:] = 255
        save(root / "SegmentationObject" / f"{name}.png", label_map)
        kinds = np.array([0, 15, 8, 15, 2, 255], np.uint8)[np.minimum(label_map, 5)]
        save(root / "SegmentationClass" / f"{name}.png", kinds)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(names[:3]))
    (lists / "val.txt").write_text(names[3])


LAYOUTS: dict[str, Callable[[Path, random.Random], None]] = {
    "coco": coco,
    "labelme": labelme,
    "yolo": yolo,
    "label_images": label_images,
    "objects": objects,
    "cityscapes": cityscapes,
    "voc": voc,
}


def damage(path: Path, rng: random.Random) -> None:
    """Change one file: JSON by its values and structure, texts by their words, others by their bytes."""
    kind = rng.random()
    if kind < 0.06:
        path.unlink()
    elif kind < 0.1:
        path.write_bytes(b"")
    elif path.suffix == ".json" and kind < 0.85:
        content = json.loads(path.read_text())
        for _ in range(rng.randint(1, 4)):
            content = mutate(content, rng)
        path.write_text(json.dumps(content))
    elif path.suffix in (".txt", ".yaml") and kind < 0.85:
        words = path.read_text().split(" ")
        words[rng.randrange(len(words))] = str(rng.choice(STRANGE))
        path.write_text(" ".join(words))
    else:
        data = bytearray(path.read_bytes())
        for _ in range(rng.randint(1, 8)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(bytes(data[: rng.randrange(1, len(data) + 1)] if rng.random() < 0.3 else data))


def mutate(value: Any, rng: random.Random) -> Any:
    """Replace, drop or repeat one thing somewhere inside a JSON value."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: mutate(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        if rng.random() < 0.1:
            return value + [value[place]]
        return [*value[:place], mutate(value[place], rng), *value[place + 1 :]]
    return rng.choice(STRANGE)


def attempt(root: Path) -> None:
    """What `train` does before its first step."""
    dataset = open_instances(root)
    for problem in check_instances(dataset, workers=1).problems:
        assert "\n" not in problem.message + problem.remedy, problem
    for samples in dataset.splits.values():
        for sample in samples:
            if sample.mask is not None:
                dataset.load(sample)


def fuzz(count: int, seed: int, folder: Path) -> Tally:
    """Try `count` damaged data sets below `folder`."""
    tally = Tally()
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        name = rng.choice(list(LAYOUTS))
        root = folder / "set"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        LAYOUTS[name](root, rng)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        texts = [path for path in files if path.suffix in (".json", ".yaml", ".txt")]
        chosen = rng.choice(texts if texts and rng.random() < 0.8 else files)
        damage(chosen, rng)
        tally.tried += 1
        try:
            attempt(root)
            tally.read += 1
        except InputError as error:
            tally.refused += 1
            if "\n" in str(error):
                tally.failures.append(f"{name} {number}: more than one line: {error}")
        except Exception:
            tally.failures.append(f"{name} {number}, {chosen.name}:\n{traceback.format_exc(limit=-4)}")
    shutil.rmtree(folder / "set", ignore_errors=True)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = fuzz(options.count, options.seed, Path(folder))
    for failure in tally.failures[:20]:
        print(failure)
    print(tally.line())
    sys.exit(1 if tally.failures else 0)


if __name__ == "__main__":
    main()
