"""Pascal VOC and its look-alikes."""

from __future__ import annotations

import numpy as np
import pytest
from dataset_builder import Builder, bands

from perpixel.data.dataset import open_dataset
from perpixel.data.formats.voc import palette_colour
from perpixel.errors import InputError

HOME = "VOCdevkit/VOC2012"
IDS = ["2007_000032", "2007_000033", "2008_000002"]


def make_voc(build: Builder, home: str = HOME, names: list[str] = IDS) -> None:
    palette = [channel for index in range(256) for channel in palette_colour(index)]
    for name in names:
        build.image(f"{home}/JPEGImages/{name}.jpg")
        build.array(f"{home}/SegmentationClass/{name}.png", bands((0, 15, 255)), palette)
    build.text(f"{home}/ImageSets/Segmentation/train.txt", "\n".join(names[:2]))
    build.text(f"{home}/ImageSets/Segmentation/val.txt", names[2] + "\n")


def test_palette_colours_of_the_paper() -> None:
    assert [palette_colour(i) for i in (0, 1, 2, 15, 20)] == [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (192, 128, 128), (0, 64, 128),
    ]  # fmt: skip


def test_voc(build: Builder) -> None:
    make_voc(build)
    build.image(f"{HOME}/JPEGImages/2009_000001.jpg")
    dataset = open_dataset(build.root)
    assert dataset.format == "voc" and dataset.classes.num_classes == 21
    assert [sample.name for sample in dataset.split("train")] == IDS[:2]
    assert dataset.classes.names[15] == "person"
    label_map = dataset.load_label_map(dataset.split("val")[0])
    assert np.unique(label_map).tolist() == [0, 15, 255]


def test_test_list_without_masks(build: Builder) -> None:
    make_voc(build)
    build.image(f"{HOME}/JPEGImages/2009_000001.jpg")
    build.text(f"{HOME}/ImageSets/Segmentation/test.txt", "2009_000001\n")
    dataset = open_dataset(build.root)
    assert [sample.name for sample in dataset.split("unlabelled")] == ["2009_000001"]


def test_labelme_export_names_its_classes(build: Builder) -> None:
    make_voc(build, home=".", names=["a", "b", "c"])
    build.text("class_names.txt", "__ignore__\n_background_\n" + "\n".join(f"thing{i}" for i in range(1, 16)))
    dataset = open_dataset(build.root)
    assert dataset.classes.num_classes == 16 and dataset.classes.names[15] == "thing15"
    assert dataset.classes.ignore_values == (255,)


def test_cvat_export_has_colours(build: Builder) -> None:
    for name in "ab":
        build.image(f"JPEGImages/{name}.jpg")
        colours = np.zeros((6, 8, 3), dtype=np.uint8)
        colours[:, 4:] = (250, 50, 83)
        build.array(f"SegmentationClass/{name}.png", colours)
    build.text("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncell:250,50,83::\n")
    dataset = open_dataset(build.root)
    assert list(dataset.classes.names) == ["background", "cell"]
    assert np.array_equal(dataset.load_label_map(dataset.split("train")[0]), bands((0, 1)))


def test_a_list_with_a_missing_mask(build: Builder) -> None:
    make_voc(build)
    build.text(f"{HOME}/ImageSets/Segmentation/val.txt", "2008_000002\n2008_000003\n")
    build.image(f"{HOME}/JPEGImages/2008_000003.jpg")
    with pytest.raises(InputError, match=r"val\.txt: 1 of 2 names have no mask \(2008_000003\): add the files or take"):
        open_dataset(build.root)
