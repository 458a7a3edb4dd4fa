"""Temperature scaling: fitted on val, kept in the bundle, applied before softmax, labels untouched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from perpixel.apps import api
from perpixel.apps.cli import main
from perpixel.errors import InputError
from perpixel.files import read_json, write_json
from perpixel.images import write_png
from perpixel.inference import load


@pytest.fixture(scope="module")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"width": 4, "depth": 3}
    return api.train(shapes, model="unet", options=options, epochs=6, out=tmp_path_factory.mktemp("run") / "run").path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_it_is_kept_in_the_bundle_and_used(run: Path, shapes: Path) -> None:
    image = next((shapes / "val" / "images").iterdir())
    before = load(run).predict(image, probs=True, confidence=True)
    result = api.calibrate(run)
    assert result.split == "val" and result.images == 2 and result.pixels == 2 * 40 * 48
    assert result.nll_after <= result.nll_before
    assert read_json(run / "bundle" / "config.json")["temperature"] == result.temperature
    assert read_json(run / "bundle" / "metrics.json")["calibration"] == result.to_json()
    assert "miou" in read_json(run / "bundle" / "metrics.json")
    after = load(run).predict(image, probs=True, confidence=True)
    assert (after.label_map == before.label_map).all()
    assert before.probs is not None and after.probs is not None and after.confidence is not None
    expected = before.probs ** (1 / result.temperature)
    np.testing.assert_allclose(after.probs, expected / expected.sum(0), atol=2e-5)
    np.testing.assert_allclose(after.confidence, after.probs.max(0), atol=1e-6)


def test_the_verb(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", str(run), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["temperature"] == read_json(run / "bundle" / "config.json")["temperature"]
    assert main(["calibrate", str(run)]) == 0
    shown = capsys.readouterr().out
    assert f"{document['temperature']:g}" in shown and "calibration error" in shown and "perpixel evaluate" in shown
    assert main(["calibrate", str(run), "--split", "nowhere"]) == 2
    assert main(["evaluate", str(run), "--thin", "disk"]) == 2
    assert "did you mean 'disc'" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--split", "val", "--no-boundary", "--thin", "disc", "--objects", "disc"]) == 0
    shown = capsys.readouterr().out
    assert "clDice of disc" in shown and "V_Info of disc" in shown and "outlines of" not in shown


def test_a_second_calibration_replaces_the_first(run: Path) -> None:
    first = api.calibrate(run)
    config = run / "bundle" / "config.json"
    write_json(config, {**read_json(config), "temperature": 7.0})
    assert api.calibrate(run) == first


def test_evaluation_shows_it(run: Path) -> None:
    config = run / "bundle" / "config.json"
    confidence = []
    for temperature in (0.5, 1.0, 4.0):
        write_json(config, {**read_json(config), "temperature": temperature})
        confidence.append(api.evaluate(run, split="val").scores["calibration"]["mean_confidence"])
    assert confidence == sorted(confidence, reverse=True) and confidence[0] > confidence[2] + 0.05


def test_bundles_from_before_and_broken_ones(run: Path) -> None:
    config = run / "bundle" / "config.json"
    old = {key: value for key, value in read_json(config).items() if key != "temperature"}
    write_json(config, old)
    assert load(run).config.temperature == 1.0
    for wrong in (0, -2, "hot", None):
        config.write_text(json.dumps({**old, "temperature": wrong}))
        with pytest.raises(InputError, match=r"config\.json: temperature .* is no number above 0"):
            load(run)


def test_nothing_labelled(run: Path, shapes: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(shapes, tmp_path / "data"))
    for mask in (data / "val" / "masks").iterdir():
        write_png(mask, np.full((40, 48), 255, np.uint8))
    with pytest.raises(InputError, match="split 'val' has no labelled pixel: calibrate on another one"):
        api.calibrate(run, data, ignore_values=(255,))
    assert read_json(run / "bundle" / "config.json")["temperature"] == 1.0
