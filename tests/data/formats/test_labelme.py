"""LabelMe files."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from dataset_builder import Builder
from PIL import Image

from perpixel.data.dataset import open_dataset
from perpixel.errors import InputError


def shape(label: str, points: list[list[float]], kind: str = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, **more}


def annotate(build: Builder, name: str, shapes: list[dict[str, Any]], **more: Any) -> None:
    build.image(f"{name}.jpg")
    content = {"version": "5.4", "shapes": shapes, "imagePath": f"{name.rpartition('/')[2]}.jpg", "imageData": "AAAA"}
    build.json(f"{name}.json", {**content, "imageHeight": 6, "imageWidth": 8, **more})


LEAF = shape("leaf", [[0, 0], [4, 0], [4, 3], [0, 3]])


def test_shapes_are_painted_in_order(build: Builder) -> None:
    spot = shape("Spot", [[1, 1], [3, 2]], "rectangle")
    void = shape("__ignore__", [[6, 0], [8, 0], [8, 6], [6, 6]])
    annotate(build, "train/a", [LEAF, spot, void, shape("x", [[1, 1], [2, 2]], "line")])
    annotate(build, "val/b", [])
    dataset = open_dataset(build.root)
    assert dataset.format == "labelme" and list(dataset.classes.names) == ["background", "Spot", "leaf", "x"]
    expected = np.zeros((6, 8), dtype=np.uint8)
    expected[:3, :4] = 2
    expected[1, 1:3] = 1
    expected[:, 6:] = 255
    assert np.array_equal(dataset.load_label_map(dataset.split("train")[0]), expected)
    assert not dataset.load_label_map(dataset.split("val")[0]).any()
    assert "shapes without an area are left out: 1 of type line" in dataset.notes


def test_circles_and_bitmaps(build: Builder) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.array([[True, False], [True, True]])).save(stream, "PNG")
    bitmap = base64.b64encode(stream.getvalue()).decode()
    circle = shape("c", [[2.5, 2.5], [2.5, 3.6]], "circle")
    annotate(build, "train/a", [circle, shape("m", [[5, 3], [7, 5]], "mask", mask=bitmap)])
    annotate(build, "val/b", [LEAF])
    dataset = open_dataset(build.root)
    label_map = dataset.load_label_map(dataset.split("train")[0])
    # Centres at a distance of at most 1.1 from (2.5, 2.5): the pixel and its four neighbours.
    assert np.argwhere(label_map == 1).tolist() == [[1, 2], [2, 1], [2, 2], [2, 3], [3, 2]]
    assert np.argwhere(label_map == dataset.classes.names.index("m")).tolist() == [[3, 5], [4, 5], [4, 6]]


def test_classes_json_orders_the_labels_by_name(build: Builder) -> None:
    for name in ("a", "b", "c"):
        annotate(build, name, [LEAF])
    build.json("classes.json", ["background", "stem", "leaf"])
    dataset = open_dataset(build.root)
    assert np.unique(dataset.load_label_map(dataset.split("train")[0])).tolist() == [0, 2]
    build.json("classes.json", ["background", "stem"])
    with pytest.raises(InputError, match=r"1 labels are not in the class table \(leaf; known: background, stem\)"):
        open_dataset(build.root)


def test_a_turned_photo_is_named(build: Builder) -> None:
    annotate(build, "train/a", [LEAF], imageHeight=8, imageWidth=6)
    annotate(build, "val/b", [LEAF])
    dataset = open_dataset(build.root)
    with pytest.raises(InputError, match=r"mask of 8 x 6 pixels, but its image a\.jpg has 6 x 8: .*EXIF rotation"):
        dataset.load_label_map(dataset.split("train")[0])


def test_images_elsewhere_and_errors(build: Builder) -> None:
    build.image("photos/a.jpg")
    content = {"version": "5", "shapes": [LEAF], "imagePath": "C:\\me\\a.jpg", "imageHeight": 6, "imageWidth": 8}
    build.json("json/a.json", content)
    build.image("photos/b.jpg")
    build.json("json/b.json", {**content, "imagePath": "b.jpg"})
    assert sum(map(len, open_dataset(build.root).splits.values())) == 2
    build.json("json/c.json", {**content, "imagePath": "c.jpg"})
    with pytest.raises(InputError, match=r"c\.json: its image 'c\.jpg' does not exist: put the image beside"):
        open_dataset(build.root)
    build.json("json/c.json", {**content, "imagePath": "a.jpg", "shapes": [shape("leaf", [[1, 1]])]})
    with pytest.raises(InputError, match=r"c\.json: shape 0 \('leaf', polygon\) is damaged \(needs at least 3 points"):
        open_dataset(build.root)
