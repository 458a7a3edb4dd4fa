"""Data sets of volumes: how they are found, and what one case is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from volume_builder import SHAPE, VolumeBuilder

from perpixel.data import open_dataset, open_images, save_classes, save_splits
from perpixel.data.formats.folder_words import bare_name, count_dims
from perpixel.errors import InputError
from perpixel.images import read_volume, write_volume

LABELS = {"labels": {"background": 0, "anterior": 1, "posterior": 2}}
TURNED = np.array([[-1.0, 0, 0, 5], [0, 0, 2, 6], [0, 1.5, 0, 7], [0, 0, 0, 1]])


def test_pairs_with_split_folders(volumes: VolumeBuilder) -> None:
    for split, names in (("train", "abcdef"), ("test", "gh")):
        for name in names:
            volumes.image(f"{split}/images/case_{name}.nii.gz", affine=TURNED)
            volumes.label(f"{split}/labels/case_{name}.nii.gz", 1, 2, affine=TURNED)
    volumes.json("classes.json", {"classes": ["background", "anterior", "posterior"]})
    dataset = open_dataset(volumes.root)
    assert (dataset.format, dataset.spatial_dims, dataset.channels) == ("pairs", 3, 1)
    assert {split: len(samples) for split, samples in dataset.splits.items()} == {"train": 5, "val": 1, "test": 2}
    case = dataset.load_case(dataset.split("test")[0])
    assert case.image.shape == (1, 12, 9, 10) and case.image.dtype == np.int16
    assert case.label_map is not None and case.label_map.shape == case.image.shape[1:]
    assert case.spacing_mm == (1.5, 2, 1) and case.geometry.orientation == "SPL"
    image, label_map = dataset.load(dataset.split("test")[0])
    np.testing.assert_array_equal(image, case.image)
    np.testing.assert_array_equal(label_map, case.label_map)
    np.testing.assert_array_equal(dataset.load_label_map(dataset.split("test")[0]), label_map)
    assert dataset.load_image(dataset.split("test")[0]).shape == case.image.shape


def test_a_prediction_goes_back_into_the_source_s_geometry(volumes: VolumeBuilder, tmp_path: Path) -> None:
    import nibabel

    volumes.cases("abc", affine=TURNED)
    dataset = open_dataset(volumes.root)
    sample = dataset.split("train")[0]
    case = dataset.load_case(sample)
    assert case.label_map is not None and sample.mask is not None
    written = nibabel.load(write_volume(tmp_path / "x.nii.gz", case.label_map, case.source))
    stored = nibabel.load(sample.mask.paths[0])
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(stored.dataobj))
    np.testing.assert_array_equal(written.affine, stored.affine)


def test_nnunet_with_channels(volumes: VolumeBuilder) -> None:
    volumes.json("dataset.json", {**LABELS, "channel_names": {"0": "T1", "1": "FLAIR"}, "file_ending": ".nii.gz"})
    for name in "abcd":
        for channel in range(2):
            volumes.image(f"imagesTr/c.{name}_000{channel}.nii.gz")
        volumes.label(f"labelsTr/c.{name}.nii.gz", 1, 2)
    volumes.image("imagesTs/z_0000.nii.gz")
    volumes.image("imagesTs/z_0001.nii.gz")
    dataset = open_dataset(volumes.root)
    assert (dataset.format, dataset.spatial_dims, dataset.channels) == ("nnunet", 3, 2)
    assert dataset.channel_names == ("T1", "FLAIR") and dataset.classes.names[2] == "posterior"
    sample = dataset.split("train")[0]
    assert sample.name.startswith("c.") and [path.name[-8] for path in sample.images] == ["0", "1"]
    image, _ = dataset.load(sample)
    for channel, path in zip(image, sample.images):
        np.testing.assert_array_equal(channel, read_volume(path).array[0])
    assert [sample.name for sample in dataset.split("unlabelled")] == ["z"]


def test_nnunet_errors(volumes: VolumeBuilder) -> None:
    volumes.json("dataset.json", {**LABELS, "channel_names": {"0": "CT"}})
    volumes.image("imagesTr/a_0000.nii.gz")
    volumes.label("labelsTr/a.nii.gz", 1)
    volumes.label("labelsTr/b.nii.gz", 1)
    with pytest.raises(
        InputError, match=r"1 cases have no image \(b\): each CASE\.nii\.gz needs CASE_0000\.nii\.gz in"
    ):
        open_dataset(volumes.root)


def test_decathlon(volumes: VolumeBuilder) -> None:
    rows = []
    for name in "abcd":
        volumes.image(f"imagesTr/{name}.nii.gz", shape=(*SHAPE, 2))
        volumes.label(f"labelsTr/{name}.nii.gz", 1, 2)
        rows.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    volumes.image("imagesTs/z.nii.gz", shape=(*SHAPE, 2))
    labels = {"0": "background", "1": "edema", "2": "core"}
    content = {"modality": {"1": "T1w", "0": "FLAIR"}, "labels": labels, "training": rows}
    volumes.json("dataset.json", {**content, "test": ["./imagesTs/z.nii.gz"]})
    dataset = open_dataset(volumes.root)
    assert (dataset.format, dataset.spatial_dims, dataset.channels) == ("decathlon", 3, 2)
    assert dataset.channel_names == ("FLAIR", "T1w") and dataset.classes.names == ("background", "edema", "core")
    assert [sample.name for sample in dataset.split("unlabelled")] == ["z"]
    assert dataset.load(dataset.split("train")[0])[0].shape == (2, 9, 12, 10)


@pytest.mark.parametrize("header", [True, False])
def test_a_list_of_volumes(volumes: VolumeBuilder, header: bool) -> None:
    volumes.cases("abcd")
    lines = [f"images/{name}.nii.gz,labels/{name}.nii.gz" for name in "abcd"]
    (volumes.root / "cases.csv").write_text("\n".join([*(["image,mask"] if header else []), *lines]))
    for root in (volumes.root, volumes.root / "cases.csv"):
        dataset = open_dataset(root, val_fraction=0, test_fraction=0)
        assert (dataset.format, dataset.spatial_dims) == ("csv", 3)
        assert [sample.name for sample in dataset.split("train")] == [f"images/{name}" for name in "abcd"]
        assert dataset.load(dataset.split("train")[0])[1].max() == 2


def test_classes_are_inferred_from_volumes(volumes: VolumeBuilder, tmp_path: Path) -> None:
    volumes.cases("abcdef", 2, 5)
    dataset = open_dataset(volumes.root)
    assert dataset.classes.names == ("class_0", "class_2", "class_5")
    assert set(np.unique(dataset.load(dataset.split("train")[0])[1])) == {0, 1, 2}
    assert open_dataset(volumes.root, classes=save_classes(dataset, tmp_path / "c.json")).classes == dataset.classes


def test_objects_are_numbered_in_volumes(volumes: VolumeBuilder, tmp_path: Path) -> None:
    for name, count in zip("abcdef", (5, 6, 7, 8, 9, 10)):
        volumes.image(f"images/{name}.nii.gz", shape=(30, 12, 9))
        volumes.label(f"labels/{name}.nii.gz", *range(1, count + 1), shape=(30, 12, 9), dtype=np.uint16)
    dataset = open_dataset(volumes.root)
    assert dataset.classes.names == ("background", "object")
    assert set(np.unique(dataset.load(dataset.split("train")[0])[1])) == {0, 1}
    again = open_dataset(volumes.root, classes=save_classes(dataset, tmp_path / "c.json"))
    assert set(np.unique(again.load(again.split("train")[0])[1])) == {0, 1}


def test_splits_by_case_there_and_back(volumes: VolumeBuilder, tmp_path: Path) -> None:
    volumes.cases("abcdefgh")
    dataset = open_dataset(volumes.root, seed=3)
    again = open_dataset(volumes.root, splits=save_splits(dataset, tmp_path / "splits.json"))
    assert again.splits == dataset.splits
    named = tmp_path / "named.json"
    named.write_text('{"train": ["a.nii.gz", "b"], "val": ["images/c.nii.gz"]}')
    assert [s.name for s in open_dataset(volumes.root, splits=named).split("train")] == ["a", "b"]


def test_tiff_stacks_are_images_unless_volumes_are_asked_for(volumes: VolumeBuilder) -> None:
    for name in "abc":
        for folder in ("images", "masks"):
            path = volumes.root / folder / f"{name}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            values = np.random.default_rng(ord(name)).integers(0, 2, (4, 6, 7)).astype(np.uint8)
            tifffile.imwrite(path, values, photometric="minisblack")
    assert len(open_dataset(volumes.root, val_fraction=0, test_fraction=0).split("train")) == 12
    dataset = open_dataset(volumes.root, val_fraction=0, test_fraction=0, spatial_dims=3)
    assert [sample.name for sample in dataset.split("train")] == ["a", "b", "c"]
    assert dataset.load(dataset.split("train")[0])[0].shape == (1, 4, 6, 7)


def test_what_is_asked_for_and_not_there(volumes: VolumeBuilder) -> None:
    volumes.root.mkdir()
    for folder in ("images", "masks"):
        (volumes.root / folder).mkdir()
        tifffile.imwrite(volumes.root / folder / "a.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match=r"no volumes among 2 files .*read pictures with spatial_dims=2"):
        open_dataset(volumes.root, spatial_dims=3)
    with pytest.raises(InputError, match=r"spatial_dims 4 is not known: 2 reads images, 3 volumes"):
        open_dataset(volumes.root, spatial_dims=4)
    with pytest.raises(InputError, match="format 'voc' holds images, where volumes are asked for"):
        open_dataset(volumes.root, format="voc", spatial_dims=3)


def test_more_volumes_than_images(volumes: VolumeBuilder) -> None:
    volumes.cases("ab")
    (volumes.root / "preview.png").write_bytes(b"x")
    assert count_dims(volumes.root) == 3
    for number in range(6):
        (volumes.root / f"{number}.png").write_bytes(b"x")
    assert count_dims(volumes.root) == 2


@pytest.mark.parametrize(
    ("name", "bare"), [("a.nii.gz", "a"), ("A.NII.GZ", "A"), ("a.b_0000.nii", "a.b_0000"), ("x.zarr", "x"), ("x", "x")]
)
def test_bare_name(name: str, bare: str) -> None:
    assert bare_name(Path(name)) == bare


def test_zarr_folders_are_one_file(volumes: VolumeBuilder) -> None:
    zarr = pytest.importorskip("zarr", reason="OME-Zarr needs zarr (extra zarr)")
    for name in "ab":
        for folder in ("images", "labels"):
            (volumes.root / folder).mkdir(parents=True, exist_ok=True)
            values = np.random.default_rng(ord(name)).integers(0, 2, (4, 6, 7)).astype(np.uint8)
            zarr.save_array(str(volumes.root / folder / f"{name}.zarr"), values)
    dataset = open_dataset(volumes.root, val_fraction=0, test_fraction=0)
    assert dataset.spatial_dims == 3
    assert dataset.load(dataset.split("train")[0])[1].shape == (4, 6, 7)


def test_volumes_to_predict(volumes: VolumeBuilder) -> None:
    volumes.cases("ab")
    assert [path.name for path in open_images(volumes.root / "images", spatial_dims=3)] == ["a.nii.gz", "b.nii.gz"]
    assert len(open_images(volumes.root / "images" / "a.nii.gz", spatial_dims=3)) == 1
    assert len(open_images(volumes.root / "images" / "*.nii.gz", spatial_dims=3)) == 2
    series = volumes.root / "series"
    series.mkdir()
    (series / "1").write_bytes(bytes(128) + b"DICM")
    assert open_images(series, spatial_dims=3) == [series]
    with pytest.raises(InputError, match=r"no volumes there: give a volume, a folder .*'scans/\*\.nii\.gz'"):
        open_images(volumes.root / "nowhere", spatial_dims=3)


def test_a_label_that_lies_elsewhere_is_refused(volumes: VolumeBuilder) -> None:
    volumes.image("images/a.nii.gz", affine=(-1.0, -1.0, 2.0, 1.0))
    volumes.label("labels/a.nii.gz", 1)
    volumes.cases("bc", 1)
    dataset = open_dataset(volumes.root, val_fraction=0, test_fraction=0)
    with pytest.raises(
        InputError, match=r"labels/a\.nii\.gz: the label does not lie on its image a\.nii\.gz \(spacing"
    ):
        dataset.load(dataset.split("train")[0])
    assert dataset.load(dataset.split("train")[1])[1].max() == 1
