"""Objects one by one through the same verbs as label maps: check, plan, train, evaluate, predict, report, compare."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from perpixel.apps import api, cli
from perpixel.apps.compare import compare
from perpixel.errors import InputError
from perpixel.images import read_image

LIGHT = {"width": 8, "depth": 3}
SMALL_RCNN = {"encoder": "resnet18", "channels": 32, "rpn_samples": 32, "box_samples": 32, "train_proposals": 100}


def write_set(root: Path) -> Path:
    """Grey images of 64 x 72 with bright discs that may touch, and 16-bit numbers; train and test have an empty one."""
    rng = np.random.default_rng(5)
    for number in range(10):
        split = "train" if number < 6 else "val" if number < 8 else "test"
        image, label = rng.normal(40, 6, (64, 72)), np.zeros((64, 72), np.uint16)
        rows, cols = np.mgrid[:64, :72]
        for place in range(0 if number in (0, 9) else 6):
            row, col = 12 + 20 * (place // 2) + rng.integers(-2, 3), 16 + 14 * (place % 2) + rng.integers(0, 24)
            inside = (rows - row) ** 2 + (cols - col) ** 2 < rng.integers(36, 64)
            label[inside] = place + 1
            image[inside] = rng.normal(150, 8, int(inside.sum()))
        for folder, array in (("images", image.clip(0, 255).astype(np.uint8)), ("labels", label)):
            (root / split / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / split / folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("objects") / "discs")


@pytest.fixture(scope="module")
def run(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    """Trained until it finds most discs."""
    out = tmp_path_factory.mktemp("runs") / "discs"
    settings: dict[str, Any] = {"crop": (64, 64), "batch_size": 2, "precision": "fp32", "options": LIGHT}
    return api.train(discs, task="instances", model="unet_watershed", epochs=60, out=out, **settings)


@pytest.fixture(scope="module")
def scores(run: api.Run) -> dict[str, Any]:
    return api.evaluate(run.path).scores


def test_the_check_counts_objects(discs: Path, tmp_path: Path) -> None:
    result = api.check(discs, task="instances", out=tmp_path)
    assert result.fingerprint.instances is not None and result.fingerprint.instances.objects >= 25
    assert not result.errors and (tmp_path / "check_sheet.png").is_file()


def test_auto_picks_the_way_by_the_objects(discs: Path) -> None:
    plan = api.plan(discs, task="instances", budget="10m")
    assert plan["model"] == "unet_watershed" and plan["normalisation"]["per_image"]
    assert plan["augmentation"]["quarter_turns"] and plan["crop"][0] % 32 == 0


def test_training_leaves_a_bundle_of_objects(run: api.Run) -> None:
    config = json.loads((run.bundle / "config.json").read_text())
    assert config["task"] == "instances" and "grouping" in config["model"]["options"]
    assert run.metrics["matching_ap50"] > 0.5 and run.metrics["score_name"] == "matching_ap50"
    assert "AP50" in (run.bundle / "README.md").read_text()


def test_scores_of_objects(run: api.Run, scores: dict[str, Any]) -> None:
    assert scores["task"] == "instances" and scores["scores"]["matching_ap50"] > 0.4
    assert scores["num_images"] == 2, "an image without objects counts"
    assert (run.path / "evaluation" / "test" / "per_image.csv").is_file()


def test_predictions(run: api.Run, discs: Path, tmp_path: Path) -> None:
    found = api.predict(run.path, discs / "test" / "images", out=tmp_path / "out")
    assert found.written == ["8", "9"]
    document = json.loads((tmp_path / "out" / "objects.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["8.png", "9.png"]
    with open(tmp_path / "out" / "objects.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = read_image(tmp_path / "out" / "8.png")
    assert len(rows) == len(document["annotations"]) and numbers.max() == sum(row["image"] == "8" for row in rows)
    none = api.predict(run.path, discs / "test" / "images", out=tmp_path / "none", min_score=1.0)
    assert none.written == ["8", "9"] and read_image(tmp_path / "none" / "8.png").max() == 0


def test_the_report(run: api.Run, scores: dict[str, Any]) -> None:
    page = api.report(run.path).read_text()
    assert "Objects of every class" in page and "Precision over recall" in page and "What is taken for what" not in page


def test_a_stopped_run_ends_in_the_same_bits(discs: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "task": "instances", "model": "unet_watershed", "epochs": 2, "options": LIGHT, "precision": "fp32",
        "crop": (32, 32), "batch_size": 2, "checkpoint_every_s": 0,
    }  # fmt: skip
    whole = api.train(discs, out=tmp_path / "whole", **settings)

    def stop(event: dict[str, Any]) -> None:
        if event["kind"] == "checkpoint" and event["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.train(discs, out=tmp_path / "cut", on_event=stop, **settings)
    cut = api.resume(tmp_path / "cut")
    first, second = (load_file(each.bundle / "model.safetensors") for each in (whole, cut))
    assert all(np.array_equal(first[name].numpy(), second[name].numpy()) for name in first)


def test_mask_rcnn_through_the_verbs(discs: Path, tmp_path: Path) -> None:
    made = api.train(discs, model="mask_rcnn", epochs=1, options=SMALL_RCNN, precision="fp32", out=tmp_path / "run")
    config = json.loads((made.bundle / "config.json").read_text())
    assert config["task"] == "instances" and 0 < config["objects"]["min_score"] <= 0.9
    found = api.evaluate(made.path).scores
    assert found["scores"]["mask_ap"] is not None and found["min_score"] == config["objects"]["min_score"]
    assert api.predict(made.path, discs / "test" / "images", out=tmp_path / "out").written == ["8", "9"]


def test_compare(discs: Path, tmp_path: Path) -> None:
    made = compare(
        discs, models=["a=unet_watershed", "b=unet_watershed"], epochs=1, out=tmp_path / "both", isolated=False,
        options={"width": 8, "depth": 3, "b.width": 4},
    )  # fmt: skip
    assert not made.failed, made.document
    page = made.page.read_text()
    assert "mask AP" in page and "pictures" in {path.name for path in made.path.iterdir()}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "unet", "task": "instances"}, "model 'unet' labels pixels, but task is instances: choose mask_rcnn"),
        (
            {"model": "mask_rcnn", "task": "semantic"},
            "model 'mask_rcnn' finds objects one by one, but task is semantic",
        ),
        ({"task": "boxes"}, "unknown task 'boxes'"),
        ({"task": "instances", "loss": "ce"}, "loss ce: means nothing to objects"),
        ({"task": "instances", "crop": (8, 8, 8)}, r"crop \(8, 8, 8\)"),
    ],
)
def test_settings_that_do_not_fit(discs: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        api.plan(discs, epochs=1, **settings)


def test_what_is_for_label_maps_only_says_so(run: api.Run) -> None:
    with pytest.raises(InputError, match="crf True: means nothing to this model, which is one of objects"):
        api.evaluate(run.path, crf=True)
    with pytest.raises(InputError, match="calibrate works with label maps"):
        api.calibrate(run.path)


def test_screens(run: api.Run, discs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(run.path)]) == 0
    screen = " ".join(capsys.readouterr().out.split())
    assert "AP50 = TP/(TP+FP+FN)" in screen and "missed" in screen
    assert cli.main(["plan", str(discs), "--task", "instances", "--epochs", "1"]) == 0
    assert "--task instances" in capsys.readouterr().out
