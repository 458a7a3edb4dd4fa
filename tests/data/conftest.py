"""Fixtures of the data tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_builder import Builder
from volume_builder import VolumeBuilder


@pytest.fixture
def build(tmp_path: Path) -> Builder:
    """Writes a tiny data set under a fresh folder."""
    return Builder(tmp_path / "set")


@pytest.fixture
def volumes(tmp_path: Path) -> VolumeBuilder:
    """Writes a tiny data set of volumes under a fresh folder."""
    pytest.importorskip("nibabel", reason="NIfTI needs nibabel (extra volumes)")
    return VolumeBuilder(tmp_path / "set")
