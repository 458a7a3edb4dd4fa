"""nnU-Net and Decathlon folders of 2-D images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dataset_builder import Builder, bands

from perpixel.data.dataset import open_dataset
from perpixel.errors import InputError


def make_nnunet(build: Builder, labels: dict[str, Any], channels: int = 1, values: tuple[int, ...] = (0, 2, 5)) -> None:
    names = {str(index): f"channel{index}" for index in range(channels)}
    build.json("dataset.json", {"channel_names": names, "labels": labels, "numTraining": 3, "file_ending": ".png"})
    for case in ("c1", "c2", "c3"):
        for channel in range(channels):
            build.image(f"imagesTr/{case}_{channel:04d}.png", channels=1)
        build.mask(f"labelsTr/{case}.png", *values)


def test_nnunet_with_gaps_and_ignore(build: Builder) -> None:
    make_nnunet(build, {"background": 0, "rim": 2, "ignore": 5})
    dataset = open_dataset(build.root)
    assert dataset.format == "nnunet" and list(dataset.classes.names) == ["background", "rim"]
    sample = dataset.split("train")[0]
    assert np.array_equal(dataset.load_label_map(sample), bands((0, 1, 255)))
    assert len(dataset.split("train")) == 2 and len(dataset.split("val")) == 1


def test_nnunet_channel_files_are_stacked_in_order(build: Builder) -> None:
    make_nnunet(build, {"background": 0, "a": 2, "b": 5}, channels=2)
    build.image("imagesTs/c9_0000.png", channels=1)
    build.image("imagesTs/c9_0001.png", channels=1)
    dataset = open_dataset(build.root)
    assert dataset.channels == 2
    image = dataset.load_image(next(s for s in dataset.split("train") + dataset.split("val") if s.name == "c1"))
    first, second = (np.random.default_rng(seed).integers(0, 256, (6, 8), dtype=np.uint8) for seed in (1, 2))
    assert np.array_equal(image, np.stack([first, second], axis=2))
    assert [sample.name for sample in dataset.split("unlabelled")] == ["c9"]


def test_nnunet_errors(build: Builder) -> None:
    make_nnunet(build, {"background": 0, "whole": [1, 2]})
    with pytest.raises(InputError, match=r"label 'whole' is the region \[1, 2\]: regions"):
        open_dataset(build.root)
    make_nnunet(build, {"background": 0, "a": 2, "b": 5})
    build.mask("labelsTr/c4.png", 0, 2)
    with pytest.raises(InputError, match=r"1 cases have no image \(c4\): each CASE.png needs CASE_0000.png in im"):
        open_dataset(build.root)


def test_decathlon(build: Builder) -> None:
    build.pairs("imagesTr/{}.png", "labelsTr/{}.png", ["a", "b", "c"], (0, 3))
    build.image("imagesTs/t.png")
    rows = [{"image": f"./imagesTr/{stem}.png", "label": f"./labelsTr/{stem}.png"} for stem in "abc"]
    content = {"modality": {"0": "photo"}, "labels": {"0": "background", "3": "leaf"}, "training": rows}
    build.json("dataset.json", {**content, "test": ["./imagesTs/t.png"]})
    dataset = open_dataset(build.root)
    assert dataset.format == "decathlon" and list(dataset.classes.names) == ["background", "leaf"]
    assert np.array_equal(dataset.load_label_map(dataset.split("val")[0]), bands((0, 1)))
    assert [sample.name for sample in dataset.split("unlabelled")] == ["t"]


def test_decathlon_with_a_missing_file(build: Builder) -> None:
    build.pairs("imagesTr/{}.png", "labelsTr/{}.png", ["a"])
    rows = [{"image": "imagesTr/a.png", "label": "labelsTr/b.png"}]
    build.json("dataset.json", {"labels": {"0": "background", "1": "x"}, "training": rows})
    with pytest.raises(InputError, match=r"dataset\.json: 1 of 2 files of training do not exist"):
        open_dataset(build.root)
