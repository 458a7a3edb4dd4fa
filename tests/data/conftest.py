"""Fixtures of the data tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_builder import Builder


@pytest.fixture
def build(tmp_path: Path) -> Builder:
    """Writes a tiny data set under a fresh folder."""
    return Builder(tmp_path / "set")
