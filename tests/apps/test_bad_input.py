"""What users get wrong, through the command line: one clear sentence, exit 2, nothing lost, no traceback."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from perpixel.apps import api
from perpixel.apps.cli import main
from perpixel.data.synthetic import write_demo
from perpixel.images import read_image, write_png

TINY = ["--epochs", "1", "--model", "unet", "-O", "width=2", "-O", "depth=2", "--crop", "32x32"]


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("cells") / "data", num_train=4, num_val=2, num_test=2, size=(48, 64))


@pytest.fixture(scope="module")
def run(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"width": 2, "depth": 2}
    return api.train(cells, model="unet", epochs=1, options=options, out=tmp_path_factory.mktemp("runs") / "run").path


@pytest.fixture
def broken(cells: Path, tmp_path: Path) -> Path:
    """A copy of the data set to spoil."""
    return Path(shutil.copytree(cells, tmp_path / "broken"))


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that the command says; exit code 2."""
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr().err.strip()
    last = said.splitlines()[-1] if said else ""
    assert code == 2, said
    assert last.startswith("perpixel: error: "), said
    assert "Traceback" not in said and "internal failure" not in said
    return last


def first(folder: Path, pattern: str) -> Path:
    return sorted(folder.glob(pattern))[0]


def spoil_no_pairs(data: Path) -> None:
    for folder in data.glob("*/masks"):
        shutil.rmtree(folder)


def spoil_unmatched(data: Path) -> None:
    first(data, "train/masks/*.png").rename(data / "train" / "masks" / "stranger.png")


def spoil_size(data: Path) -> None:
    write_png(first(data, "train/masks/*.png"), np.zeros((5, 6), np.uint8))


def spoil_label(data: Path) -> None:
    mask = first(data, "train/masks/*.png")
    values = np.array(Image.open(mask))
    values[0, 0] = 77
    write_png(mask, values)


def spoil_truncated(data: Path) -> None:
    image = first(data, "val/images/*.png")
    image.write_bytes(image.read_bytes()[:200])


def spoil_text(data: Path) -> None:
    first(data, "train/images/*.png").write_text("not an image")


def spoil_empty_file(data: Path) -> None:
    first(data, "train/images/*.png").write_bytes(b"")


def spoil_all_ignored(data: Path) -> None:
    table = json.loads((data / "classes.json").read_text())
    table["ignore_values"] = [9]
    (data / "classes.json").write_text(json.dumps(table))
    for mask in data.glob("train/masks/*.png"):
        write_png(mask, np.full(np.array(Image.open(mask)).shape, 9, np.uint8))


def spoil_nan(data: Path) -> None:
    image = first(data, "train/images/*.png")
    values = np.array(Image.open(image)).astype(np.float32)
    values[0, 0] = np.nan
    image.unlink()
    tifffile.imwrite(image.with_suffix(".tif"), values, photometric="rgb")


def spoil_classes(data: Path) -> None:
    (data / "classes.json").write_text('{"classes": [')


def spoil_bomb(data: Path) -> None:
    image = first(data, "train/images/*.png")
    raw = bytearray(image.read_bytes())
    raw[16:24] = (10**6).to_bytes(4, "big") * 2
    image.write_bytes(bytes(raw))


SPOILED: list[tuple[Callable[[Path], None], str]] = [
    (spoil_no_pairs, "mask"),
    (spoil_unmatched, "stranger"),
    (spoil_size, "5 x 6"),
    (spoil_label, "77"),
    (spoil_truncated, "png"),
    (spoil_text, "png"),
    (spoil_empty_file, "png"),
    (spoil_all_ignored, "ignored"),
    (spoil_nan, "NaN"),
    (spoil_classes, "classes.json"),
    (spoil_bomb, "png"),
]


