"""Pairs listed in CSV files."""

from __future__ import annotations

import pytest
from dataset_builder import Builder

from perpixel.data.dataset import open_dataset
from perpixel.data.formats import csv_lists
from perpixel.errors import InputError


def make_files(build: Builder) -> None:
    build.pairs("x/{}.png", "y/{}-done.png", ["a", "b", "c", "d"])


def test_header_with_split_and_group(build: Builder) -> None:
    make_files(build)
    build.text(
        "pairs.csv",
        "image,mask,split,group\nx/a.png,y/a-done.png,train,one\nx/b.png,y/b-done.png,training,one\n"
        "x/c.png,y/c-done.png,valid,two\nx/d.png,,test,\n",
    )
    dataset = open_dataset(build.root)
    assert dataset.format == "csv"
    assert [(sample.name, sample.group) for sample in dataset.split("train")] == [("x/a", "one"), ("x/b", "one")]
    assert [sample.name for sample in dataset.split("val")] == ["x/c"]
    assert [sample.name for sample in dataset.split("unlabelled")] == ["x/d"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_two_columns_without_header(build: Builder, delimiter: str) -> None:
    make_files(build)
    lines = [f"x/{stem}.png{delimiter}y/{stem}-done.png" for stem in "abcd"]
    path = build.text("list.csv", "\n".join(lines))
    assert sum(map(len, open_dataset(path).splits.values())) == 4


def test_one_file_per_split(build: Builder) -> None:
    make_files(build)
    build.text("train.csv", "image,mask\nx/a.png,y/a-done.png\nx/b.png,y/b-done.png\n")
    build.text("val.csv", "image,mask\nx/c.png,y/c-done.png\n")
    dataset = open_dataset(build.root)
    assert {split: len(samples) for split, samples in dataset.splits.items()} == {"train": 2, "val": 1}


def test_a_table_of_facts_is_no_list(build: Builder) -> None:
    build.pairs("train/images/{}.png", "train/masks/{}.png", ["a", "b"])
    build.text("list.csv", "name,split,kind,width\na,train,grey,8\n")
    assert not csv_lists.detect(build.root)
    assert open_dataset(build.root).format == "pairs"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,mask\nx/a.png,y/none.png\n", r"1 listed files do not exist \(line 2: y/none.png\): write the path"),
        ("image,mask,split\nx/a.png,y/a-done.png,later\n", r"line 2: split 'later' is not known: write train, val or"),
        ("image,mask\nx/a.png,y/a-done.png\nx/a.png,y/a-done.png\n", r"line 3 lists 'x/a.png' again \(first in .* 2\)"),
        ("picture,note\nx/a.png,hello\n", r"no column image or mask in the header \(picture, note\): name them"),
        ("", r"holds no rows"),
    ],
)
def test_errors(build: Builder, text: str, message: str) -> None:
    make_files(build)
    with pytest.raises(InputError, match=message):
        open_dataset(build.text("pairs.csv", text))
