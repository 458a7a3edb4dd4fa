"""The README's commands, in the README's order, on a tiny data set."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

import perpixel
from perpixel.apps.cli import main
from perpixel.data.synthetic import write_demo
from perpixel.images import read_image

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--model", "unet", "-O", "width=4", "-O", "depth=3"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    write_demo(folder / "my_data", num_train=6, num_val=2, num_test=3, size=(64, 64))
    (folder / "photos").mkdir()
    for name in ("cells_0000.png", "cells_0001.png"):
        source = folder / "my_data" / "test" / "images" / name
        (folder / "photos" / name).write_bytes(source.read_bytes())
    return folder


def readme_commands() -> list[list[str]]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:python)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^perpixel (.*)$", "".join(blocks), re.MULTILINE)
    return [line.split("#")[0].split() for line in lines]


def test_readme_commands_run_in_order(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    commands = readme_commands()
    first = ["check", "plan", "train", "evaluate", "report", "predict"]
    forests = ["train", "train", "train"]
    others = ["compare", "describe", "explain", "import-weights"]
    more = ["train", "predict"]  # of volumes, and of objects: see test_volume_runs.py and test_object_runs.py
    assert [words[0] for words in commands] == [*first, *others, *forests, *more, *more]
    commands = commands[: -2 * len(more)]
    quick = [*TINY, "--out", "runs/my_data-auto"]  # without --out the name would be my_data-unet
    for words in commands:
        if words[0] in ("compare", "import-weights") or "--ignore" in words:
            continue  # three whole nets, a file that is not here, scribbles: see their tests
        words = [{"10m": "4s", "photo.jpg": "photos/cells_0000.png"}.get(word, word) for word in words]
        few = ["-O", "trees=4"] if "--model" in words else quick
        assert main([*words, *(few if words[0] == "train" else [])]) == 0, capsys.readouterr().err
    run = place / "runs" / "my_data-auto"
    html = (run / "report.html").read_text(encoding="utf-8")
    assert "mIoU" in html and not re.search(r"(src|href)=\"https?:", html)
    assert read_image(place / "labelled" / "cells_0000.png").shape[:2] == (64, 64)
    assert "x0_4" in (place / "unet_plus_plus.svg").read_text(encoding="utf-8")
    assert "Uncertainty" in (place / "explain.html").read_text(encoding="utf-8")


def test_readme_python_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert code is not None
    quick = 'budget="4s", model="unet", options={"width": 4, "depth": 3}, out="runs/python"'
    source = code[1].replace('budget="10m"', quick).replace("photo.jpg", "photos/cells_0000.png")
    names: dict[str, object] = {}
    exec(source, names)
    label_map = names["label_map"]
    assert isinstance(label_map, np.ndarray) and label_map.shape == (64, 64)


def test_json_is_one_document(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(place / "my_data"), "--out", str(place / "checked"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_valid_padding_and_fcn_train_too(place: Path, tmp_path: Path) -> None:
    data = place / "my_data"
    valid = perpixel.train(
        data, model="unet_valid", options={"width": 2}, epochs=1, batch_size=2, crop=(36, 36), out=tmp_path / "valid"
    )
    assert perpixel.load(valid.path).predict(data / "test" / "images" / "cells_0000.png").label_map.shape == (64, 64)
    fcn = perpixel.train(
        data, model="fcn32s", options={"fc_channels": 8}, epochs=1, batch_size=6, scale=0.5, out=tmp_path / "fcn"
    )
    assert fcn.metrics["miou"] is not None


@pytest.mark.slow
def test_two_processes_share_the_work(place: Path, tmp_path: Path) -> None:
    """DDP on the CPU: two processes see the batches that one process with twice the batch sees."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    base = [sys.executable, "-m", "perpixel.apps.cli", "train", str(place / "my_data"), *TINY, "--epochs", "4"]
    base += ["-O", "norm=false"]
    pair = [*base, "--batch-size", "1", "--devices", "2", "--device", "cpu", "--out", str(tmp_path / "two")]
    one = [*base, "--batch-size", "2", "--device", "cpu", "--out", str(tmp_path / "one")]
    for command in (pair, one):
        subprocess.run(command, check=True, env=environment, timeout=300)
    first, second = (load_file(tmp_path / name / "bundle" / "model.safetensors") for name in ("one", "two"))
    assert all(np.allclose(first[name], second[name], atol=2e-2) for name in first)
