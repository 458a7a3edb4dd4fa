"""Volumes through the same verbs as images: plan, train, evaluate, predict, report, compare."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from perpixel.apps import api, cli
from perpixel.apps.compare import compare
from perpixel.data import open_dataset
from perpixel.errors import InputError
from perpixel.images import read_volume

nibabel = pytest.importorskip("nibabel", reason="NIfTI needs nibabel (extra volumes)")

LIGHT = {"width": 4, "depth": 2}
# The axes of files that lie in three different ways; the second is sheared by none, but turned and flipped.
AFFINES = (
    np.diag([1.0, 1.0, 2.0, 1.0]),
    np.array([[0.0, 0.0, -2.0, 9.0], [-1.0, 0.0, 0.0, 5.0], [0.0, 1.0, 0.0, -3.0], [0.0, 0.0, 0.0, 1.0]]),
    np.diag([-1.0, -1.0, 2.0, 1.0]),
)


def write_set(
    root: Path, count: int = 6, split: tuple[str, ...] = ("train", "train", "train", "val", "test", "test")
) -> Path:
    """Volumes of 16 x 18 x 10 voxels with a bright ball and a dark box in noise."""
    rng = np.random.default_rng(7)
    for number in range(count):
        centre = rng.uniform(5, 11, 2)
        x, y, z = np.mgrid[:16, :18, :10]
        ball = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (2 * (z - 5)) ** 2 < 16
        box = (x > 12) & (y > 12) & (z > 3) & (z < 8)
        label = np.where(ball, 1, np.where(box, 2, 0)).astype(np.uint8)
        scan = (100 + 80 * ball - 60 * box + rng.normal(0, 8, ball.shape)).astype(np.int16)
        affine = AFFINES[number % 3]
        for folder, array in (("images", scan), ("labels", label)):
            place = root / split[number] / folder
            place.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, affine), place / f"case{number}.nii.gz")
    classes = [{"name": name, "values": [i]} for i, name in enumerate(("background", "ball", "box"))]
    (root / "classes.json").write_text(json.dumps({"classes": classes}))
    return root


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("volumes") / "balls")


@pytest.fixture(scope="module")
def run(balls: Path, tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    """Trained until it finds the ball and the box."""
    out = tmp_path_factory.mktemp("runs") / "balls"
    return api.train(balls, epochs=90, options=LIGHT, out=out, precision="fp32")


@pytest.fixture(scope="module")
def scores(run: api.Run) -> dict[str, Any]:
    return api.evaluate(run.path).scores


def test_the_plan_follows_the_volumes(balls: Path) -> None:
    plan = api.plan(balls, epochs=1)
    assert plan["model"] == "unet3d" and plan["spacing_mm"] == [2.0, 1.0, 1.0]
    assert [axis % 2 for axis in plan["crop"]] == [0, 0, 0] and plan["tile"] == plan["crop"]
    assert plan["normalisation"]["ways"] == ["each_case"]
    assert plan["augmentation"]["mirror"] == [True, True, True]


def test_training_leaves_a_bundle_of_volumes(run: api.Run) -> None:
    config = json.loads((run.bundle / "config.json").read_text())
    assert config["volume"]["spacing_mm"] == [2.0, 1.0, 1.0] and len(config["tile"]) == 3
    assert run.metrics["structure_dice"] > 0.4
    assert run.metrics["components"]["cases"] == 1
    card = (run.bundle / "README.md").read_text()
    assert "structure Dice" in card and "volume.nii.gz" in card and "2 x 1 x 1 mm" in card


def test_scores_of_every_structure_and_case(run: api.Run, scores: dict[str, Any]) -> None:
    assert scores["scores"]["structure_dice"] > 0.4
    assert [row["name"] for row in scores["structures"]] == ["ball", "box"]
    means = [row["dice"] for row in scores["structures"]]
    assert np.isclose(scores["scores"]["structure_dice"], np.mean(means))
    with open(run.path / "evaluation" / "test" / "per_case.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["structure"]) for row in rows] == [
        (case, name) for case in ("case4", "case5") for name in ("ball", "box")
    ]
    ball = [row for row in rows if row["structure"] == "ball"]
    assert np.isclose(np.mean([float(row["dice"]) for row in ball]), scores["structures"][0]["dice"])
    # The truth itself, counted: voxels of 2 mm^3.
    dataset = open_dataset(json.loads((run.path / "config.json").read_text())["data"])
    for row, sample in zip(ball, dataset.split("test")):
        label_map = dataset.load_case(sample).label_map
        assert label_map is not None and np.isclose(float(row["true_ml"]), (label_map == 1).sum() * 2e-3)
    assert scores["tolerance_mm"] == 2.0 and all(float(row["hd95_mm"]) < 6 for row in ball)


def test_predictions_lie_where_their_sources_lie(run: api.Run, balls: Path, tmp_path: Path) -> None:
    found = api.predict(run.path, balls / "test" / "images", out=tmp_path / "out", probs=True, uncertainty=True)
    assert found.written == ["case4", "case5"]
    for name in found.written:
        source = nibabel.load(balls / "test" / "images" / f"{name}.nii.gz")
        written = nibabel.load(tmp_path / "out" / f"{name}.nii.gz")
        assert written.shape == source.shape and np.array_equal(written.affine, source.affine)
        truth = np.asarray(nibabel.load(balls / "test" / "labels" / f"{name}.nii.gz").dataobj)
        labels = np.asarray(written.dataobj)
        assert (
            labels.dtype == np.uint8
            and 2 * ((labels == 1) & (truth == 1)).sum() / ((labels == 1).sum() + (truth == 1).sum()) > 0.4
        )
        probs = nibabel.load(tmp_path / "out" / "probs" / f"{name}.nii.gz")
        assert probs.shape[:3] == source.shape and np.allclose(np.asarray(probs.dataobj).sum(-1), 1, atol=1e-5)
        assert (tmp_path / "out" / "overlays" / f"{name}.png").is_file()
    again = api.predict(run.path, balls / "test" / "images", out=tmp_path / "out", probs=True, uncertainty=True)
    assert again.skipped == ["case4", "case5"] and not again.written


def test_the_report_holds_the_slices(run: api.Run, scores: dict[str, Any]) -> None:
    page = api.report(run.path).read_text()
    assert "All slices" in page and page.count('class="volume"') == len({case["rank"] for case in scores["cases"]})
    assert "script-src 'sha256-" in page and "Every structure, volume by volume" in page


def test_the_script_of_the_report_is_the_one_that_may_run(run: api.Run, scores: dict[str, Any]) -> None:
    import base64
    import hashlib
    import re

    page = api.report(run.path).read_text()
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page


def test_a_stopped_run_ends_in_the_same_bits(balls: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 4, "options": LIGHT, "precision": "fp32", "checkpoint_every_s": 0}
    whole = api.train(balls, out=tmp_path / "whole", **settings)

    def stop(event: dict[str, Any]) -> None:
        if event["kind"] == "checkpoint" and event["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.train(balls, out=tmp_path / "cut", on_event=stop, **settings)
    cut = api.resume(tmp_path / "cut")
    first, second = (load_file(each.bundle / "model.safetensors") for each in (whole, cut))
    assert all(np.array_equal(first[name].numpy(), second[name].numpy()) for name in first)


def test_compare(balls: Path, tmp_path: Path) -> None:
    made = compare(
        balls,
        models=["unet3d", "vnet"],
        epochs=1,
        out=tmp_path / "both",
        options={"width": 4, "depth": 2},
        isolated=False,
    )
    assert not made.failed, made.document
    page = made.page.read_text()
    assert "structure Dice" in page and made.document["models"][0]["scores"]["structure_dice"] is not None
    rows = list(csv.DictReader((tmp_path / "both" / "compare.csv").read_text().splitlines()))
    assert {row["label"] for row in rows} == {"unet3d", "vnet"} and rows[0]["structure_dice"] != ""


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "unet"}, "model 'unet' takes images, but .* holds volumes: choose one for volumes: vnet"),
        ({"crop": (16, 16)}, r"crop \(16, 16\): .* holds volumes: give \(depth, height, width\)"),
        ({"scale": 0.5}, "scale 0.5: means nothing to volumes"),
    ],
)
def test_settings_that_do_not_fit_volumes(balls: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        api.plan(balls, epochs=1, **settings)


def test_what_is_for_images_only_says_so(run: api.Run, balls: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="crf True: means nothing to this model, which is one of volumes"):
        api.evaluate(run.path, crf=True)
    with pytest.raises(InputError, match="calibrate works with images only"):
        api.calibrate(run.path)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"'\.png' is no volume suffix"):
        api.predict(run.path, tmp_path / "a.png", out=tmp_path / "out")


def test_a_volume_smaller_than_a_patch_is_predicted(run: api.Run, tmp_path: Path) -> None:
    small = nibabel.Nifti1Image(np.random.default_rng(0).integers(0, 200, (3, 4, 2)).astype(np.int16), AFFINES[1])
    nibabel.save(small, tmp_path / "small.nii.gz")
    api.predict(run.path, tmp_path / "small.nii.gz", out=tmp_path / "out")
    assert (
        read_volume(tmp_path / "out" / "small.nii.gz").array.shape == read_volume(tmp_path / "small.nii.gz").array.shape
    )


def test_screens(run: api.Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(run.path)]) == 0
    screen = " ".join(capsys.readouterr().out.split())
    assert "volumes 2 (split test)" in screen and "structure Dice" in screen and "HD95 mm" in screen
