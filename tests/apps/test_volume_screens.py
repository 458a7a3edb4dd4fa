"""`perpixel check` on volumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perpixel.apps import cli

nibabel = pytest.importorskip("nibabel", reason="NIfTI needs nibabel (extra volumes)")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Four CT scans of 8 x 10 x 9 voxels, one of them of 2 mm slices."""
    rng = np.random.default_rng(0)
    for number in range(4):
        affine = np.diag([-1.0, -1.0, 1.0 + (number == 1), 1.0])
        label = np.zeros((8, 10, 9), np.uint8)
        label[2:5, 3:6, 4:8] = 1
        scan = rng.integers(-1024, 2000, label.shape).astype(np.int16)
        for folder, array in (("images", scan), ("labels", label)):
            (tmp_path / "scans" / folder).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "scans" / folder / f"{number}.nii.gz")
    return tmp_path / "scans"


def test_check(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(scans), "--out", str(tmp_path / "out")]) == 0
    screen = " ".join(capsys.readouterr().out.split())
    assert "volumes 4 (train" in screen
    assert "depth x height x width 9x10x8" in screen
    assert "voxel size 1.5x1x1 in the middle, 1x1x1 to 2x1x1 mm" in screen
    assert "resampled 9x10x8 in the middle, 6x10x8 to 12x10x8 at 1.5x1x1 mm" in screen
    assert "modality CT (one scale for all cases)" in screen and "in the classes" in screen
    assert "voxel sizes are mixed: depth 1 to 2 mm" in screen
    assert "train voxels" in screen and "pixels" not in screen
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"check.json", "fingerprint.json", "check_sheet.png"}
