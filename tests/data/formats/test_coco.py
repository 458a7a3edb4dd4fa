"""COCO files for semantic segmentation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dataset_builder import Builder

from perpixel.data.dataset import open_dataset
from perpixel.errors import InputError

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 90, "name": "dog"}]


def box(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def note(image: int, category: int, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": 0, **more}


def write(
    build: Builder, name: str, folder: str, annotations: list[dict[str, Any]], images: int = 1, **more: Any
) -> None:
    entries = []
    for index in range(1, images + 1):
        build.image(f"{folder}/{index:012d}.jpg")
        entries.append({"id": index, "file_name": f"{index:012d}.jpg", "height": 6, "width": 8})
    build.json(name, {"images": entries, "categories": CATEGORIES, "annotations": annotations, **more})


def test_small_objects_lie_on_large_ones_and_crowds_are_ignored(build: Builder) -> None:
    # Counts down the columns: the last two columns are the crowd.
    crowd = note(1, 7, {"size": [6, 8], "counts": [36, 12]}, iscrowd=1)
    small = note(1, 90, [box(1, 1, 2, 2), box(6, 0, 7, 1)], area=2)
    large = note(1, 7, [box(0, 0, 4, 4)], area=16)
    write(build, "annotations/instances_train2017.json", "train2017", [small, large, crowd], images=2)
    write(build, "annotations/instances_val2017.json", "val2017", [large])
    build.json("annotations/captions_val2017.json", {"images": [], "annotations": []})
    dataset = open_dataset(build.root)
    assert dataset.format == "coco" and list(dataset.classes.names) == ["background", "cat", "dog"]
    expected = np.zeros((6, 8), dtype=np.uint8)
    expected[:4, :4] = 1
    expected[:, 6:] = 255
    expected[1, 1] = expected[0, 6] = 2
    train = dataset.split("train")
    assert np.array_equal(dataset.load_label_map(train[0]), expected)
    assert not dataset.load_label_map(train[1]).any()
    assert "1 images have no annotations: read as background" in dataset.notes
    assert len(dataset.split("val")) == 1


def test_compressed_runs(build: Builder) -> None:
    # 36 = 4 + 1 * 32 -> 'T1'; 12 -> '<'.
    write(build, "train/instances.json", "train/images", [note(1, 7, {"size": [6, 8], "counts": "T1<"})])
    write(build, "val/instances.json", "val/images", [])
    dataset = open_dataset(build.root)
    assert dataset.split("train")[0].name == "train/000000000001"
    label_map = dataset.load_label_map(dataset.split("train")[0])
    assert label_map[:, :6].max() == 0 and label_map[:, 6:].min() == 1


def test_roboflow(build: Builder) -> None:
    categories = [{"id": 0, "name": "cells", "supercategory": "none"}, {"id": 1, "name": "round"}]
    for split in ("train", "valid"):
        write(build, f"{split}/_annotations.coco.json", split, [note(1, 1, [box(0, 0, 2, 2)])], categories=categories)
    dataset = open_dataset(build.root)
    assert list(dataset.classes.names) == ["background", "round"]
    assert "category 0 ('cells') is never used and is left out" in dataset.notes
    assert {split: len(samples) for split, samples in dataset.splits.items()} == {"train": 1, "val": 1}


def test_categories_from_zero_move_up(build: Builder) -> None:
    categories = [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]
    notes = [note(1, 0, [box(0, 0, 2, 6)]), note(1, 1, [box(2, 0, 4, 6)])]
    path = build.root / "labels.json"
    write(build, "labels.json", "images", notes, images=3, categories=categories)
    dataset = open_dataset(path)
    sample = next(s for split in dataset.splits.values() for s in split if s.name.endswith("1"))
    assert dataset.load_label_map(sample)[0].tolist() == [1, 1, 2, 2, 0, 0, 0, 0]


def test_classes_json_joins_categories_by_id(build: Builder) -> None:
    write(build, "instances.json", "images", [note(1, 7, [box(0, 0, 2, 6)]), note(1, 90, [box(2, 0, 4, 6)])], images=2)
    table = [{"name": "background", "values": [0]}, {"name": "animal", "values": [7, 90]}]
    build.json("classes.json", {"classes": table})
    dataset = open_dataset(build.root)
    sample = next(s for split in dataset.splits.values() for s in split if s.name.endswith("1"))
    assert dataset.load_label_map(sample)[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (note(1, 8, []), r"annotation 0 has category 8, which is not in the list of 2 categories: add the category"),
        (note(5, 7, []), r"annotation 0 belongs to image 5, which is not in the list of 1 images"),
        (note(1, 7, [[1, 2, 3, 4]]), r"annotation 1 of image 1: a polygon needs at least 3 points"),
        (note(1, 7, [[1, 2, 3, 4, 5, "x"]]), r"a polygon holds something else than numbers"),
        (note(1, 7, {"size": [8, 6], "counts": [48]}), r"run lengths of size \[8, 6\] for an image of \[6, 8\]"),
        ({"image_id": 1}, r"annotations\[0\] lacks category_id, segmentation: export the data set again"),
    ],
)
def test_errors(build: Builder, annotation: dict[str, Any], message: str) -> None:
    write(build, "instances.json", "images", [annotation])
    with pytest.raises(InputError, match=message):
        open_dataset(build.root)


def test_missing_images(build: Builder) -> None:
    write(build, "instances.json", "images", [], images=3)
    (build.root / "images/000000000002.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of 3 images are not in .*images \(000000000002\.jpg\): add the images"):
        open_dataset(build.root)


def test_runs_of_a_wrong_total_name_their_file(build: Builder) -> None:
    write(build, "instances.json", "images", [note(1, 7, {"size": [6, 8], "counts": [40, 2]})], images=2)
    dataset = open_dataset(build.root)
    sample = next(s for split in dataset.splits.values() for s in split if s.name.endswith("1"))
    with pytest.raises(
        InputError, match=r"json \(image 0+1\.jpg\): run lengths add up to 42, the image has 6 x 8 = 48"
    ):
        dataset.load_label_map(sample)
