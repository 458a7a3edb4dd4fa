"""The other layouts of instance data."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from dataset_builder import Builder
from PIL import Image

from perpixel.data.instances import InstanceDataset, check_instances, open_instances
from perpixel.errors import InputError
from perpixel.labels import VOID, Instances


def numbers(*rows: str) -> np.ndarray:
    """A small label image from digits."""
    return np.array([[int(digit) for digit in row] for row in rows], np.uint8)


MAP = numbers("11000000", "11022200", "00022200", "00022200", "00000033", "00000033")


def only(dataset: InstanceDataset, name: str) -> Instances:
    sample = next(s for samples in dataset.splits.values() for s in samples if s.name.endswith(name))
    return dataset.load_instances(sample)


def codes(dataset: InstanceDataset) -> dict[str, str]:
    found: dict[str, str] = {}
    for problem in check_instances(dataset, workers=1).problems:
        found.setdefault(problem.code, f"{problem.severity}: {problem.message}: {problem.remedy}")
    return found


# ---- label images


def label_images(build: Builder, values: np.ndarray = MAP, suffix: str = "png") -> None:
    for name in ("a", "b", "c"):
        build.image(f"images/{name}.png", size=values.shape)
        if suffix == "png":
            build.array(f"labels/{name}.png", values)
        else:
            path = build.root / f"labels/{name}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, values)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_label_images(build: Builder, dtype: type) -> None:
    label_images(build, MAP.astype(dtype))
    dataset = open_instances(build.root)
    assert dataset.format == "label_images" and dataset.classes.names == ("background", "object")
    objects = only(dataset, "a")
    assert objects.masks.areas.tolist() == [4, 9, 4] and (objects.to_label_map() == MAP).all()
    assert (dataset.images.load_label_map(dataset.split("train")[0]) == (MAP > 0)).all()


def test_more_objects_than_sixteen_bits_hold(build: Builder) -> None:
    values = np.arange(1, 300 * 221 + 1, dtype=np.int32).reshape(300, 221)
    label_images(build, values, "tif")
    objects = only(open_instances(build.root), "b")
    assert len(objects) == 66300 and objects.to_label_map().dtype == np.int32


def test_images_without_objects_are_legal(build: Builder) -> None:
    label_images(build)
    build.array("labels/b.png", np.zeros((6, 8), np.uint16))
    dataset = open_instances(build.root)
    assert len(only(dataset, "b")) == 0
    for name in ("a", "c"):
        build.array(f"labels/{name}.png", np.zeros((6, 8), np.uint16))
    assert codes(open_instances(build.root))["no_objects"].startswith("error: no image of train")


def test_void_values_and_parts(build: Builder) -> None:
    label_images(build, np.where(MAP == 3, 9, MAP).astype(np.uint8))
    objects = only(open_instances(build.root, ignore_values=[9]), "a")
    assert objects.classes.tolist() == [1, 1, VOID] and objects.is_crowd.tolist() == [False, False, True]
    label_images(build, (MAP > 0).astype(np.uint8))
    dataset = open_instances(build.root)
    assert len(only(dataset, "a")) == 1
    assert len(only(open_instances(build.root, split_parts=True), "a")) == 3
    torn = np.tile((MAP > 0).astype(np.uint8), (1, 3)) * np.repeat([1, 2, 3], 8).astype(np.uint8)
    label_images(build, torn)
    assert "3 of 3 objects consist of several separate parts" in codes(open_instances(build.root))["object_in_parts"]


def test_label_images_that_are_refused(build: Builder) -> None:
    label_images(build)
    build.array("labels/a.png", np.zeros((5, 8), np.uint8))
    assert "mask of 5 x 8 pixels" in codes(open_instances(build.root))["size_mismatch"]
    label_images(build)
    build.array("labels/a.png", np.stack([MAP, MAP * 2, MAP], axis=2).astype(np.uint8))
    assert "a colour mask where object numbers are expected" in codes(open_instances(build.root))["objects_unreadable"]
    build.json("classes.json", ["background", "a", "b"])
    with pytest.raises(InputError, match=r"2 classes \(a, b\), but objects in this layout have no class"):
        open_instances(build.root)
    build.json("classes.json", ["background", "cell"])
    assert open_instances(build.root).classes.names == ("background", "cell")


# ---- one file per object


def test_one_file_per_object(build: Builder) -> None:
    for name in ("a1", "b2", "c3"):
        build.image(f"stage1_train/{name}/images/{name}.png")
        for number in (1, 2, 3):
            build.array(f"stage1_train/{name}/masks/{number}.png", ((number == MAP) * 255).astype(np.uint8))
    build.array("stage1_train/b2/masks/empty.png", np.zeros((6, 8), np.uint8))
    build.array("stage1_train/b2/masks/over.png", (MAP > 1).astype(np.uint8) * 255)
    build.image("stage1_train/d4/images/d4.png")
    (build.root / "stage1_train/d4/masks").mkdir()
    dataset = open_instances(build.root)
    assert dataset.format == "objects" and only(dataset, "a1").masks.areas.tolist() == [4, 9, 4]
    assert only(dataset, "b2").masks.areas.tolist() == [4, 9, 4, 13]  # they may overlap
    assert len(only(dataset, "d4")) == 0
    assert "1 object covers no pixel and is left out (empty.png)" in codes(dataset)["empty_object"]
    build.array("stage1_train/a1/masks/3.png", np.ones((4, 4), np.uint8))
    with pytest.raises(InputError, match=r"3\.png: 4 x 4 pixels, but 1\.png has 6 x 8: save all objects"):
        only(open_instances(build.root), "a1")


# ---- LabelMe


def labelme(build: Builder, shapes: list[dict[str, Any]], name: str = "a") -> None:
    build.image(f"{name}.png")
    build.json(f"{name}.json", {"shapes": shapes, "imagePath": f"{name}.png", "imageHeight": 6, "imageWidth": 8})


def test_labelme(build: Builder) -> None:
    picture = io.BytesIO()
    Image.fromarray(np.ones((2, 3), bool)).save(picture, "PNG")
    bitmap = base64.b64encode(picture.getvalue()).decode()
    shapes = [
        {"label": "dog", "points": [[0, 0], [2, 2]], "shape_type": "rectangle", "group_id": 4},
        {"label": "dog", "points": [[4, 0], [6, 2]], "shape_type": "rectangle", "group_id": 4},
        {"label": "cat", "points": [[0, 3], [3, 3], [3, 6], [0, 6]], "shape_type": "polygon", "group_id": None},
        {"label": "cat", "points": [[5, 4], [8, 6]], "shape_type": "mask", "mask": bitmap},
        {"label": "__ignore__", "points": [[7, 0], [8, 2]], "shape_type": "rectangle"},
        {"label": "dog", "points": [[1, 1]], "shape_type": "point"},
    ]
    labelme(build, shapes)
    labelme(build, [], "b")
    labelme(build, [{"label": "dog", "points": [[1, 1], [3, 3]], "shape_type": "polygon"}], "c")
    dataset = open_instances(build.root, val_fraction=0, test_fraction=0)
    assert dataset.format == "labelme" and dataset.classes.names == ("background", "cat", "dog")
    objects = only(dataset, "a")
    assert objects.classes.tolist() == [2, 1, 1, VOID] and objects.masks.areas.tolist() == [8, 9, 6, 2]
    assert objects.is_crowd.tolist() == [False, False, False, True] and len(only(dataset, "b")) == 0
    found = codes(dataset)["damaged_object"]
    assert "shape 0 ('dog'), damaged (needs at least 3 points x, y): export the annotations again" in found
    build.json("classes.json", ["background", "cat"])
    with pytest.raises(InputError, match=r"1 labels are not in the class table \(dog"):
        open_instances(build.root)


# ---- YOLO


def yolo(build: Builder, lines: str, name: str = "a", split: str = "train") -> None:
    build.image(f"images/{split}/{name}.png", size=(10, 20))
    build.text(f"labels/{split}/{name}.txt", lines)


YAML = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"


def test_yolo(build: Builder) -> None:
    yolo(build, "0 0 0 0.5 0 0.5 0.5 0 0.5\n1 0.5 0.5 1 0.5 1 1 0.5 1\n")
    build.image("images/train/bare.png", size=(10, 20))
    yolo(build, "", "v", "val")
    build.text("data.yaml", YAML)
    dataset = open_instances(build.root)
    assert dataset.format == "yolo" and dataset.classes.names == ("background", "cat", "dog")
    objects = only(dataset, "a")
    assert objects.classes.tolist() == [1, 2] and objects.boxes.tolist() == [[0, 0, 10, 5], [10, 5, 20, 10]]
    assert len(only(dataset, "bare")) == 0 and "2 images have no lines: kept as examples of background" in dataset.notes
    assert open_instances(build.root / "data.yaml").format == "yolo"
    (build.root / "data.yaml").unlink()
    assert open_instances(build.root).classes.names == ("background", "class_0", "class_1")


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("0 0.5 0.5 0.2 0.2", "damaged_object", "line 1, a box without an outline"),
        ("0 0 0 0.5 0 0.5", "damaged_object", "line 1, 5 numbers after the class"),
        ("0 0 0 0.5 nan 0.5 0.5", "damaged_object", "line 1, numbers that are not finite"),
        ("0 0.1 0.1", "short_polygon", "line 1"),
        ("0 0 0 3 0 3 3", "outline_outside", "1 objects .line 1. with outlines that leave the image of 10 x 20"),
        ("0 0.1 0.1 0.11 0.1 0.11 0.11", "empty_object", "1 object covers no pixel"),
    ],
)
def test_yolo_problems(build: Builder, line: str, code: str, message: str) -> None:
    yolo(build, line)
    yolo(build, "0 0 0 0.5 0 0.5 0.5", "v", "val")
    build.text("data.yaml", YAML)
    assert re.search(message, codes(open_instances(build.root))[code])


@pytest.mark.parametrize(
    ("lines", "yaml", "message"),
    [
        ("0 0 x", YAML, "line 1 holds something else than numbers"),
        ("cat 0 0", YAML, "line 1 holds something else than numbers"),
        ("0.5 0 0 1 1 1 0", YAML, "line 1 begins with 0.5: write the number of a class first"),
        ("7 0 0 1 1 1 0", YAML, "class 7 has no name among 2: add it to names"),
        ("", "train: [", "cannot be read as YAML"),
        ("", "- a", "holds no keys: write train, val and names"),
        ("", YAML.replace("images/train", "nowhere"), "'nowhere' of train in data.yaml does not exist"),
        ("", YAML + "  x: y\n", "names holds 'x': 'y': write number: name"),
        ("", "train: images/train\nnames: 3\n", "names holds 0 classes"),
    ],
)
def test_yolo_refused(build: Builder, lines: str, yaml: str, message: str) -> None:
    yolo(build, lines)
    yolo(build, "", "v", "val")
    build.text("data.yaml", yaml)
    with pytest.raises(InputError, match=message):
        open_instances(build.root)


# ---- Cityscapes


def test_cityscapes(build: Builder) -> None:
    ids = np.zeros((6, 8), np.uint16) + 7  # road
    ids[:2, :2], ids[3:, :3], ids[3:, 4:6], ids[0, 5:], ids[5, 7], ids[1, 7] = 26001, 24000, 24, 1, 30002, 65535
    for split, city in (("train", "bonn"), ("val", "ulm")):
        stem = f"{city}_000000_000019"
        build.image(f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png")
        build.array(f"gtFine/{split}/{city}/{stem}_gtFine_instanceIds.png", ids)
    dataset = open_instances(build.root)
    assert dataset.format == "cityscapes" and dataset.classes.names[:4] == ("background", "person", "rider", "car")
    assert dataset.classes.num_classes == 9 and dataset.split("train")[0].group == "bonn"
    objects = only(dataset, "000019")
    # By number: the group of persons (24), the person (24000), the car (26001); then the void.
    assert objects.classes.tolist() == [1, 1, 3, VOID] and objects.is_crowd.tolist() == [True, False, False, True]
    assert objects.masks.areas.tolist() == [6, 9, 4, 5]


# ---- VOC


def voc(build: Builder, objects: np.ndarray, kinds: np.ndarray, palette: bool = True) -> None:
    colours = np.random.default_rng(0).integers(0, 256, 768).tolist() if palette else None
    for name in ("2007_000032", "2007_000033", "2007_000039"):
        build.image(f"JPEGImages/{name}.png")
        build.array(f"SegmentationObject/{name}.png", objects.astype(np.uint8), colours)
        build.array(f"SegmentationClass/{name}.png", kinds.astype(np.uint8), colours)
    build.text("ImageSets/Segmentation/train.txt", "2007_000032\n2007_000033\n")
    build.text("ImageSets/Segmentation/val.txt", "2007_000039\n")


def test_voc(build: Builder) -> None:
    objects, kinds = MAP.copy(), np.choose(MAP, [0, 15, 8, 15])
    objects[0, 6:], kinds[0, 6:] = 255, 255
    kinds[1, 3] = 15  # most of its pixels are a cat
    voc(build, objects, kinds)
    dataset = open_instances(build.root)
    assert dataset.format == "voc" and dataset.classes.num_classes == 21
    found = only(dataset, "32")
    assert [dataset.classes.names[kind] for kind in found.classes] == ["person", "cat", "person", "background"]
    assert found.masks.areas.tolist() == [4, 9, 4, 2] and found.is_crowd.tolist() == [False] * 3 + [True]
    assert {split: len(samples) for split, samples in dataset.splits.items()} == {"train": 2, "val": 1}


def test_voc_by_colours(build: Builder) -> None:
    colours = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]], np.uint8)
    for name in ("a", "b", "c"):
        build.image(f"JPEGImages/{name}.png")
        build.array(f"SegmentationObject/{name}.png", colours[MAP])
        build.array(f"SegmentationClass/{name}.png", colours[np.minimum(MAP, 1)])
    build.text("labelmap.txt", "background:0,0,0::\ncell:128,0,0::\n")
    objects = only(open_instances(build.root), "b")
    assert objects.classes.tolist() == [1, 1, 1] and sorted(objects.masks.areas.tolist()) == [4, 4, 9]


def test_voc_problems(build: Builder) -> None:
    voc(build, MAP, np.where(MAP == 2, 0, MAP))
    assert (
        "1 objects (2) have no class in 2007_000032.png: left out"
        in codes(open_instances(build.root))["object_without_class"]
    )
    voc(build, MAP, np.where(MAP == 2, 77, MAP))
    assert "value 77 (9 pixels)" in codes(open_instances(build.root))["unknown_value"]
    Path(build.root / "SegmentationObject/2007_000033.png").unlink()
    with pytest.raises(InputError, match=r"1 of 3 images have no file here \(2007_000033\)"):
        open_instances(build.root, format="voc")


# ---- choosing


def test_formats_are_named(build: Builder) -> None:
    label_images(build)
    with pytest.raises(InputError, match="unknown format of instances 'yollo'; did you mean 'yolo'"):
        open_instances(build.root, format="yollo")
    with pytest.raises(InputError, match="no such file or folder"):
        open_instances(build.root / "nothing")
    with pytest.raises(InputError, match="neither a COCO JSON nor a YOLO"):
        open_instances(build.root / "images/a.png")
    images = [{"id": 1, "file_name": "a.png", "height": 6, "width": 8}]
    build.json("instances.json", {"images": images, "categories": [{"id": 1, "name": "x"}], "annotations": []})
    with pytest.raises(InputError, match="split_parts belongs to label images, but this is read as coco"):
        open_instances(build.root, split_parts=True)


def test_splits_and_groups(build: Builder) -> None:
    label_images(build)
    build.json("splits.json", {"train": ["a"], "val": ["b"], "test": ["c"]})
    dataset = open_instances(build.root)
    assert {split: [s.name for s in samples] for split, samples in dataset.splits.items()} == {
        "train": ["a"],
        "val": ["b"],
        "test": ["c"],
    }
    with pytest.raises(InputError, match="split 'unlabelled' does not exist"):
        dataset.split("unlabelled")
