"""COCO files read as objects: what is read, and one sentence for each thing that is wrong."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from dataset_builder import Builder

from perpixel.data.instances import InstanceDataset, check_instances, open_instances
from perpixel.errors import InputError
from perpixel.labels import Instances

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 90, "name": "dog"}]


def box(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def note(number: int, category: int, segmentation: Any, *, image: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, **more}


def write(build: Builder, annotations: list[dict[str, Any]], images: int = 2, **more: Any) -> None:
    """train/ with the annotations, val/ with an image of one cat."""
    for split, notes in (("train", annotations), ("val", [note(1, 7, [box(0, 0, 4, 4)])])):
        entries = []
        for index in range(1, images + 1):
            build.image(f"{split}/images/{index:012d}.png")
            entries.append({"id": index, "file_name": f"{index:012d}.png", "height": 6, "width": 8})
        content = {"images": entries, "categories": CATEGORIES, "annotations": notes, **more}
        build.json(f"{split}/instances.json", content)


def first(dataset: InstanceDataset) -> Instances:
    return dataset.load_instances(dataset.split("train")[0])


def codes(dataset: InstanceDataset) -> dict[str, str]:
    """Code -> message of the findings in train."""
    problems = check_instances(dataset, workers=1).problems
    return {p.code: f"{p.severity}: {p.message}: {p.remedy}" for p in problems if not p.code.startswith("class_")}


def test_what_is_read(build: Builder) -> None:
    annotations = [
        note(1, 90, [box(1, 1, 2, 2), box(6, 0, 7, 1)], area=1.5, bbox=[1, 0, 6, 2], iscrowd=0),
        note(2, 7, {"size": [6, 8], "counts": [36, 12]}, iscrowd=1),
        note(3, 7, {"size": [6, 8], "counts": "T1<"}, iscrowd=0),
    ]
    write(build, annotations)
    dataset = open_instances(build.root)
    assert dataset.format == "coco" and dataset.classes.names == ("background", "cat", "dog")
    assert [info.values for info in dataset.classes.classes] == [(0,), (7,), (90,)]  # ids, gaps and all
    image, objects = dataset.load(dataset.split("train")[0])
    assert image.shape == (6, 8, 3) and objects.size == (6, 8)
    assert objects.classes.tolist() == [2, 1, 1] and objects.is_crowd.tolist() == [False, True, False]
    assert objects.areas.tolist() == [1.5, 12, 12] and objects.masks.areas.tolist() == [2, 12, 12]
    assert objects.boxes.tolist() == [[1, 0, 7, 2], [6, 0, 8, 6], [6, 0, 8, 6]]
    empty = dataset.load_instances(dataset.split("train")[1])
    assert len(empty) == 0 and empty.size == (6, 8)
    assert "2 images have no objects: kept as examples of background" in dataset.notes
    # The same data as label maps: the crowd is ignored, what is single lies on it.
    label_map = dataset.images.load_label_map(dataset.split("train")[0])
    assert label_map[1, 1] == 2 and label_map[3, 7] == 1 and label_map[5, 0] == 0


def test_sound_data_has_no_problems(build: Builder) -> None:
    write(build, [note(1, 7, [box(0, 0, 4, 4)], bbox=[0, 0, 4, 4])])
    result = check_instances(open_instances(build.root), workers=1)
    assert not result.errors and {p.code for p in result.problems} <= {"class_absent", "class_in_few_images"}
    assert result.facts["train"].objects == 1 and result.facts["train"].empty_images == 1
    assert result.class_objects == {"train": (0, 1, 0), "val": (0, 1, 0)}


GOOD = note(50, 7, [box(0, 0, 4, 4)])


SQUARE = box(0, 0, 3, 3)
MEND = "export the annotations again"
# What is wrong, its code, a pattern of the message with the remedy, and how many objects are left; None = refused.
PROBLEMS: list[tuple[list[dict[str, Any]], str, str, int | None]] = [
    (
        [note(1, 8, [SQUARE])],
        "dangling_category",
        r"error: .*annotation 0 has category 8, which is not in the list of 2 categories: left out: add the category$",
        None,
    ),
    (
        [note(1, 7, [SQUARE], image=9)],
        "dangling_image",
        r"warning: .*annotation 0 belongs to image 9, which is not in the list of 2 images: left out: add the image$",
        1,
    ),
    (
        [note(1, 7, [SQUARE]), note(1, 90, [box(3, 3, 6, 6)])],
        "duplicate_id",
        r"1 annotation ids are given more than once \(1\): number the annotations differently$",
        3,
    ),
    (
        [note(1, 7, [SQUARE]), note(2, 7, [SQUARE])],
        "duplicate_object",
        "1 objects are annotated twice, with the same outline: delete one of each pair$",
        3,
    ),
    (
        [note(1, 7, [[1, 1, 3, 3], SQUARE])],
        "short_polygon",
        r"1 objects \(annotation 1\) with polygons of fewer than 3 points: left out: draw them again$",
        2,
    ),
    ([note(1, 7, [[1, 1, 3, 3]])], "empty_object", r"1 object covers no pixel and is left out \(annotation 1\): ", 1),
    (
        [note(1, 7, []), note(2, 7, [box(1, 1, 1, 4)])],
        "empty_object",
        r"2 objects cover no pixel and are left out \(annotation 1, annotation 2\): delete them or draw them larger$",
        1,
    ),
    (
        [note(1, 7, [SQUARE], bbox=[-40, 0, 3, 3])],
        "box_outside",
        r"1 objects \(annotation 1\) with boxes that leave the image of 6 x 8: those around the outlines are taken: ",
        2,
    ),
    ([note(1, 7, [SQUARE], bbox=[0, 0, "a", 3])], "box_outside", "boxes that leave the image of 6 x 8", 2),
    (
        [note(1, 7, [box(-9, 0, 3, 3)])],
        "outline_outside",
        r"1 objects \(annotation 1\) with outlines that leave the image of 6 x 8: what is outside is cut off: ",
        2,
    ),
    (
        [note(1, 7, [box(0, 0, 6, 6), box(2, 2, 4, 4)])],
        "hole_filled",
        "polygons inside another one of the same object: no hole, as in COCO: write objects with holes as run lengths$",
        2,
    ),
    (
        [note(1, 7, {"size": [8, 6], "counts": [48]})],
        "damaged_object",
        f"error: .*annotation 1 has run lengths of 8 x 6 for an image of 6 x 8: {MEND}$",
        None,
    ),
    (
        [note(1, 7, {"size": [6, 8], "counts": [40, 2]})],
        "damaged_object",
        f"annotation 1, run lengths add up to 42, the image has 6 x 8 = 48 pixels: {MEND}$",
        None,
    ),
    (
        [note(1, 7, {"size": [6, 8], "counts": "T~"})],
        "damaged_object",
        "annotation 1, run lengths hold the character '~'",
        None,
    ),
    ([note(1, 7, {"size": [6, 8]})], "damaged_object", f"annotation 1, run lengths without counts: {MEND}$", None),
    (
        [note(1, 7, [[0, 0, 3, 0, 3, "x"]])],
        "damaged_object",
        "a polygon holds something else than pairs of numbers",
        None,
    ),
    (
        [note(1, 7, [[0, 0, 3, 0, 3, float("nan")]])],
        "damaged_object",
        "a polygon holds numbers that are not finite",
        None,
    ),
    ([note(1, 7, "nothing")], "damaged_object", "its segmentation is neither polygons nor run lengths", None),
]


@pytest.mark.parametrize(("annotations", "code", "message", "left"), PROBLEMS)
def test_problems(build: Builder, annotations: list[dict[str, Any]], code: str, message: str, left: int | None) -> None:
    write(build, [*annotations, GOOD])
    dataset = open_instances(build.root)
    found = codes(dataset)
    assert code in found and re.search(message, found[code]), found
    assert "\n" not in found[code]
    if left is None:
        with pytest.raises(InputError):
            first(dataset)
    else:
        assert len(first(dataset)) == left


def test_an_image_of_another_size(build: Builder) -> None:
    write(build, [GOOD])
    build.image("train/images/000000000001.png", size=(8, 6))
    dataset = open_instances(build.root)
    assert "one of the two is turned" in codes(dataset)["size_mismatch"]
    with pytest.raises(InputError, match=r"mask of 6 x 8 pixels, but its image 000000000001\.png has 8 x 6"):
        dataset.load(dataset.split("train")[0])


def test_refused_at_once(build: Builder) -> None:
    write(build, [GOOD])
    images = [{"id": 1, "file_name": "1.png", "height": 6, "width": 8}] * 2
    build.json("train/instances.json", {"images": images, "categories": CATEGORIES, "annotations": []})
    with pytest.raises(InputError, match="image id 1 is given twice"):
        open_instances(build.root)
    write(build, [GOOD])
    (build.root / "train/images/000000000002.png").unlink()
    with pytest.raises(InputError, match="1 of 2 images are not in"):
        open_instances(build.root)


def test_classes_json_joins_categories_by_id(build: Builder) -> None:
    write(build, [note(1, 7, [box(0, 0, 2, 6)]), note(2, 90, [box(2, 0, 4, 6)])])
    build.json("classes.json", {"classes": [{"name": "animal", "values": [7, 90]}]})
    dataset = open_instances(build.root)
    assert dataset.classes.names == ("background", "animal") and first(dataset).classes.tolist() == [1, 1]
    build.json("classes.json", {"classes": [{"name": "cat", "values": [7]}], "others": "ignore"})
    dataset = open_instances(build.root)
    assert first(dataset).classes.tolist() == [1]
    assert "1 objects of categories that the class table leaves out are not read" in dataset.notes
    build.json("classes.json", {"classes": [{"name": "cat", "values": [7]}]})
    with pytest.raises(InputError, match="category 90 is not in the class table: add its id"):
        open_instances(build.root)


def test_categories_from_zero_and_a_train_split_without_objects(build: Builder) -> None:
    categories = [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}, {"id": 7, "name": "c"}]
    write(build, [note(1, 0, [box(0, 0, 2, 6)]), note(2, 1, [box(2, 0, 4, 6)])], categories=categories)
    dataset = open_instances(build.root)
    assert dataset.classes.names == ("background", "a", "b", "c") and first(dataset).classes.tolist() == [1, 2]
    write(build, [])
    assert codes(open_instances(build.root))["no_objects"].startswith("error: no image of train holds a single object")


def test_it_is_the_semantic_reader_s_map(build: Builder) -> None:
    from perpixel.data import open_dataset

    write(build, [note(1, 7, [box(0, 0, 6, 6)]), note(2, 90, [box(2, 2, 5, 5)])])
    semantic, objects = open_dataset(build.root), open_instances(build.root)
    for one, other in zip(semantic.split("train"), objects.split("train")):
        assert np.array_equal(semantic.load_label_map(one), objects.images.load_label_map(other))
