"""The contact sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_builder import Builder
from PIL import Image

from perpixel.data.check_sheet import choose_samples, overlay_sheet
from perpixel.data.dataset import Dataset, open_dataset
from perpixel.errors import InputError


def make(build: Builder) -> Dataset:
    for split, stems in (("train", "abcdefgh"), ("val", "ij"), ("test", "k")):
        build.pairs(f"{split}/images/{{}}.png", f"{split}/masks/{{}}.png", list(stems), (0, 1))
    return open_dataset(build.root)


def test_samples_are_spread_over_the_splits(build: Builder) -> None:
    dataset = make(build)
    chosen = choose_samples(dataset, 0, 6)
    counts = {split: sum(name == split for name, _ in chosen) for split in dataset.splits}
    assert counts == {"train": 4, "val": 1, "test": 1}
    assert chosen == choose_samples(dataset, 0, 6) != choose_samples(dataset, 1, 6)
    assert len(choose_samples(dataset, 0, 99)) == 11


def test_the_sheet_is_the_same_for_the_same_seed(build: Builder, tmp_path: Path) -> None:
    dataset = make(build)
    first = overlay_sheet(dataset, tmp_path / "a.png", count=4)
    second = overlay_sheet(dataset, tmp_path / "b.png", count=4)
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape[1] == 1840 and pixels.shape[2] == 3
    # The legend holds the class colours.
    for colour in dataset.classes.colours:
        assert (pixels == colour).all(axis=2).any()


def test_unreadable_samples_show_their_error(build: Builder, tmp_path: Path) -> None:
    dataset = make(build)
    (build.root / "test/images/k.png").write_bytes(b"bad")
    assert overlay_sheet(dataset, tmp_path / "a.png", count=3).exists()


def test_nothing_to_show(build: Builder, tmp_path: Path) -> None:
    dataset = make(build)
    empty = Dataset(dataset.root, "pairs", dataset.classes, {}, (), 0, 3)
    with pytest.raises(InputError, match=r"no labelled images to show: add masks"):
        overlay_sheet(empty, tmp_path / "a.png")
