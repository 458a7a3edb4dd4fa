"""Forests through the verbs: trained, evaluated, predicted, compared, reported; refused where they make no sense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import perpixel
from perpixel.apps.cli import main
from perpixel.errors import InputError
from perpixel.files import read_json, write_json
from perpixel.images import write_png
from perpixel.models import FORESTS

SMALL: dict[str, dict[str, Any]] = {
    "pixel_forest": {"trees": 10, "sigmas": [1.0, 2.0]},
    "texton_forest": {"trees": 2, "depth": 4, "patch": 9, "region_trees": 8, "region_depth": 4, "tests": 50},
}
TREES = 10  # of both


def write_cells(folder: Path, *, unknown: bool = False, seed: int = 0) -> Path:
    """Bright discs on a dark, noisy ground; with `unknown` the training masks are scribbles: 0 says nothing."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:64, :80]
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        for number in range(count):
            mask = np.zeros((64, 80), np.uint8)
            for _ in range(4):
                row, col, radius = rng.integers(8, 56), rng.integers(8, 72), rng.integers(5, 10)
                mask[(rows - row) ** 2 + (cols - col) ** 2 < radius**2] = 1
            image = np.clip(60 + 90 * mask + rng.normal(0, 25, mask.shape), 0, 255).astype(np.uint8)
            if unknown:
                mask = mask + 1
                if split == "train":
                    mask[(rows % 16 != 8) | (cols % 3 != 0)] = 0
            write_png(folder / split / "images" / f"{split}{number}.png", image)
            write_png(folder / split / "masks" / f"{split}{number}.png", mask)
    if not unknown:
        write_json(folder / "classes.json", ["ground", "cell"])
    return folder


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cells(tmp_path_factory.mktemp("cells"))


@pytest.mark.parametrize("name", FORESTS)
def test_from_data_to_label_maps(cells: Path, tmp_path: Path, name: str) -> None:
    run = perpixel.train(cells, model=name, options=SMALL[name], out=tmp_path / "run")
    assert run.metrics["miou"] > 0.7
    assert run.metrics["trees"] == TREES
    assert sorted(path.name for path in run.bundle.iterdir()) == [
        "README.md", "config.json", "metrics.json", "model.safetensors",
    ]  # fmt: skip
    assert perpixel.evaluate(run.path).scores["scores"]["miou"] > 0.7

    predictor = perpixel.load(run.path)
    image = cells / "test" / "images" / "test0.png"
    found = predictor.predict(image, probs=True)
    np.testing.assert_allclose(found.probs.sum(0), 1, atol=1e-4)
    done = perpixel.predict(run.path, image, out=tmp_path / "maps")
    assert done.written and (np.array(Image.open(tmp_path / "maps" / "test0.png")) == found.label_map).all()

    page = perpixel.report(run.path).read_text(encoding="utf-8")
    assert "How it was grown" in page and f"{TREES} trees" in page
    assert f"{TREES} trees" in (run.bundle / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FORESTS)
def test_same_seed_same_forest_and_a_finished_run_stays(cells: Path, tmp_path: Path, name: str) -> None:
    settings: dict[str, Any] = {"model": name, "options": SMALL[name], "seed": 3}
    first, second = (perpixel.train(cells, out=tmp_path / word, **settings) for word in ("a", "b"))
    files = [run.bundle / "model.safetensors" for run in (first, second)]
    assert files[0].read_bytes() == files[1].read_bytes()
    other = perpixel.train(cells, out=tmp_path / "c", **{**settings, "seed": 4})
    assert (other.bundle / "model.safetensors").read_bytes() != files[0].read_bytes()

    before = files[0].stat().st_mtime_ns
    assert perpixel.resume(first.path).metrics == first.metrics
    assert files[0].stat().st_mtime_ns == before
    # Killed before its bundle was there: grown anew, to the same bytes.
    (first.bundle / "config.json").unlink()
    files[0].unlink()
    perpixel.resume(first.path)
    assert files[0].read_bytes() == files[1].read_bytes()
    with pytest.raises(InputError, match=f"a {name} is grown in one go"):
        perpixel.resume(first.path, extend="5m")


