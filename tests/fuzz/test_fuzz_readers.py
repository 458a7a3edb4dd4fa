"""A few hundred damaged files; `python tests/fuzz/fuzz_readers.py --count 5000` tries as many as you like."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from perpixel.errors import InputError

SCRIPT = Path(__file__).with_name("fuzz_readers.py")


@pytest.fixture(scope="module")
def fuzz_readers() -> ModuleType:
    """The script as a module: tests/ is no package."""
    spec = importlib.util.spec_from_file_location("fuzz_readers", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_sound_files_are_all_read(fuzz_readers: ModuleType, tmp_path: Path) -> None:
    tally = fuzz_readers.Tally()
    for name, data in fuzz_readers.make_seeds().items():
        path = tmp_path / name
        path.write_bytes(data)
        refused = tally.refused
        fuzz_readers.try_file(path, tally)
        is_no_mask = name in (
            "alpha.png",
            "lossless.webp",
            "deep_rgb.png",
            "alpha.tif",
            "ome.tif",
            "imagej_channels.tif",
            "channels.nii.gz",
        )
        assert tally.refused == refused + is_no_mask, name
    assert tally.failures == []


def test_damaged_files_are_read_or_refused(
    fuzz_readers: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tally = fuzz_readers.fuzz(300, seed=1, folder=tmp_path)
    assert tally.failures == []
    assert tally.tried == tally.read + tally.refused
    assert tally.read > 100 and tally.refused > 200
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", ""), "a decoder wrote to the terminal"


def test_damage_is_the_same_for_the_same_seed(fuzz_readers: ModuleType) -> None:
    first, again, other = (list(fuzz_readers.damaged_files(60, seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_other_ends_are_failures(fuzz_readers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reader(path: Path) -> None:
        raise InputError("no name in it") if path.suffix == ".png" else ZeroDivisionError(path)

    monkeypatch.setattr(fuzz_readers, "readers_for", lambda path: [lambda: reader(path)])
    tally = fuzz_readers.Tally()
    fuzz_readers.try_file(tmp_path / "a.png", tally)
    fuzz_readers.try_file(tmp_path / "b.tif", tally)
    assert tally.line() == "2 tried, 0 read, 1 refused, 2 tracebacks"
    assert "without the file's name" in tally.failures[0]
    assert "ZeroDivisionError" in tally.failures[1]


@pytest.mark.slow
def test_the_script_prints_the_tally_and_exits_with_0() -> None:
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--count", "2000", "--seed", "2"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout
    assert run.stdout.splitlines()[-1].endswith(", 0 tracebacks")
    assert run.stderr == ""