@pytest.mark.parametrize(("spoil", "word"), SPOILED, ids=[spoil.__name__ for spoil, _ in SPOILED])
def test_training_refuses_broken_data(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], word: str
) -> None:
    spoil(broken)
    said = refused(capsys, "train", broken, "--out", tmp_path / "run", *TINY)
    assert word.lower() in said.lower()
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "unet++"], "unknown model 'unet++'; did you mean 'unet_plus_plus'"),
        (["--loss", "crossentropy"], "crossentropy"),
        (["--loss", "ce:gamma=2"], "gamma"),
        (["--schedule", "cosine"], "unknown schedule 'cosine'"),
        (["--optimizer", "adam"], "unknown optimizer 'adam'; did you mean 'adamw'"),
        (["--class-weights", "balanced"], "balanced"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--budget", "soon"], "'soon' is not a duration"),
        (["--budget", "0s"], "not a positive duration"),
        (["--epochs", "0"], "0"),
        (["--budget", "5m", "--epochs", "3"], "one of them"),
        (["--scale", "-1"], "-1"),
        (["--crop", "banana"], "banana"),
        (["--crop", "0x4"], "0"),
        (["--precision", "fp8"], "fp8"),
        (["-O", "width"], "width"),
        (["-O", "wdith=4"], "wdith"),
        (["--model", "unet", "-O", "encoder=resnet999"], "resnet999"),
    ],
)
def test_wrong_settings(
    cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert words in refused(capsys, "train", cells, "--out", tmp_path / "run", *arguments)
    assert not (tmp_path / "run" / "config.json").exists()


def test_missing_places(
    cells: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "nowhere" in refused(capsys, "train", tmp_path / "nowhere")
    assert not (tmp_path / "runs").exists()
    assert "nowhere" in refused(capsys, "check", tmp_path / "nowhere")
    assert "nowhere" in refused(capsys, "train", "--resume", tmp_path / "nowhere")
    assert "not a run folder" in refused(capsys, "train", "--resume", cells)
    assert "neither a run nor a bundle" in refused(capsys, "evaluate", cells, cells)
    assert "nowhere" in refused(capsys, "predict", run, tmp_path / "nowhere", "--out", tmp_path / "out")
    assert "nowhere" in refused(capsys, "predict", tmp_path / "nowhere", cells, "--out", tmp_path / "out")
    assert "holdout" in refused(capsys, "evaluate", run, cells, "--split", "holdout")
    assert "did you mean" in refused(capsys, "describe", "unnet")


def test_an_output_that_cannot_be_written(
    cells: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    assert "file" in refused(capsys, "train", cells, "--out", file / "run", *TINY)
    assert "file" in refused(capsys, "predict", run, cells / "test" / "images", "--out", file)


def test_another_class_table(broken: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (broken / "classes.json").write_text('["a", "b", "c"]')
    said = refused(capsys, "evaluate", run, broken, "--classes", broken / "classes.json")
    assert "a, b, c" in said and "background" in said


def test_odd_sizes_are_predicted(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    rng = np.random.default_rng(0)
    sizes = {"dot": (1, 1), "wide": (3, 65_000), "tall": (5000, 2)}
    for name, size in sizes.items():
        write_png(folder / f"{name}.png", rng.integers(0, 255, size, dtype=np.uint8))
    assert main(["predict", str(run), str(folder), "--out", str(tmp_path / "out")]) == 0
    for name, (height, width) in sizes.items():
        assert read_image(tmp_path / "out" / f"{name}.png").shape[:2] == (height, width)


def test_a_class_that_train_lacks_is_a_warning(broken: Path, tmp_path: Path) -> None:
    for mask in broken.glob("train/masks/*.png"):
        values = np.array(Image.open(mask))
        write_png(mask, np.where(values == 2, 1, values).astype(np.uint8))
    result = api.check(broken)
    assert not result.errors
    assert any("dividing" in problem.message for problem in result.problems)


def test_a_full_disk_loses_nothing(cells: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    try:
        said = refused(capsys, "train", cells, "--out", small / "run", *TINY)
        assert "disk is full" in said
        assert not list((small / "run").rglob("*.part*"))
    finally:
        subprocess.run(["umount", str(small)], check=True)
