"""Instance data with one damaged file; `python tests/fuzz/fuzz_instances.py --count 5000` tries as many as you like."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from perpixel.data.instances import INSTANCE_FORMATS

SCRIPT = Path(__file__).with_name("fuzz_instances.py")


@pytest.fixture(scope="module")
def fuzz_instances() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_instances", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_layout_is_tried(fuzz_instances: ModuleType) -> None:
    assert set(fuzz_instances.LAYOUTS) == set(INSTANCE_FORMATS)


def test_damaged_instance_data_are_read_or_refused(fuzz_instances: ModuleType, tmp_path: Path) -> None:
    tally = fuzz_instances.fuzz(40, seed=5, folder=tmp_path)
    assert tally.failures == []
    assert tally.read > 1 and tally.refused > 10
