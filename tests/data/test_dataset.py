"""Opening a data set and reading its samples."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from dataset_builder import Builder, bands

from perpixel.data.dataset import open_dataset, save_classes
from perpixel.data.find_images import open_images
from perpixel.errors import InputError


def make(build: Builder, values: tuple[int, ...] = (0, 255)) -> Path:
    build.pairs("train/images/{}.png", "train/masks/{}.png", ["a", "b"], values)
    build.pairs("val/images/{}.png", "val/masks/{}.png", ["c"], values)
    return build.root


def test_a_label_map_round_trip(build: Builder) -> None:
    dataset = open_dataset(make(build))
    assert np.array_equal(dataset.load_label_map(dataset.split("train")[0]), bands((0, 1)))
    assert dataset.load_label_map(dataset.split("val")[0]).dtype == np.uint8


def test_a_data_set_travels_to_workers(build: Builder) -> None:
    dataset = pickle.loads(pickle.dumps(open_dataset(make(build))))
    assert dataset.load(dataset.split("val")[0])[0].shape == (6, 8, 3)


def test_classes_json_is_found_and_classes_overrides(build: Builder) -> None:
    make(build, (0, 1))
    build.json("classes.json", ["soil", "crop"])
    other = build.json("other.json", {"0": "left", "1": "right"})
    dataset = open_dataset(build.root)
    assert list(dataset.classes.names) == ["soil", "crop"]
    assert "2 classes from classes.json" in dataset.notes
    assert list(open_dataset(build.root, classes=other).classes.names) == ["left", "right"]


def test_classes_json_may_say_that_masks_number_objects(build: Builder) -> None:
    make(build, (0, 1, 2, 3))
    build.json("classes.json", {"classes": ["background", "nucleus"], "instances": True})
    dataset = open_dataset(build.root)
    assert np.array_equal(dataset.load_label_map(dataset.split("val")[0]), bands((0, 1, 1, 1)))
    build.json("classes.json", {"classes": ["background", "nucleus"], "instances": "yes"})
    with pytest.raises(InputError, match=r"classes\.json: instances is 'yes': write true or false"):
        open_dataset(build.root)


def test_saved_classes_read_the_masks_as_before(build: Builder, tmp_path: Path) -> None:
    for name, count in (("a", 4), ("b", 20), ("c", 30)):
        build.image(f"train/images/{name}.png", size=(4, 60))
        build.mask(f"train/masks/{name}.png", *range(count), size=(4, 60))
    first = open_dataset(build.root)
    again = open_dataset(build.root, classes=save_classes(first, tmp_path / "classes.json"))
    assert again.classes == first.classes
    for sample, other in zip(first.split("train"), again.split("train")):
        assert np.array_equal(first.load_label_map(sample), again.load_label_map(other))
        assert first.load_label_map(sample).max() == 1


def test_values_outside_the_table_are_named_with_their_pixels(build: Builder) -> None:
    make(build, (0, 1, 12, 7))
    build.json("classes.json", ["soil", "crop"])
    dataset = open_dataset(build.root)
    with pytest.raises(
        InputError,
        match=r"c\.png: value (7|12) \(12 pixels and 1 other values\) is in none of the 2 classes \(soil, crop\): "
        r"add it to classes\.json, ignore it with ignore_values=(7|12)",
    ):
        dataset.load_label_map(dataset.split("val")[0])
    ignoring = open_dataset(build.root, ignore_values=(7, 12))
    assert np.array_equal(ignoring.load_label_map(ignoring.split("val")[0]), bands((0, 1, 255, 255)))


def test_ignoring_a_class_takes_it_out(build: Builder) -> None:
    make(build, (0, 1, 2))
    build.json("classes.json", ["soil", "crop", "void"])
    dataset = open_dataset(build.root, ignore_values=(2,))
    assert list(dataset.classes.names) == ["soil", "crop"]
    with pytest.raises(InputError, match=r"leave no class"):
        open_dataset(build.root, ignore_values=(0, 1, 2))


def test_a_mask_of_another_size(build: Builder) -> None:
    make(build)
    build.mask("val/masks/c.png", 0, 255, size=(6, 10))
    dataset = open_dataset(build.root)
    with pytest.raises(InputError, match=r"c\.png: mask of 6 x 10 pixels, but its image c\.png has 6 x 8: save"):
        dataset.load_label_map(dataset.split("val")[0])


def test_colour_masks_need_colours_in_the_table(build: Builder) -> None:
    make(build)
    coloured = np.zeros((6, 8, 3), dtype=np.uint8)
    coloured[:, 4:] = (9, 200, 30)
    build.array("val/masks/c.png", coloured)
    build.json("classes.json", ["a", "b"])
    dataset = open_dataset(build.root)
    with pytest.raises(InputError, match=r"a colour mask, but the class table lists numbers: give the colours"):
        dataset.load_label_map(dataset.split("val")[0])
    table = [{"name": "a", "values": [[0, 0, 0]]}, {"name": "b", "values": [[9, 200, 30]]}]
    build.json("classes.json", {"classes": table})
    dataset = open_dataset(build.root)
    assert np.array_equal(dataset.load_label_map(dataset.split("val")[0]), bands((0, 1)))


def test_snap_to_the_given_table(build: Builder) -> None:
    make(build, (3, 250))
    build.json("classes.json", {"0": "background", "255": "cell"})
    dataset = open_dataset(build.root, snap=True)
    assert np.array_equal(dataset.load_label_map(dataset.split("val")[0]), bands((0, 1)))
    assert "mask values are snapped to the nearest value of the class table" in dataset.notes


def test_grey_and_colour_images_meet_at_three_channels(build: Builder) -> None:
    make(build)
    grey = build.image("val/images/c.png", channels=1)
    build.array("train/images/a.png", np.full((6, 8, 4), 90, dtype=np.uint8))
    dataset = open_dataset(build.root)
    assert dataset.channels == 3
    image = dataset.load_image(dataset.split("val")[0])
    assert image.shape == (6, 8, 3) and (image[:, :, 0] == image[:, :, 2]).all() and grey.exists()
    assert any(note.startswith("images are mixed (1 grey, 1 colour") for note in dataset.notes)
    assert dataset.load_image(dataset.split("train")[0]).shape == (6, 8, 3)


def test_splits_that_do_not_exist(build: Builder) -> None:
    dataset = open_dataset(make(build))
    with pytest.raises(InputError, match=r"split 'test' does not exist: choose one of train \(2\), val \(1\)"):
        dataset.split("test")


def test_unknown_formats(build: Builder) -> None:
    with pytest.raises(InputError, match=r"unknown data set format 'vok'; did you mean 'voc'\? known: ade20k, auto"):
        open_dataset(make(build), format="vok")
    with pytest.raises(InputError, match=r"no folders JPEGImages and SegmentationClass"):
        open_dataset(build.root, format="voc")
    with pytest.raises(InputError, match=r"neither a CSV of pairs nor a COCO JSON"):
        open_dataset(build.image("single.png"))


def test_a_second_reading_is_mentioned(build: Builder) -> None:
    make(build)
    build.text("pairs.csv", "image,mask\ntrain/images/a.png,train/masks/a.png\ntrain/images/b.png,train/masks/b.png\n")
    build.json("x/a.json", {"version": "5", "shapes": [], "imagePath": "a.png"})
    assert "read as csv; it also looks like labelme: format=labelme reads it so" in open_dataset(build.root).notes


def test_images_to_predict(build: Builder) -> None:
    make(build)
    assert [path.name for path in open_images(build.root / "train" / "images")] == ["a.png", "b.png"]
    assert [path.name for path in open_images(build.root / "*" / "images" / "*.png")] == ["a.png", "b.png", "c.png"]
    assert len(open_images(build.root / "val" / "images" / "c.png")) == 1
    with pytest.raises(InputError, match=r"no images there: give an image, a folder or a pattern"):
        open_images(build.root / "nothing*")
    with pytest.raises(InputError, match=r"'\.txt' is no image suffix"):
        open_images(build.text("a.txt", "x"))
