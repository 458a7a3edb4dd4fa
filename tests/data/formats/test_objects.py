"""One folder per image, one mask per object."""

from __future__ import annotations

import numpy as np
import pytest
from dataset_builder import Builder

from perpixel.data.dataset import open_dataset
from perpixel.errors import InputError


def square(row: int, col: int) -> np.ndarray:
    mask = np.zeros((6, 8), dtype=np.uint8)
    mask[row : row + 2, col : col + 2] = 255
    return mask


def make_set(build: Builder) -> None:
    for name in ("a1", "b2", "c3"):
        build.image(f"stage1_train/{name}/images/{name}.png")
        build.array(f"stage1_train/{name}/masks/x1.png", square(0, 0))
        build.array(f"stage1_train/{name}/masks/x2.png", square(3, 4))
    build.image("stage1_test/t9/images/t9.png")


def test_objects_become_one_class(build: Builder) -> None:
    make_set(build)
    build.image("stage1_train/d4/images/d4.png")
    (build.root / "stage1_train/d4/masks").mkdir()
    dataset = open_dataset(build.root)
    assert dataset.format == "objects" and list(dataset.classes.names) == ["background", "object"]
    samples = {sample.name: sample for split in ("train", "val") for sample in dataset.split(split)}
    assert sorted(samples) == ["a1", "b2", "c3", "d4"]
    label_map = dataset.load_label_map(samples["a1"])
    assert np.array_equal(label_map, (square(0, 0) | square(3, 4)) // 255)
    assert not dataset.load_label_map(samples["d4"]).any()
    assert [sample.name for sample in dataset.split("unlabelled")] == ["t9"]
    assert any("all objects are read as one class" in note for note in dataset.notes)


def test_objects_of_another_size(build: Builder) -> None:
    make_set(build)
    build.mask("stage1_train/a1/masks/x3.png", 0, 255, size=(4, 4))
    dataset = open_dataset(build.root)
    sample = next(s for split in ("train", "val") for s in dataset.split(split) if s.name == "a1")
    with pytest.raises(InputError, match=r"x3\.png: 4 x 4 pixels, but x1\.png has 6 x 8: save all objects"):
        dataset.load_label_map(sample)
