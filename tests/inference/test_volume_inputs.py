"""Which files make one volume, and what the results are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perpixel.errors import InputError
from perpixel.inference.volume_files import group_volumes

nibabel = pytest.importorskip("nibabel", reason="NIfTI needs nibabel (extra volumes)")


def paths(*names: str) -> list[Path]:
    return [Path("scans") / name for name in names]


def test_channels_of_a_case_belong_together() -> None:
    files = paths("b_0001.nii.gz", "a_0000.nii.gz", "b_0000.nii.gz", "a_0001.nii.gz")
    found = {each.name: [path.name for path in each.paths] for each in group_volumes(files, 2)}
    assert found == {"a": ["a_0000.nii.gz", "a_0001.nii.gz"], "b": ["b_0000.nii.gz", "b_0001.nii.gz"]}
    assert [each.name for each in group_volumes(paths("a_0000.nii.gz"), 1)] == ["a"]


def test_numbers_of_slices_are_no_channels() -> None:
    """One channel, and names that end in four digits: these are volumes of their own."""
    assert [each.name for each in group_volumes(paths("scan_0001.nii", "scan_0002.nii"), 1)] == [
        "scan_0001",
        "scan_0002",
    ]


def test_a_case_without_all_its_channels() -> None:
    with pytest.raises(InputError, match="2 files of case 'a', but the model was trained on 3 channels"):
        group_volumes(paths("a_0000.nii.gz", "a_0001.nii.gz"), 3)


def test_two_volumes_of_one_name() -> None:
    with pytest.raises(InputError, match="both would be written to x"):
        group_volumes([Path("a/x.nii.gz"), Path("b/x.nii")], 1)


def test_the_suffix_follows_the_source(tmp_path: Path) -> None:
    array = np.zeros((3, 3, 3), np.uint8)
    for name in ("a.nii", "b.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / name)
    assert [each.suffix for each in group_volumes([tmp_path / "a.nii", tmp_path / "b.nii.gz"], 1)] == [
        ".nii",
        ".nii.gz",
    ]
