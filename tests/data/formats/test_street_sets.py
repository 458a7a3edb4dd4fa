"""Cityscapes, CamVid as SegNet has it, and ADE20K."""

from __future__ import annotations

import numpy as np
import pytest
from dataset_builder import Builder

from perpixel.data.dataset import open_dataset
from perpixel.errors import InputError


def make_cityscapes(build: Builder, kind: str, values: tuple[int, ...]) -> None:
    for split, city in (("train", "aachen"), ("train", "bochum"), ("val", "munster"), ("test", "berlin")):
        stem = f"{city}_000001_000019"
        build.image(f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png")
        shown = values if split != "test" else ((255,) if kind == "labelTrainIds" else (0, 1, 3))
        build.mask(f"gtFine/{split}/{city}/{stem}_gtFine_{kind}.png", *shown)


@pytest.mark.parametrize(("kind", "values"), [("labelIds", (7, 26, 4, 33)), ("labelTrainIds", (0, 13, 255, 18))])
def test_cityscapes(build: Builder, kind: str, values: tuple[int, ...]) -> None:
    make_cityscapes(build, kind, values)
    dataset = open_dataset(build.root)
    assert dataset.format == "cityscapes" and dataset.classes.num_classes == 19
    assert [(sample.name, sample.group) for sample in dataset.split("train")] == [
        ("aachen/aachen_000001_000019", "aachen"),
        ("bochum/bochum_000001_000019", "bochum"),
    ]
    # road, car, ignored, bicycle
    assert dataset.load_label_map(dataset.split("val")[0])[0].tolist() == [0, 0, 13, 13, 255, 255, 18, 18]
    assert len(dataset.split("unlabelled")) == 1 and "test" not in dataset.splits


def test_cityscapes_without_label_files(build: Builder) -> None:
    make_cityscapes(build, "color", (7, 8))
    with pytest.raises(InputError, match=r"no \*_labelTrainIds.png or \*_labelIds.png under gtFine"):
        open_dataset(build.root)


def test_cityscapes_with_a_missing_label(build: Builder) -> None:
    make_cityscapes(build, "labelIds", (7, 8))
    build.image("leftImg8bit/val/munster/munster_000002_000019_leftImg8bit.png")
    with pytest.raises(InputError, match=r"1 of 2 images have no labelIds file \(munster/munster_000002_000019\)"):
        open_dataset(build.root)


def test_segnet_layout(build: Builder) -> None:
    for split in ("train", "val", "test"):
        build.pairs(f"CamVid/{split}/{{}}.png", f"CamVid/{split}annot/{{}}.png", [f"{split}1", f"{split}2"], (0, 5, 11))
        build.text(f"CamVid/{split}.txt", f"/SegNet/CamVid/{split}/{split}1.png /SegNet/CamVid/{split}annot/x.png\n")
    dataset = open_dataset(build.root / "CamVid")
    assert dataset.format == "camvid"
    assert {split: len(samples) for split, samples in dataset.splits.items()} == {"train": 2, "val": 2, "test": 2}
    assert dataset.classes.num_classes == 11 and dataset.classes.names[5] == "tree"
    assert np.unique(dataset.load_label_map(dataset.split("test")[0])).tolist() == [0, 5, 255]


def test_segnet_layout_of_another_data_set(build: Builder) -> None:
    for split in ("train", "val"):
        build.pairs(f"{split}/{{}}.png", f"{split}annot/{{}}.png", [f"{split}1"], (0, 255))
    assert list(open_dataset(build.root).classes.names) == ["background", "foreground"]


def test_ade20k(build: Builder) -> None:
    rows = "\n".join(f"{i}\t0.1\t9\t9\t1\tname{i}, other" for i in range(1, 151))
    build.text("objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tStuff\tName\n" + rows)
    for split in ("training", "validation"):
        build.pairs(f"images/{split}/{{}}.jpg", f"annotations/{split}/{{}}.png", [f"{split}1"], (0, 1, 150))
    dataset = open_dataset(build.root)
    assert dataset.format == "ade20k" and dataset.classes.num_classes == 150
    assert dataset.classes.names[:2] == ("name1", "name2") or list(dataset.classes.names[:2]) == ["name1", "name2"]
    assert np.unique(dataset.load_label_map(dataset.split("val")[0])).tolist() == [0, 149, 255]
