"""Evaluation: one matrix over the whole split, intervals, cases, and nothing stale."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from perpixel.apps import api
from perpixel.engine.evaluate import choose_cases
from perpixel.engine.semantic import spread
from perpixel.errors import InputError
from perpixel.images import read_image
from perpixel.metrics import confusion_matrix


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"width": 4, "depth": 3}
    return api.train(shapes, model="unet", options=options, epochs=6, out=tmp_path_factory.mktemp("run") / "run").path


def test_scores_are_those_of_the_written_predictions(run: Path, shapes: Path, tmp_path: Path) -> None:
    """Evaluate against what predict writes: same pictures, same counts."""
    result = api.evaluate(run, shapes, split="test")
    predicted = api.predict(run, shapes / "test" / "images", out=tmp_path / "out", overlays=False)
    counts = np.zeros((3, 3), np.int64)
    for name in predicted.written:
        pred = np.array(Image.open(tmp_path / "out" / f"{name}.png"))
        target = np.array(Image.open(shapes / "test" / "masks" / f"{name}.png"))
        counts += confusion_matrix(pred, target, num_classes=3)
    assert result.scores["confusion"] == counts.tolist()
    assert result.scores["scores"]["pixel_accuracy"] == pytest.approx(np.diag(counts).sum() / counts.sum())
    iou = np.diag(counts) / (counts.sum(0) + counts.sum(1) - np.diag(counts))
    assert result.scores["scores"]["miou"] == pytest.approx(np.nanmean(iou))


def test_what_is_written(run: Path) -> None:
    result = api.evaluate(run, split="test")
    assert result.path == run / "evaluation" / "test"
    assert json.loads((result.path / "scores.json").read_text()) == result.scores
    rows = list(csv.DictReader((result.path / "per_image.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == [f"test/test{i}" for i in range(4)] or len(rows) == 4
    for name, (low, high) in result.scores["intervals"].items():
        assert low <= result.scores["scores"][name] <= high
    for case in result.scores["cases"]:
        sizes = {read_image(result.path / file).shape[:2] for file in case["files"].values()}
        assert sizes == {(40, 48)}
        assert set(case["files"]) == {"image", "truth", "prediction", "error", "uncertainty"}


def test_stale_results_go(run: Path) -> None:
    folder = api.evaluate(run, split="val").path
    (folder / "cases" / "stale.png").write_bytes(b"old")
    api.evaluate(run, split="val")
    assert not (folder / "cases" / "stale.png").exists()


def test_a_folder_of_the_user_is_not_emptied(run: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds other files .*precious\.txt.*choose another --out"):
        api.evaluate(run, split="test", out=tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_choice_of_cases() -> None:
    table: list[dict[str, Any]] = [{"name": str(i), "miou": i / 10} for i in range(10)] + [
        {"name": "void", "miou": None}
    ]
    chosen = choose_cases(table)
    assert [row["name"] for rank, row in chosen if rank == "best"] == ["9", "8", "7"]
    assert [row["name"] for rank, row in chosen if rank == "worst"] == ["2", "1", "0"]
    assert [row["name"] for rank, row in chosen if rank == "median"] == ["6", "5", "4"]
    assert [row["name"] for _, row in choose_cases(table[:1])] == ["0"]


def test_spread_keeps_the_order() -> None:
    samples: Any = tuple("abcdefghij")
    assert spread(samples, 4) == ("a", "d", "g", "j")
    assert spread(samples, None) == samples and spread(samples, 99) == samples