def test_scribbles_are_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_cells(tmp_path / "data", unknown=True)
    words = [
        "train",
        str(data),
        "--model",
        "pixel_forest",
        "--ignore",
        "0",
        "-O",
        "trees=20",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main([*words, "--json"]) == 0
    printed = capsys.readouterr()
    assert "grown 20 trees in" in printed.err
    assert json.loads(printed.out)["metrics"]["miou"] > 0.8
    assert read_json(tmp_path / "run" / "bundle" / "config.json")["classes"]["ignore_values"] == [0]


def test_at_half_the_scale(cells: Path, tmp_path: Path) -> None:
    run = perpixel.train(cells, model="pixel_forest", options=SMALL["pixel_forest"], scale=0.5, out=tmp_path / "run")
    assert perpixel.load(run.path).config.scale == 0.5
    assert perpixel.evaluate(run.path).scores["scores"]["miou"] > 0.7


def test_beside_a_net(cells: Path, tmp_path: Path) -> None:
    options = {"width": 4, "depth": 2, **{f"pixel_forest.{key}": value for key, value in SMALL["pixel_forest"].items()}}
    made = perpixel.compare(
        cells, models="unet,pixel_forest", epochs=1, options=options, batch_size=2, crop=(32, 32), isolated=False,
        out=tmp_path / "both",
    )  # fmt: skip
    rows = {row["label"]: row for row in made.document["models"]}
    assert rows["pixel_forest"]["state"] == "done" and rows["pixel_forest"]["scores"]["miou"] > 0.7
    assert rows["pixel_forest"]["steps"] is None and rows["unet"]["steps"] == 3
    assert rows["pixel_forest"]["speed"]["ms"] > 0
    page = made.page.read_text(encoding="utf-8")
    assert "pixel_forest" in page and "None" not in page


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss": "dice"}, "loss dice: a pixel_forest is grown, not trained in steps: leave it out"),
        ({"epochs": 3}, "epochs 3: a pixel_forest is grown"),
        ({"learning_rate": 1e-3}, "learning_rate 0.001: a pixel_forest"),
        ({"start_from": "runs/other"}, "start_from runs/other: a pixel_forest"),
        ({"precision": "bf16"}, "precision bf16: a pixel_forest"),
        ({"devices": 2}, "devices 2: a pixel_forest"),
        ({"options": {"width": 4}}, "unknown option 'width' of model 'pixel_forest'"),
    ],
)
def test_settings_of_nets_are_refused(cells: Path, tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        perpixel.train(cells, model="pixel_forest", out=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["describe", "pixel_forest"], "PixelForest is a forest, without the stages of a net"),
        (["explain", "RUN", "IMAGE"], "a pixel_forest has no maps of stages to look into"),
        (["predict", "RUN", "IMAGE", "--out", "OUT", "--tta"], "averaging over mirror images"),
        (["predict", "RUN", "IMAGE", "--out", "OUT", "--samples", "3"], "dropout"),
    ],
)
def test_verbs_that_need_a_net(
    cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    places = {"IMAGE": str(cells / "test" / "images" / "test0.png"), "OUT": str(tmp_path / "out"), "RUN": "run"}
    if "RUN" in words:
        made = perpixel.train(cells, model="pixel_forest", options=SMALL["pixel_forest"], out=tmp_path / "run")
        places["RUN"] = str(made.path)
    assert main([places.get(word, word) for word in words]) == 2
    assert said in capsys.readouterr().err


def test_no_net_starts_from_a_forest(cells: Path, tmp_path: Path) -> None:
    made = perpixel.train(cells, model="pixel_forest", options=SMALL["pixel_forest"], out=tmp_path / "run")
    with pytest.raises(InputError, match="its model is a pixel_forest, which has no weights to start from"):
        perpixel.train(cells, start_from=made.path, out=tmp_path / "other")


def test_one_class_only(tmp_path: Path) -> None:
    data = write_cells(tmp_path / "data")
    for path in data.glob("train/masks/*.png"):
        write_png(path, np.zeros((64, 80), np.uint8))
    with pytest.raises(InputError, match="class"):
        perpixel.train(data, model="pixel_forest", out=tmp_path / "run")
