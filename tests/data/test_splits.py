"""Splits that are drawn, saved and read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dataset_builder import Builder
from hypothesis import given
from hypothesis import strategies as st

from perpixel.data.dataset import Dataset, open_dataset, save_splits
from perpixel.data.sample import Sample
from perpixel.data.splits import complete_splits, draw_splits, set_groups
from perpixel.errors import InputError


def samples(*names: str, group: str | None = None) -> list[Sample]:
    return [Sample(name, (Path(f"{name}.png"),), group=group) for name in names]


def numbered(count: int) -> list[Sample]:
    return samples(*(f"{index:03d}" for index in range(count)))


def names(dataset: Dataset, split: str) -> list[str]:
    return [sample.name for sample in dataset.split(split)]


def test_thirty_images_of_no_split() -> None:
    splits, notes = complete_splits({None: numbered(30)}, val_fraction=0.15, test_fraction=None, seed=0)
    assert {split: len(found) for split, found in splits.items()} == {"train": 22, "val": 4, "test": 4}
    assert notes == [
        "val and test drawn at random (image by image, seed 0): train 22, val 4, test 4; "
        "splits= takes a list of your own"
    ]


def test_val_is_drawn_from_train_when_only_test_is_known() -> None:
    known: dict[str | None, list[Sample]] = {"train": numbered(20), "test": samples("x", "y")}
    splits, notes = complete_splits(known, val_fraction=0.15, test_fraction=None, seed=0)
    assert {split: len(found) for split, found in splits.items()} == {"train": 17, "val": 3, "test": 2}
    assert notes[0].startswith("val drawn at random (image by image, seed 0): train 17, val 3")


def test_known_splits_stay(build: Builder) -> None:
    known: dict[str | None, list[Sample]] = {"train": numbered(3), "val": samples("x")}
    splits, notes = complete_splits(known, val_fraction=0.5, test_fraction=None, seed=0)
    assert (len(splits["train"]), len(splits["val"]), list(splits), notes) == (3, 1, ["train", "val"], [])
    only_test, _ = complete_splits({"test": numbered(3)}, val_fraction=0.15, test_fraction=None, seed=0)
    assert list(only_test) == ["test"]


@given(st.integers(2, 60), st.integers(0, 5), st.floats(0.01, 0.45), st.floats(0.01, 0.45))
def test_every_split_has_a_sample_and_nothing_is_lost(count: int, seed: int, val: float, test: float) -> None:
    drawn = draw_splits(numbered(count), {"val": val, "test": test}, seed)
    everything = sorted(sample.name for found in drawn.values() for sample in found)
    assert everything == [sample.name for sample in numbered(count)]
    assert all(drawn.values()) and ("test" in drawn) == (count > 2)


def test_the_seed_decides_not_the_order() -> None:
    forward = draw_splits(numbered(20), {"val": 0.2}, 3)
    backward = draw_splits(numbered(20)[::-1], {"val": 0.2}, 3)
    other = draw_splits(numbered(20), {"val": 0.2}, 4)
    assert forward["val"] == backward["val"] != other["val"]


def test_groups_stay_together() -> None:
    films = [samples(*(f"{film}_{frame}" for frame in range(5)), group=f"film{film}") for film in range(10)]
    pool = [sample for film in films for sample in film]
    drawn = draw_splits(pool, {"val": 0.2, "test": 0.2}, 0)
    homes = {split: {sample.group for sample in found} for split, found in drawn.items()}
    assert homes["train"] | homes["val"] | homes["test"] == {f"film{index}" for index in range(10)}
    assert not homes["train"] & homes["val"] and not homes["val"] & homes["test"] and not homes["train"] & homes["test"]
    assert {split: len(found) for split, found in drawn.items()} == {"train": 30, "val": 10, "test": 10}


def test_groups_by_pattern_and_by_folder(tmp_path: Path) -> None:
    found = set_groups(samples("driveA_0001", "driveA_0002", "driveB_0001"), "(.+)_[0-9]+", tmp_path)
    assert [sample.group for sample in found] == ["driveA", "driveA", "driveB"]
    inside = [Sample("x", (tmp_path / "images" / "p1" / "x.png",))]
    assert set_groups(inside, "parent", tmp_path)[0].group == "images/p1"
    with pytest.raises(InputError, match=r"group '\[' is not a regular expression"):
        set_groups(samples("a"), "[", tmp_path)
    with pytest.raises(InputError, match=r"group 'a' has 0 bracketed parts, it needs exactly one"):
        set_groups(samples("a"), "a", tmp_path)
    with pytest.raises(InputError, match=r"group 'b\(.\)' does not match 2 of 2 names \(a, c\)"):
        set_groups(samples("a", "c"), "b(.)", tmp_path)


def test_names_of_films_are_pointed_out() -> None:
    pool = samples(*(f"{film}_{frame:05d}" for film in ("north", "south") for frame in range(8)))
    _, notes = complete_splits({None: pool}, val_fraction=0.15, test_fraction=None, seed=0)
    assert notes[1].startswith("names look like frames of 2 sequences (north_, south_): neighbours may be alike")
    assert [s.group for s in set_groups(pool[:1], "(.*[^0-9])[0-9]+$", Path())] == ["north_"]


@pytest.mark.parametrize(
    ("val", "test", "message"),
    [
        (1.5, None, r"val_fraction 1.5 is outside 0..1"),
        (0.15, float("nan"), r"test_fraction nan is outside 0..1"),
        (0.6, 0.4, r"leave nothing for train"),
    ],
)
def test_fractions(val: float, test: float | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        complete_splits({None: numbered(9)}, val_fraction=val, test_fraction=test, seed=0)


def test_one_image_cannot_be_split() -> None:
    with pytest.raises(InputError, match=r"1 image cannot be split into train and val: add images"):
        complete_splits({None: numbered(1)}, val_fraction=0.15, test_fraction=None, seed=0)
    with pytest.raises(InputError, match=r"3 images of one group cannot be split"):
        complete_splits({None: samples("a", "b", "c", group="g")}, val_fraction=0.15, test_fraction=None, seed=0)


def make(build: Builder) -> Path:
    build.pairs("images/{}.png", "masks/{}.png", ["a", "b", "c", "d", "e"])
    return build.root


def test_saved_splits_come_back(build: Builder, tmp_path: Path) -> None:
    first = open_dataset(make(build), seed=7)
    path = save_splits(first, tmp_path / "splits.json")
    again = open_dataset(build.root, splits=path, seed=8)
    for split in ("train", "val", "test"):
        assert names(first, split) == names(again, split)
    assert "splits from splits.json" in again.notes


def test_splits_json_beside_the_data(build: Builder) -> None:
    make(build)
    build.json("splits.json", {"train": ["a", "b.png"], "val": ["images/c.png"]})
    dataset = open_dataset(build.root)
    assert (names(dataset, "train"), names(dataset, "val"), "test" in dataset.splits) == (["a", "b"], ["c"], False)
    assert "2 images are not listed there and are left out (d, e)" in dataset.notes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": ["a"], "val": ["a"]}, r"'a' stands in train and in val: list each name once"),
        ({"train": ["a", "z"]}, r"1 of 2 names in 'train' are no labelled images of this data set \(z\)"),
        ({"train": []}, r"split 'train' is empty"),
        ({"training": ["a"]}, r"split 'training' is not known: use train, val, test"),
        ({"train": "a"}, r"split 'train' is no list of names"),
        (["a"], r"splits must be"),
    ],
)
def test_wrong_split_files(build: Builder, tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        open_dataset(make(build), splits=path)
