"""Label maps of volumes: values, and whether they lie on their image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perpixel.errors import InputError
from perpixel.images import probe_volume
from perpixel.labels import read_label_volume
from perpixel.labels.volumes import ADOPTED

nibabel = pytest.importorskip("nibabel", reason="NIfTI needs nibabel (extra volumes)")

SHAPE = (3, 4, 5)
LABELS = (np.arange(60) % 4).reshape(SHAPE).astype(np.uint8)


def save(path: Path, array: np.ndarray, affine: Any = (1.0, 1.0, 1.0, 1.0), *, bare: bool = False) -> Path:
    image = nibabel.Nifti1Image(
        array, np.asarray(affine) if np.ndim(affine) == 2 else np.diag(affine), dtype=array.dtype
    )
    if bare:
        image.set_sform(None, code=0)
        image.set_qform(None, code=0)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "int64", "float32", "float64"])
def test_every_type(tmp_path: Path, dtype: str) -> None:
    found = read_label_volume(save(tmp_path / "x.nii.gz", LABELS.astype(dtype)))
    np.testing.assert_array_equal(found.values, LABELS.transpose(2, 1, 0)[:, ::-1, ::-1])
    assert found.values.dtype.kind in "iu" and found.is_float == dtype.startswith("float")


def test_a_label_without_orientation_lies_as_its_image(tmp_path: Path) -> None:
    image = probe_volume(save(tmp_path / "image.nii", LABELS, (-1.0, -1.0, 2.0, 1.0))).source.header
    found = read_label_volume(save(tmp_path / "label.nii", LABELS, bare=True), image=image)
    assert not found.difference and found.notes == (ADOPTED,)
    np.testing.assert_array_equal(found.values, LABELS.transpose(2, 1, 0))
    assert found.geometry.spacing_mm == (2, 1, 1)


def test_another_order_of_axes_is_the_same_place(tmp_path: Path) -> None:
    image = probe_volume(save(tmp_path / "image.nii", LABELS, (-1.0, -1.0, 2.0, 1.0))).source.header
    turned = np.array([[0.0, 0, 1, -2], [0, -1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]])
    found = read_label_volume(save(tmp_path / "label.nii", LABELS.transpose(2, 1, 0)[..., ::-1], turned), image=image)
    assert not found.difference
    np.testing.assert_array_equal(found.values, LABELS.transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("shape", "affine", "text"),
    [
        ((3, 4, 6), (1.0, 1.0, 1.0, 1.0), "6 x 4 x 3 voxels against 5 x 4 x 3"),
        (SHAPE, (1.0, 1.0, 2.0, 1.0), "spacing 2 x 1 x 1 mm against 1 x 1 x 1 mm"),
        (SHAPE, (-1.0, -1.0, 1.0, 1.0), "first voxel 3.61 mm away"),
    ],
)
def test_how_it_does_not_lie_on_its_image(tmp_path: Path, shape: tuple[int, ...], affine: Any, text: str) -> None:
    image = probe_volume(save(tmp_path / "image.nii", LABELS)).source.header
    found = read_label_volume(save(tmp_path / "label.nii", np.zeros(shape, np.uint8), affine), image=image)
    assert text in found.difference.text


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.full(SHAPE, 0.5, np.float32), r"60 values such as 0\.5 are no whole numbers"),
        (np.full(SHAPE, np.nan, np.float32), "60 values such as nan are no whole numbers"),
        (np.zeros((*SHAPE, 3), np.uint8), "a 4-D file of 3 volumes, where a label map has one value a voxel"),
        (np.zeros((3, 4), np.uint8), "holds one slice of 3 x 4 pixels"),
    ],
)
def test_bad_labels(tmp_path: Path, array: np.ndarray, text: str) -> None:
    with pytest.raises(InputError, match=text):
        read_label_volume(save(tmp_path / "x.nii", array))
