"""`predict --samples --uncertainty` and `evaluate --samples`, on a bundle that was never trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from perpixel.apps.cli import main
from perpixel.files import write_json
from perpixel.images import Normalisation, write_png
from perpixel.inference.bundle import BundleConfig, save_bundle
from perpixel.labels import ClassInfo, ClassTable
from perpixel.models import create_model

CLASSES = ClassTable((ClassInfo("dark", (0, 0, 0), (0,)), ClassInfo("bright", (250, 10, 20), (1,))))


def make_bundle(folder: Path, model: str) -> Path:
    torch.manual_seed(0)
    config = BundleConfig(
        model=model,
        options={"width": 2},
        channels=1,
        classes=CLASSES,
        normalisation=Normalisation((0.0,), (255.0,), (0.5,), (0.5,)),
        scale=1.0,
        tile=(64, 64),
        precision="fp32",
    )
    return save_bundle(
        folder,
        model=create_model(model, in_channels=1, num_classes=2, width=2),
        config=config,
        metrics={},
        card="card",
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for number in range(3):
        image = np.random.default_rng(number).integers(0, 255, (24, 30), dtype=np.uint8)
        write_png(root / "test" / "images" / f"{number}.png", image)
        write_png(root / "test" / "masks" / f"{number}.png", (image > 127).astype(np.uint8))
    write_json(root / "classes.json", {"classes": ["dark", "bright"], "values": {"0": "dark", "1": "bright"}})
    return root


def run_json(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert main([str(word) for word in (*words, "--json")]) == 0
    return json.loads(capsys.readouterr().out)


def test_predict_writes_both_maps(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, out = make_bundle(tmp_path / "bundle", "bayesian_segnet"), tmp_path / "out"
    words = ("predict", bundle, data / "test" / "images", "--out", out, "--samples", 2, "--uncertainty", "--seed", 5)
    assert run_json(capsys, *words)["written"] == ["0", "1", "2"]
    for kind in ("uncertainty", "model_uncertainty"):
        assert np.array(Image.open(out / kind / "1.png")).shape == (24, 30)
    assert json.loads((out / "predictions.json").read_text())["samples"] == 2


def test_evaluate_samples(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path / "bundle", "bayesian_segnet")
    plain = run_json(capsys, "evaluate", bundle, data, "--out", tmp_path / "plain")
    sampled = run_json(capsys, "evaluate", bundle, data, "--out", tmp_path / "sampled", "--samples", 3)
    assert (plain["dropout_samples"], sampled["dropout_samples"]) == (0, 3)
    assert plain["confusion"] != sampled["confusion"]
    assert np.sum(sampled["confusion"]) == 3 * 24 * 30
    assert (plain["prune_level"], sampled["prune_level"]) == (None, None)
    assert main([str(word) for word in ("evaluate", bundle, data, "--out", tmp_path / "sampled", "--samples", 3)]) == 0
    assert "mean of 3 passes with dropout" in capsys.readouterr().out


def test_a_model_without_dropout_is_refused(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path / "bundle", "segnet")
    for verb in (["predict", bundle, data / "test" / "images"], ["evaluate", bundle, data]):
        assert main([str(word) for word in (*verb, "--out", tmp_path / "out", "--samples", 3)]) == 2
        assert "samples 3: SegNet has no dropout to sample from: leave it out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
