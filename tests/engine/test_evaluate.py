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
from perpixel.data import Sample
from perpixel.engine.evaluate import MIN_GROUPS, choose_cases, image_groups
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


def test_outlines_and_calibration_are_measured(run: Path) -> None:
    result = api.evaluate(run, split="test", thin=["disc"], objects="square")
    scores = result.scores
    for row in scores["per_class"]:
        assert 0 <= row["bf"] <= 1 and 0 <= row["boundary_iou"] <= 1 and row["hd95"] >= row["one_sided_images"] == 0
    assert {"bf_score", "boundary_miou", "mean_nsd", "mean_hd95", "mean_asd"} <= set(scores["scores"])
    bins = scores["calibration"]["bins"]
    assert sum(row["pixels"] for row in bins) == sum(map(sum, scores["confusion"]))
    right = sum(row["pixels"] * row["accuracy"] for row in bins if row["pixels"])
    assert right == pytest.approx(sum(scores["confusion"][k][k] for k in range(3)))
    assert scores["thin"][0]["name"] == "disc" and 0 <= scores["thin"][0]["cldice"] <= 1
    assert scores["objects"]["class"] == "square" and scores["objects"]["true_objects"] >= 4
    numbers = {*scores["scores"], "bf", "hd95", "ece", "cldice", "v_rand", "v_info", "rand_error"}
    assert numbers <= set(scores["definitions"]), "a number without its definition"
    rows = list(csv.DictReader((result.path / "per_image.csv").read_text().splitlines()))
    assert np.mean([float(row["bf_score"]) for row in rows]) == pytest.approx(scores["scores"]["bf_score"])


def test_outlines_can_be_left_out(run: Path) -> None:
    scores = api.evaluate(run, split="val", boundary=False).scores
    assert "bf_score" not in scores["scores"] and "bf" not in scores["per_class"][0] and "boundary" not in scores
    near = api.evaluate(run, split="val", tolerance=4).scores
    assert near["boundary"]["near"] == "4 pixels"
    assert near["scores"]["bf_score"] >= api.evaluate(run, split="val", tolerance=1).scores["scores"]["bf_score"]


def test_measures_refuse_unknown_classes_before_anything_is_written(run: Path, tmp_path: Path) -> None:
    for settings, message in (
        ({"thin": ["disk"]}, r"thin: unknown class 'disk'; did you mean 'disc'\? known: background, disc, square"),
        ({"objects": "cell"}, r"objects: unknown class 'cell'"),
        ({"tolerance": -1}, "tolerance is -1"),
        ({"tolerance": 2, "boundary": False}, "tolerance 2: boundaries are not measured"),
    ):
        with pytest.raises(InputError, match=message):
            api.evaluate(run, split="val", out=tmp_path / "out", **settings)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_intervals_are_drawn_over_groups_where_there_are_enough() -> None:
    def samples(groups: list[str | None]) -> list[Sample]:
        return [Sample(f"s{i}", (Path("x.png"),), group=group) for i, group in enumerate(groups)]

    patients = [f"p{i // 2}" for i in range(2 * MIN_GROUPS)]
    assert image_groups(samples([*patients])) == patients
    assert image_groups(samples([*patients[2:]])) is None
    assert image_groups(samples([None] * 30)) is None


def test_groups_have_their_table(shapes: Path, run: Path, tmp_path: Path) -> None:
    result = api.evaluate(run, shapes, split="test", out=tmp_path / "out", group="([a-z]+)")
    rows = list(csv.DictReader((result.path / "per_group.csv").read_text().splitlines()))
    assert sum(int(row["images"]) for row in rows) == 4
    assert result.scores["intervals_over"] == "images"
    api.evaluate(run, shapes, split="test", out=tmp_path / "out")
    assert not (tmp_path / "out" / "per_group.csv").exists()


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
