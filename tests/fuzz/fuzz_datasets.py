"""Whole data sets with one damaged file against open, check and load: each is read or refused, nothing else happens.

    python tests/fuzz/fuzz_datasets.py --count 1000 --seed 0

Layouts: pairs, CSV list, COCO JSON, LabelMe, VOC, one file per object, nnU-Net raw, Decathlon and pairs of volumes;
class tables and split lists too.
Every text or image file of a layout may be the damaged one. Exits with 1 where anything but an InputError escaped.
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

import nibabel
import numpy as np
from PIL import Image

from perpixel.data import check_dataset, open_dataset
from perpixel.errors import InputError

SIZE = (12, 16)
# What a value of a JSON file is replaced by.
STRANGE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e308,
    10**30,
    "",
    "x" * 50,
    "../../..",
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


def mask(path: Path, rng: random.Random, values: tuple[int, ...] = (0, 1, 2)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = np.array([rng.choice(values) for _ in range(SIZE[0] * SIZE[1])], np.uint8).reshape(SIZE)
    Image.fromarray(drawn).save(path)


def pairs(root: Path, rng: random.Random) -> None:
    for index in range(4):
        image(root / "images" / f"{index}.png", rng)
        mask(root / "masks" / f"{index}.png", rng)
    table = [{"name": name, "values": [value], "colour": [value, 9, 9]} for value, name in enumerate("abc")]
    (root / "classes.json").write_text(json.dumps({"classes": table, "ignore_values": [255]}))
    (root / "splits.json").write_text(json.dumps({"train": ["0", "1"], "val": ["2"], "test": ["3"]}))


def csv_list(root: Path, rng: random.Random) -> None:
    rows = ["image,mask,split"]
    for index, split in enumerate(("train", "train", "val", "test")):
        image(root / f"{index}.png", rng)
        mask(root / f"{index}_m.png", rng)
        rows.append(f"{index}.png,{index}_m.png,{split}")
    (root / "list.csv").write_text("\n".join(rows))


def coco(root: Path, rng: random.Random) -> None:
    images, notes = [], []
    for index in range(4):
        image(root / "images" / f"{index}.png", rng)
        images.append({"id": index, "file_name": f"{index}.png", "width": SIZE[1], "height": SIZE[0]})
        shape: Any = [[1, 1, 9, 1, 9, 8, 1, 8]] if index % 2 else {"size": list(SIZE), "counts": [5, 20, 167]}
        note = {
            "id": index,
            "image_id": index,
            "category_id": 3,
            "segmentation": shape,
            "area": 20,
            "bbox": [1, 1, 8, 7],
        }
        notes.append({**note, "iscrowd": int(index % 2 == 0)})
    content = {"images": images, "annotations": notes, "categories": [{"id": 3, "name": "cell"}]}
    (root / "instances.json").write_text(json.dumps(content))


def labelme(root: Path, rng: random.Random) -> None:
    for index in range(4):
        image(root / f"{index}.png", rng)
        shapes = [
            {"label": "a", "points": [[1, 1], [9, 1], [5, 9]], "shape_type": "polygon"},
            {"label": "b", "points": [[10, 2], [14, 8]], "shape_type": "rectangle"},
        ]
        content = {"shapes": shapes, "imagePath": f"{index}.png", "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        (root / f"{index}.json").write_text(json.dumps(content))


def voc(root: Path, rng: random.Random) -> None:
    base = root / "VOC2012"
    names = [f"2007_{index}" for index in range(4)]
    for name in names:
        image(base / "JPEGImages" / f"{name}.jpg", rng)
        mask(base / "SegmentationClass" / f"{name}.png", rng, (0, 1, 255))
    lists = base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(names[:3]))
    (lists / "val.txt").write_text(names[3])


def objects(root: Path, rng: random.Random) -> None:
    for index in range(4):
        image(root / f"case{index}" / "images" / f"case{index}.png", rng)
        for part in range(2):
            mask(root / f"case{index}" / "masks" / f"{part}.png", rng, (0, 255))


def nnunet(root: Path, rng: random.Random) -> None:
    for index in range(4):
        image(root / "imagesTr" / f"case_{index:03d}_0000.png", rng)
        mask(root / "labelsTr" / f"case_{index:03d}.png", rng)
    labels = {"background": 0, "a": 1, "b": 2}
    content = {"channel_names": {"0": "R"}, "labels": labels, "numTraining": 4, "file_ending": ".png"}
    (root / "dataset.json").write_text(json.dumps(content))


def volume_pairs(root: Path, rng: random.Random) -> None:
    for name in "abcd":
        write_nifti(root / "images" / f"{name}.nii.gz", rng, 500)
        write_nifti(root / "labels" / f"{name}.nii.gz", rng, 2)
    (root / "classes.json").write_text(json.dumps({"classes": ["background", "cell"]}))


def decathlon(root: Path, rng: random.Random) -> None:
    rows = []
    for name in "abcd":
        write_nifti(root / "imagesTr" / f"{name}.nii", rng, 500)
        write_nifti(root / "labelsTr" / f"{name}.nii", rng, 2)
        rows.append({"image": f"./imagesTr/{name}.nii", "label": f"./labelsTr/{name}.nii"})
    content = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "cell"}, "training": rows, "test": []}
    (root / "dataset.json").write_text(json.dumps(content))


def write_nifti(path: Path, rng: random.Random, values: int) -> None:
    array = np.random.default_rng(rng.randrange(2**31)).integers(0, values, (5, 6, 4)).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, -1.0, 2.0, 1.0])), path)


LAYOUTS: dict[str, Callable[[Path, random.Random], None]] = {
    "pairs": pairs,
    "csv": csv_list,
    "coco": coco,
    "labelme": labelme,
    "voc": voc,
    "objects": objects,
    "nnunet": nnunet,
    "volume_pairs": volume_pairs,
    "decathlon": decathlon,
}


def damage(path: Path, rng: random.Random) -> None:
    """Change one file: JSON by its values, keys and structure, others by their bytes; or rename, empty or remove it."""
    kind = rng.random()
    if kind < 0.06:
        path.unlink()
    elif kind < 0.1:
        path.write_bytes(b"")
    elif kind < 0.14:
        path.rename(path.with_name("odd name é" + path.suffix))
    elif path.suffix == ".json" and kind < 0.8:
        content = json.loads(path.read_text())
        for _ in range(rng.randint(1, 3)):
            content = mutate(content, rng)
        path.write_text(json.dumps(content))
    else:
        data = bytearray(path.read_bytes())
        for _ in range(rng.randint(1, 8)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(bytes(data[: rng.randrange(1, len(data) + 1)] if rng.random() < 0.3 else data))


def mutate(value: Any, rng: random.Random) -> Any:
    """Replace, drop or repeat one thing somewhere inside a JSON value."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: mutate(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        if rng.random() < 0.1:
            return value + [value[place]]
        return [*value[:place], mutate(value[place], rng), *value[place + 1 :]]
    return rng.choice(STRANGE)


def attempt(root: Path) -> None:
    """What `train` does before its first step."""
    dataset = open_dataset(root)
    check_dataset(dataset, workers=1)
    for samples in dataset.splits.values():
        for sample in samples:
            dataset.load_image(sample)
            if sample.mask is not None:
                dataset.load_label_map(sample)


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
        texts = [path for path in files if path.suffix in (".json", ".csv", ".txt")]
        chosen = rng.choice(texts if texts and rng.random() < 0.7 else files)
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
