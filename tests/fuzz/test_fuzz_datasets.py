"""Data sets with one damaged file; `python tests/fuzz/fuzz_datasets.py --count 5000` tries as many as you like."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).with_name("fuzz_datasets.py")


@pytest.fixture(scope="module")
def fuzz_datasets() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_datasets", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_sound_layouts_are_read(fuzz_datasets: ModuleType, tmp_path: Path) -> None:
    import random

    for name, make in fuzz_datasets.LAYOUTS.items():
        make(tmp_path / name, random.Random(0)) if (tmp_path / name).mkdir() is None else None
        fuzz_datasets.attempt(tmp_path / name)


def test_damaged_data_sets_are_read_or_refused(fuzz_datasets: ModuleType, tmp_path: Path) -> None:
    tally = fuzz_datasets.fuzz(120, seed=5, folder=tmp_path)
    assert tally.failures == []
    assert tally.read > 10 and tally.refused > 30
