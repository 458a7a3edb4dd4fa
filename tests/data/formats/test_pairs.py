"""Image and mask folders in all the ways people name them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from dataset_builder import Builder, bands

from perpixel.data.dataset import Dataset, open_dataset
from perpixel.data.formats.folder_words import FolderWords, read_folder_name, split_of, strip_mask_words
from perpixel.errors import InputError


def names(dataset: Dataset) -> dict[str, list[str]]:
    return {split: [sample.name for sample in samples] for split, samples in dataset.splits.items()}


@pytest.mark.parametrize(
    ("name", "split", "role"),
    [
        ("train", "train", None),
        ("Training", "train", None),
        ("validation", "val", None),
        ("images", None, "image"),
        ("JPEGImages", None, "image"),
        ("img_dir", None, "image"),
        ("ann_dir", None, "mask"),
        ("Ground Truth", None, "mask"),
        ("trainannot", "train", "mask"),
        ("valid_masks", "val", "mask"),
        ("imagesTr", "train", "image"),
        ("labels-test", "test", "mask"),
        ("train2017", "train", None),
        ("stage1_train", "train", None),
        ("1st_manual", None, "mask"),
    ],
)
def test_folder_names(name: str, split: str | None, role: str | None) -> None:
    assert read_folder_name(name) == FolderWords(split, role)


@pytest.mark.parametrize("name", ["patient_7", "aachen", "2017", "trains", "maskara"])
def test_other_folder_names_say_nothing(name: str) -> None:
    assert read_folder_name(name) is None


def test_words_in_names() -> None:
    found = [split_of(name) for name in ("instances_val2017", "train", "list", "train_and_test")]
    assert found == ["val", "train", None, None]
    stems = ("a_mask", "a_L", "a-labels", "mask_7", "a_gt_mask", "a_cp_masks", "mask", "al")
    assert [strip_mask_words(stem) for stem in stems] == ["a", "a", "a", "7", "a", "a", "mask", "al"]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{s}/images/{{}}.png", "{s}/masks/{{}}.png"),
        ("images/{s}/{{}}.png", "masks/{s}/{{}}.png"),
        ("img_dir/{s}/{{}}.png", "ann_dir/{s}/{{}}.png"),
        ("{s}/{{}}.png", "{s}annot/{{}}.png"),
        ("{s}_images/{{}}.png", "{s}_masks/{{}}_mask.png"),
        ("Data/{s}/Image/deep/{{}}.jpg", "Data/{s}/GT/deep/{{}}_L.png"),
        ("{s}/{{}}_sat.jpg", "{s}/{{}}_mask.png"),
    ],
)
def test_split_folders(build: Builder, image: str, mask: str) -> None:
    for split, stems in (("train", "ab"), ("val", "c"), ("test", "de")):
        build.pairs(image.format(s=split), mask.format(s=split), list(stems))
    dataset = open_dataset(build.root)
    assert {split: len(samples) for split, samples in dataset.splits.items()} == {"train": 2, "val": 1, "test": 2}
    image_map, label_map = dataset.load(dataset.split("val")[0])
    assert image_map.shape == (6, 8, 3) and image_map.dtype == np.uint8
    assert np.array_equal(label_map, bands((0, 1)))


def test_one_folder_with_mask_suffixes(build: Builder) -> None:
    build.pairs("{}.tif", "{}_masks.tif", ["cell1", "cell2", "cell3"])
    dataset = open_dataset(build.root)
    assert sorted(name for split in names(dataset).values() for name in split) == ["cell1", "cell2", "cell3"]
    assert sum(map(len, dataset.splits.values())) == 3


def test_numbered_prefixes(build: Builder) -> None:
    build.pairs("images/img_{}.png", "labels/label_{}.png", ["1", "2", "10"])
    dataset = open_dataset(build.root)
    for sample in (s for samples in dataset.splits.values() for s in samples):
        assert sample.mask is not None
        assert sample.images[0].stem.split("_")[1] == sample.mask.paths[0].stem.split("_")[1]


def test_names_carry_the_split_only_where_they_would_meet(build: Builder) -> None:
    for split in ("train", "val"):
        build.pairs(f"{split}/images/{{}}.png", f"{split}/masks/{{}}.png", ["1", "2"])
    assert names(open_dataset(build.root)) == {"train": ["train/1", "train/2"], "val": ["val/1", "val/2"]}


def test_flat_masks_beside_split_images(build: Builder) -> None:
    build.pairs("images/train/{}.png", "masks/{}.png", ["a", "b"])
    build.pairs("images/val/{}.png", "masks/{}.png", ["c"])
    assert names(open_dataset(build.root)) == {"train": ["a", "b"], "val": ["c"]}


def test_a_split_without_masks_is_unlabelled(build: Builder) -> None:
    build.pairs("train/images/{}.png", "train/masks/{}.png", ["a", "b", "c"])
    build.image("test/images/d.png")
    dataset = open_dataset(build.root)
    assert names(dataset)["unlabelled"] == ["d"] and "test" not in dataset.splits
    assert "1 images of test have no masks: kept as unlabelled" in dataset.notes


def test_list_files_give_the_splits(build: Builder) -> None:
    build.pairs("images/{}.png", "labels/{}.png", ["a", "b", "c", "d"])
    build.text("train.txt", "a\nimages/b.png labels/b.png\n")
    build.text("val.txt", "/somewhere/else/c.png\n")
    dataset = open_dataset(build.root)
    assert names(dataset) == {"train": ["a", "b"], "val": ["c"]}
    assert "splits from train.txt, val.txt" in dataset.notes
    assert "1 images stand in none of these lists and are left out" in dataset.notes


def test_list_files_with_unknown_names(build: Builder) -> None:
    build.pairs("images/{}.png", "labels/{}.png", ["a", "b"])
    build.text("train.txt", "a\nx\ny\n")
    with pytest.raises(InputError, match=r"train\.txt: 2 of 3 lines name no image with a mask \(x, y\)"):
        open_dataset(build.root)


def test_an_image_in_two_lists(build: Builder) -> None:
    build.pairs("images/{}.png", "labels/{}.png", ["a", "b"])
    build.text("train.txt", "a\nb\n")
    build.text("val.txt", "b\n")
    with pytest.raises(InputError, match=r"val\.txt: 'b' also stands in train\.txt: list each image in one split only"):
        open_dataset(build.root)


def test_unmatched_files_are_listed_with_their_number(build: Builder) -> None:
    build.pairs("images/{}.png", "masks/{}.png", ["a", "b"])
    for stem in "uvwxyz":
        build.image(f"images/{stem}.png")
    build.mask("masks/lonely.png", 0, 1)
    with pytest.raises(
        InputError,
        match=r"6 of 8 images have no mask \(images/u.png, images/v.png, images/w.png and 3 more\) and "
        r"1 of 3 masks have no image \(masks/lonely.png\): give image and mask the same name",
    ):
        open_dataset(build.root)


def test_two_masks_for_one_image(build: Builder) -> None:
    build.pairs("images/{}.png", "masks/{}.png", ["a"])
    build.mask("labels/a.png", 0, 1)
    with pytest.raises(InputError, match=r"2 masks for one image \(labels/a.png and masks/a.png\): remove all but one"):
        open_dataset(build.root)


def test_pictures_of_masks_and_hidden_files_are_passed_over(build: Builder) -> None:
    build.pairs("images/{}.png", "masks/{}.png", ["a", "b"])
    build.image("masks/a_color.png")
    build.image("images/._a.png")
    build.image("overview.png")
    dataset = open_dataset(build.root)
    assert sum(map(len, dataset.splits.values())) == 2
    assert "1 image files outside the image folders are left out (overview.png)" in dataset.notes


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"images/a.png": "image"}, r"1 images but no masks \(images/a.png\): put a mask of the same name"),
        ({"masks/a.png": "image"}, r"1 masks but no images \(masks/a.png\): put the images of the same names"),
        ({"images/a.png": "image", "masks/b.png": "image"}, r"1 images and 1 masks, but no two share a name"),
        ({"readme.txt": "text"}, r"no images among 1 files \(known suffixes: .*\.png"),
        ({"images/a.nrrd": "text"}, r"1 volumes of a kind that is not read \(a\.nrrd\): convert them to \.nii\.gz"),
        ({"images/a.nii.gz": "text"}, r"1 images but no masks \(images/a\.nii\.gz\): put a mask of the same name"),
    ],
)
def test_folders_that_are_no_data_set(build: Builder, files: dict[str, str], message: str) -> None:
    for name, kind in files.items():
        _ = build.image(name) if kind == "image" else build.text(name, "x")
    with pytest.raises(InputError, match=message):
        open_dataset(build.root)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such file or folder: check the path"):
        open_dataset(tmp_path / "nowhere")


def write_stack(path: Path, frames: int, value: int = 1, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pages = np.random.default_rng(seed).integers(0, 250, (frames, 6, 8), dtype=np.uint8)
    if value:
        pages = np.stack([bands((0, value))] * frames)
    tifffile.imwrite(path, pages, photometric="minisblack", metadata={"axes": "ZYX"})


def test_stacks_give_one_sample_per_frame(build: Builder) -> None:
    for stack, frames in (("embryo", 3), ("wing", 2)):
        write_stack(build.root / f"images/{stack}.tif", frames, value=0, seed=frames)
        write_stack(build.root / f"masks/{stack}.tif", frames)
    dataset = open_dataset(build.root)
    samples = [sample for split in dataset.splits.values() for sample in split]
    assert {sample.group for sample in samples} == {"embryo", "wing"}
    assert sorted(sample.name for sample in samples)[:4] == ["embryo/0000", "embryo/0001", "embryo/0002", "wing/0000"]
    image, label_map = dataset.load(next(s for s in samples if s.name == "embryo/0002"))
    expected = np.random.default_rng(3).integers(0, 250, (3, 6, 8), dtype=np.uint8)[2]
    assert np.array_equal(image[:, :, 0], expected) and np.array_equal(label_map, bands((0, 1)))
    # Whole stacks are drawn, never frames of one stack into two splits.
    assert {len({sample.group for sample in split}) for split in dataset.splits.values()} == {1}


def test_stacks_named_by_split(build: Builder) -> None:
    for split, frames in (("train", 4), ("test", 2)):
        write_stack(build.root / f"{split}-volume.tif", frames, value=0, seed=frames)
        write_stack(build.root / f"{split}-labels.tif", frames)
    build.pairs("val/x{}-volume.tif", "val/x{}-labels.tif", ["1"])
    dataset = open_dataset(build.root)
    assert {split: len(samples) for split, samples in dataset.splits.items()} == {"train": 4, "val": 1, "test": 2}


def test_stacks_of_different_length(build: Builder) -> None:
    write_stack(build.root / "images/a.tif", 3, value=0)
    write_stack(build.root / "masks/a.tif", 2)
    with pytest.raises(InputError, match=r"a\.tif: 2 frames, but its image a\.tif has 3: save one mask frame"):
        open_dataset(build.root)
