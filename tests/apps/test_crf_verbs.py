"""`tune-crf`, `predict --crf` and `evaluate --crf`, on a bundle that was never trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from perpixel.apps.cli import main
from perpixel.engine import tune_crf as module
from perpixel.files import read_json, write_json
from perpixel.images import Normalisation, write_png
from perpixel.inference.bundle import BundleConfig, save_bundle
from perpixel.inference.crf import CrfSettings
from perpixel.labels import ClassInfo, ClassTable
from perpixel.models import create_model

CLASSES = ClassTable((ClassInfo("dark", (0, 0, 0), (0,)), ClassInfo("bright", (250, 10, 20), (1,))))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = BundleConfig(
        model="unet", options={"width": 2}, channels=1, classes=CLASSES,
        normalisation=Normalisation((0.0,), (255.0,), (0.5,), (0.5,)), scale=1.0, tile=(64, 64), precision="fp32",
    )  # fmt: skip
    model = create_model("unet", in_channels=1, num_classes=2, width=2)
    return save_bundle(tmp_path / "bundle", model=model, config=config, metrics={}, card="card")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for number in range(4):
        image = np.random.default_rng(number).integers(0, 255, (24, 30), dtype=np.uint8)
        for split in ("val", "test"):
            write_png(root / split / "images" / f"{split}{number}.png", image + (split == "val"))
            write_png(root / split / "masks" / f"{split}{number}.png", (image > 127).astype(np.uint8))
    write_json(root / "classes.json", {"classes": ["dark", "bright"], "values": {"0": "dark", "1": "bright"}})
    return root


def run_json(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert main([str(word) for word in (*words, "--json")]) == 0
    return json.loads(capsys.readouterr().out)


def test_predict_refines_and_draws_the_steps(
    bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = data / "test" / "images"
    made = run_json(capsys, "predict", bundle, photos, "--out", tmp_path / "plain", "--probs")
    assert made["written"] == [f"test{i}" for i in range(4)]
    run_json(capsys, "predict", bundle, photos, "--out", tmp_path / "crf", "--probs", "--crf-steps")
    plain, crf = (np.load(tmp_path / folder / "probs" / "test0.npy") for folder in ("plain", "crf"))
    assert plain.shape == crf.shape and not np.allclose(plain, crf, atol=0.02)
    labels = np.array(Image.open(tmp_path / "crf" / "test0.png"))
    assert (labels == crf.argmax(0))[np.abs(crf[0] - crf[1]) > 0.01].all()
    with Image.open(tmp_path / "crf" / "crf_steps" / "test0.png") as strip:
        assert strip.size == (6 * 34, 2 * 28)  # the image and iterations 0, 1, 2, 5, 10
    assert read_json(tmp_path / "crf" / "predictions.json")["crf"] == CrfSettings().to_json()
    assert main(["predict", str(bundle), str(photos), "--out", str(tmp_path / "crf"), "--crf"]) == 0
    assert "settings were not chosen for this model" in " ".join(capsys.readouterr().out.split())
    # Other settings are other predictions: never mixed in one folder.
    words = ["predict", bundle, photos, "--out", tmp_path / "crf", "--crf", "--crf-option", "iterations=3"]
    assert main([str(word) for word in words]) == 2
    assert "another model or other settings" in capsys.readouterr().err


def test_evaluate_refines(bundle: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = run_json(capsys, "evaluate", bundle, data)
    words = ("--crf", "--crf-option", "iterations=2", "--crf-option", "bilateral_range=20")
    made = run_json(capsys, "evaluate", bundle, data, *words)
    assert plain["crf"] is None
    assert made["crf"]["iterations"] == 2 and made["crf"]["bilateral_range"] == 20
    assert made["path"].endswith("test-CRF")
    assert made["confusion"] != plain["confusion"]
    assert main(["evaluate", str(bundle), str(data), "--crf"]) == 0
    assert "refined by a CRF" in capsys.readouterr().out


def test_tune_then_use(
    bundle: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRID", {"bilateral_weight": (1.0, 4.0)})
    found = run_json(capsys, "tune-crf", bundle, data, "--iterations", 2, "--images", 3)
    assert found["images"] == 3 and found["split"] == "val"
    assert len(found["interval"]) == 2 and found["tried"]
    stored = read_json(bundle / "config.json").get("crf")
    assert stored == (found["settings"] if found["helps"] else None)
    assert main(["tune-crf", str(bundle), str(data), "--iterations", "1"]) == 0
    assert "gain in mIoU" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--crf-option", "iterations=3"], "--crf-option iterations=3: works with --crf only"),
        (["--crf", "--crf-option", "iterations"], "--crf-option 'iterations': no key=value"),
        (["--crf", "--crf-option", "bilateral_wide=3"], "crf: unknown CRF setting 'bilateral_wide'; did you mean"),
        (["--crf", "--crf-option", "spatial_width=0"], "crf: spatial_width is 0: give more than 0"),
        (["--crf", "--crf-option", "compatibility=[[0,1,2]]"], "crf: compatibility of shape"),
    ],
)
def test_wrong_settings_are_refused(
    bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["predict", str(bundle), str(data / "test" / "images"), "--out", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.png"))
