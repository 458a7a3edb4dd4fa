"""The check of volumes: every kind of bad case, and the fingerprint in numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from volume_builder import SHAPE, VolumeBuilder

from perpixel.data import CheckResult, check_dataset, open_dataset, overlay_sheet
from perpixel.data.fingerprint import channel_values
from perpixel.data.problems import Problem
from perpixel.data.volume_fingerprint import crop_share, foreground_values, guess_modality, target_spacing
from perpixel.labels import ClassTable, background_index, draw_planes, middle_planes

CLASSES = {"classes": ["background", "anterior", "posterior"]}


def checked(volumes: VolumeBuilder, **options: Any) -> CheckResult:
    volumes.json("classes.json", CLASSES)
    return check_dataset(open_dataset(volumes.root, **{"val_fraction": 0, "test_fraction": 0, **options}), workers=1)


def only(result: CheckResult, code: str) -> Problem:
    (problem,) = [problem for problem in result.problems if problem.code == code]
    return problem


def test_a_sound_set(volumes: VolumeBuilder) -> None:
    volumes.cases("abcd", affine=(-1.0, -1.0, 2.0, 1.0))
    result = checked(volumes)
    assert result.problems == ()
    fingerprint = result.fingerprint
    assert fingerprint.spatial_dims == 3 and fingerprint.sizes["median"] == [9, 12, 10] and fingerprint.dtype == "int16"
    assert fingerprint.class_pixels["train"] == [4 * (1080 - 80), 4 * 40, 4 * 40]
    assert fingerprint.volumes is not None and fingerprint.volumes.spacing_mm["median"] == [2, 1, 1]
    assert [case.name for case in fingerprint.volumes.cases] == ["a", "b", "c", "d"]
    again = CheckResult.from_json(json.loads(json.dumps(result.to_json())))
    assert again == result


def nan(volumes: VolumeBuilder) -> None:
    array = np.ones(SHAPE, np.float32)
    array[0, 0, :3] = (np.nan, np.inf, -np.inf)
    volumes.array("images/a.nii.gz", array)


def flat_image(volumes: VolumeBuilder) -> None:
    volumes.array("images/a.nii.gz", np.ones((10, 12), np.uint8))


def flat_label(volumes: VolumeBuilder) -> None:
    volumes.array("labels/a.nii.gz", np.ones((10, 12), np.uint8))


def film(volumes: VolumeBuilder) -> None:
    volumes.image("images/a.nii.gz", shape=(*SHAPE, 50))


def layered_label(volumes: VolumeBuilder) -> None:
    volumes.array("labels/a.nii.gz", np.ones((*SHAPE, 3), np.uint8))


def half_label(volumes: VolumeBuilder) -> None:
    volumes.array("labels/a.nii.gz", np.full(SHAPE, 0.5, np.float32))


def other_shape(volumes: VolumeBuilder) -> None:
    volumes.label("labels/a.nii.gz", 1, shape=(10, 12, 8))


def other_spacing(volumes: VolumeBuilder) -> None:
    volumes.label("labels/a.nii.gz", 1, affine=(1.0, 1.0, 3.0, 1.0))


def turned(volumes: VolumeBuilder) -> None:
    volumes.image("images/a.nii.gz", affine=(-1.0, -1.0, 1.0, 1.0))


def shifted(volumes: VolumeBuilder) -> None:
    affine = np.eye(4)
    affine[0, 3] = 0.3
    volumes.label("labels/a.nii.gz", 1, affine=affine)


def strange_value(volumes: VolumeBuilder) -> None:
    volumes.label("labels/a.nii.gz", 1, 7)


def empty(volumes: VolumeBuilder) -> None:
    volumes.label("labels/a.nii.gz")


def as_float(volumes: VolumeBuilder) -> None:
    volumes.label("labels/a.nii.gz", 1, 2, dtype=np.float32)


def constant(volumes: VolumeBuilder) -> None:
    volumes.array("images/a.nii.gz", np.full(SHAPE, 900, np.int16))


def bare_image(volumes: VolumeBuilder) -> None:
    volumes.image("images/a.nii.gz", bare=True)


def bare_label(volumes: VolumeBuilder) -> None:
    volumes.label("labels/a.nii.gz", 1, bare=True)


def cut_short(volumes: VolumeBuilder) -> None:
    path = volumes.root / "images/a.nii.gz"
    path.write_bytes(path.read_bytes()[:-300])


def two_channels(volumes: VolumeBuilder) -> None:
    volumes.image("images/a.nii.gz", shape=(*SHAPE, 2))


BAD = {
    nan: ("error", "not_finite", "3 of 1080 voxels are NaN or infinite"),
    flat_image: ("error", "not_a_volume", "holds one slice of 10 x 12 pixels, where a volume is needed"),
    flat_label: ("error", "not_a_volume", "holds one slice of 10 x 12 pixels"),
    film: ("error", "several_volumes", "a 4-D file of 50 volumes, more than 16 channels"),
    layered_label: ("error", "several_volumes", "a 4-D file of 3 volumes, where a label map has one value a voxel"),
    half_label: ("error", "mask_unreadable", "1080 values such as 0.5 are no whole numbers"),
    other_shape: ("error", "geometry_mismatch", "(8 x 12 x 10 voxels against 9 x 12 x 10"),
    other_spacing: ("error", "geometry_mismatch", "(spacing 3 x 1 x 1 mm against 1 x 1 x 1 mm"),
    turned: ("error", "geometry_mismatch", "its affine is the identity, as a file has it that was saved without one"),
    shifted: ("warning", "geometry_shift", "(first voxel 0.3 mm away"),
    strange_value: ("error", "unknown_value", "value 7 (40 voxels) is in none of the 3 classes"),
    empty: ("warning", "empty_label", "the label map is empty: all voxels are background"),
    as_float: ("info", "label_float", "1 label maps are stored as float (a.nii.gz)"),
    constant: ("warning", "constant_image", "every voxel has the value 900"),
    bare_image: ("warning", "geometry_assumed", "1 of 3 volumes: no orientation (sform and qform)"),
    bare_label: ("warning", "geometry_assumed", "1 of 3 label maps: the label's file has no orientation"),
    cut_short: ("error", "image_unreadable", "cannot be read as a volume (Compressed file ended"),
    two_channels: ("error", "image_unreadable", "2 channels, but the data set has 1"),
}


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
def test_one_bad_case(volumes: VolumeBuilder, spoil: Any) -> None:
    volumes.cases("abc")
    spoil(volumes)
    result = checked(volumes)
    severity, code, text = BAD[spoil]
    problem = only(result, code)
    assert problem.severity == severity and text in problem.message and problem.remedy
    if problem.file is not None:
        assert Path(problem.file).name == "a.nii.gz" and problem.message.startswith(problem.file)
    others = {p.code for p in result.problems} - {code, "class_in_few_images", "class_absent"}
    assert not others, [p.message for p in result.problems]


def test_mixed_spacings_are_said_with_numbers(volumes: VolumeBuilder) -> None:
    for name, depth in zip("abc", (1.0, 2.5, 5.0)):
        volumes.image(f"images/{name}.nii.gz", affine=(1.0, 1.0, depth, 1.0))
        volumes.label(f"labels/{name}.nii.gz", 1, 2, affine=(1.0, 1.0, depth, 1.0))
    result = checked(volumes)
    problem = only(result, "mixed_spacings")
    assert problem.severity == "warning"
    assert problem.message == "voxel sizes are mixed: depth 1 to 5 mm (middle 2.5)"
    assert problem.remedy == "training resamples all to 2.5 x 1 x 1 mm; check the outliers"
    volumes_facts = result.fingerprint.volumes
    assert volumes_facts is not None
    assert volumes_facts.resampled_sizes == {"min": [4, 12, 10], "median": [9, 12, 10], "max": [18, 12, 10]}


def test_few_voxels_and_mixed_scales(volumes: VolumeBuilder) -> None:
    volumes.cases("abc", shape=(10, 12, 5))
    volumes.array("images/a.nii.gz", np.random.default_rng(0).random((10, 12, 5)).astype(np.float32))
    result = checked(volumes)
    assert "3 volumes have fewer than 8 voxels along an axis (a 5 x 12 x 10" in only(result, "few_voxels").message
    assert "no scale in common" in only(result, "mixed_scales").message
    assert not [p for p in result.problems if p.code == "mixed_dtypes"]


def test_the_same_volume_twice(volumes: VolumeBuilder) -> None:
    volumes.cases("abc")
    (volumes.root / "images/b.nii.gz").write_bytes((volumes.root / "images/a.nii.gz").read_bytes())
    assert only(checked(volumes), "duplicate").count == 2


def test_nothing_readable(volumes: VolumeBuilder) -> None:
    volumes.cases("ab")
    for path in (volumes.root / "images").iterdir():
        path.write_bytes(b"x" * 500)
    result = checked(volumes)
    assert result.fingerprint.volumes is None and len(result.errors) == 2
    assert CheckResult.from_json(json.loads(json.dumps(result.to_json()))) == result


# ---- numbers


def test_foreground_values_of_ct(volumes: VolumeBuilder) -> None:
    for number, name in enumerate("ab"):
        image = np.full(SHAPE, -1000, np.int16)
        image[1:3, 3:8, 2:6] = 100 + 50 * number
        image[9] = 2000  # outside of the classes
        volumes.array(f"images/{name}.nii.gz", image)
        volumes.label(f"labels/{name}.nii.gz", 1)
    found = checked(volumes).fingerprint.volumes
    assert found is not None and found.modalities == ["ct"]
    (values,) = found.foreground
    assert (values.mean, values.std, values.minimum, values.maximum) == (125, 25, 100, 150)
    assert (values.low, values.high) == (100, 150)


def test_foreground_values_are_drawn_evenly() -> None:
    image = np.arange(2 * 40**3, dtype=np.float32).reshape(2, 40, 40, 40)
    first, second = foreground_values(image, np.ones((40, 40, 40), bool))
    assert 9000 <= len(first) <= 10_000 and (np.diff(first) == 7).all()
    np.testing.assert_array_equal(second - first, 40**3)
    assert [len(each) for each in foreground_values(image, np.zeros((40, 40, 40), bool))] == [0, 0]


def test_crop_share_by_hand() -> None:
    image = np.zeros((2, 4, 5, 6))
    assert crop_share(image) == 0
    image[0, 1, 1, 1] = image[1, 2, 1, 3] = -1
    assert crop_share(image) == pytest.approx(2 / 4 * 1 / 5 * 3 / 6)


@pytest.mark.parametrize(
    ("spacings", "shapes", "target"),
    [
        ([(1, 1, 1), (2, 1, 1), (3, 1, 1)], [(9, 9, 9)] * 3, [2, 1, 1]),
        # 5 mm slices, few of them: the 10th percentile, 3.4 mm.
        ([(3, 1, 1), (5, 1, 1), (9, 1, 1)], [(20, 100, 100)] * 3, [3.4, 1, 1]),
        # As coarse, but with many slices: the median stays.
        ([(3, 1, 1), (5, 1, 1), (9, 1, 1)], [(50, 100, 100)] * 3, [5, 1, 1]),
        # Never finer than the other axes.
        ([(0.5, 1, 1)] * 4 + [(9, 1, 1)] * 6, [(20, 100, 100)] * 10, [1, 1, 1]),
    ],
)
def test_target_spacing(spacings: Any, shapes: Any, target: list[float]) -> None:
    assert target_spacing(spacings, shapes) == pytest.approx(target)


@pytest.mark.parametrize(
    ("name", "values", "modality"),
    [
        ("CT", [0.5], "ct"),
        ("cbct scan", [0.5], "ct"),
        ("MRI", [-1000, 2000], "mr"),
        ("T1w", [1], "mr"),
        ("PET", [1], "other"),
        ("ultrasound direct", [1], "other"),
        (None, [-1024, 40, 3000], "ct"),
        (None, [-1024.5, 40, 3000], "mr"),
        (None, [0, 40, 3000], "mr"),
        (None, [-1000, 40, 400000], "mr"),
    ],
)
def test_modality(name: str | None, values: list[float], modality: str) -> None:
    kind = np.int16 if all(float(value).is_integer() and abs(value) < 2**15 for value in values) else np.float32
    assert guess_modality(name, channel_values(np.array(values, kind).reshape(1, -1, 1))) == modality


# ---- pictures


def test_three_planes_head_up() -> None:
    label_map = np.zeros((4, 6, 8), np.uint8)
    label_map[3, 1, 5] = 1
    table = ClassTable.from_json(["background", "x"], "classes.json")
    assert background_index(table) == 0
    axial, coronal, sagittal = middle_planes(label_map[None] * 9, label_map, table, (3.0, 1.0, 2.0))
    assert axial.image.shape == (6, 8) and axial.image[1, 5] == 9 and axial.spacing_mm == (1, 2)
    # Depth 3 is the highest slice: the first row.
    assert coronal.image.shape == (4, 8) and coronal.image[0, 5] == 9 and coronal.spacing_mm == (3, 2)
    assert sagittal.label_map.shape == (4, 6) and sagittal.label_map[0, 1] == 1 and sagittal.spacing_mm == (3, 1)


def test_planes_are_to_scale() -> None:
    image = np.random.default_rng(0).random((1, 10, 20, 30)).astype(np.float32)
    label_map = np.zeros((10, 20, 30), np.uint8)
    table = ClassTable.from_json(["background", "x"], "classes.json")
    shown, painted = draw_planes(image, label_map, table, (2.0, 1.0, 1.0), (300, 200), (250, 250, 248))
    assert shown.shape == painted.shape and shown.shape[1] <= 300
    # All three are 20 mm high.
    assert (shown[-1] != (250, 250, 248)).any(axis=1).mean() > 0.9


def test_the_sheet_of_volumes(volumes: VolumeBuilder, tmp_path: Path) -> None:
    volumes.cases("abcd", affine=(-1.0, -1.0, 4.0, 1.0))
    nan(volumes)
    volumes.json("classes.json", CLASSES)
    path = overlay_sheet(open_dataset(volumes.root), tmp_path / "sheet.png")
    with Image.open(path) as sheet:
        assert sheet.width == 1840 and len(sheet.convert("RGB").getcolors(2**20)) > 100
