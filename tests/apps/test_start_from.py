"""Training that starts from trained weights: fine-tuning, FCN in stages, and every way in which two runs do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import perpixel
from perpixel.apps.cli import main
from perpixel.apps.start import RATE_SHARE, Start, compare_data
from perpixel.data.class_file import make_table
from perpixel.data.synthetic import write_demo
from perpixel.errors import InputError
from perpixel.files import write_json
from perpixel.images import Normalisation
from perpixel.inference.bundle import BundleConfig

NET: dict[str, Any] = {"model": "unet", "options": {"width": 4, "depth": 3}}
QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 2, "threads": 1, "precision": "fp32"}
NAMES = {"0": "background", "1": "cell", "2": "mitosis"}
TWO = {"classes": ["background", "cell"], "values": {"0": "background", "1": "cell", "2": "cell"}}
Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_demo(folder / "cells", num_train=4, num_val=2, num_test=2, size=(48, 48))
    return folder / "cells"


@pytest.fixture(scope="module")
def parent(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return perpixel.train(data, out=tmp_path_factory.mktemp("runs") / "parent", scale=0.5, **NET, **QUICK).path


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors" if path.is_dir() else path)


def initial(run: Path) -> dict[str, torch.Tensor]:
    return tensors(run / "checkpoints" / "initial.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def collect(events: Events) -> Callable[[dict[str, Any]], None]:
    return events.append


def phases(events: Events) -> str:
    return "\n".join(event["text"] for event in events if event["kind"] == "phase")


def test_a_run_starts_from_the_weights_and_settings_of_another(data: Path, parent: Path, tmp_path: Path) -> None:
    events: Events = []
    run = perpixel.train(data, start_from=parent, out=tmp_path / "run", on_event=collect(events), **QUICK)
    assert same(initial(run.path), tensors(parent / "bundle"))
    assert not same(tensors(run.bundle), tensors(parent / "bundle"))
    assert f"Starting from the weights of {parent / 'bundle'}" in phases(events)
    plan = {line["setting"]: line for line in json.loads((run.path / "plan.json").read_text())["lines"]}
    before = {line["setting"]: line for line in json.loads((parent / "plan.json").read_text())["lines"]}
    for setting in ("model", "options", "scale"):
        assert plan[setting]["value"] == before[setting]["value"]
        assert plan[setting]["reason"] == "that of 'parent', whose weights it starts from"
    assert plan["learning_rate"]["value"] == before["learning_rate"]["value"] * RATE_SHARE
    record = json.loads((run.bundle / "config.json").read_text())["training"]["start_from"]
    assert record == {"name": "parent", "model": "unet", "is_partial": False}
    assert "from the weights of parent (unet)" in (run.bundle / "README.md").read_text()


def test_what_the_user_gives_stands(data: Path, parent: Path, tmp_path: Path) -> None:
    events: Events = []
    options = {"dropout": 0.3}  # changes no tensor, so the weights fit all the same
    settings = {"model": "unet", "options": options, "scale": 1.0, "learning_rate": 1e-4}
    run = perpixel.train(
        data, start_from=parent / "bundle", out=tmp_path / "run", on_event=collect(events), **settings, **QUICK
    )
    saved = json.loads((run.path / "config.json").read_text())
    assert saved["options"] == {"width": 4, "depth": 3, "dropout": 0.3}
    assert (saved["scale"], saved["learning_rate"]) == (1.0, 1e-4)
    assert "(Note: option dropout is 0.0 there, 0.3 here)" in phases(events)
    assert same(initial(run.path), tensors(parent / "bundle"))


def test_a_net_whose_size_the_plan_would_choose_keeps_its_own(data: Path, parent: Path, tmp_path: Path) -> None:
    """A bundle made elsewhere may list no options; its net is the default one, whatever the plan likes."""
    shutil.copytree(parent / "bundle", tmp_path / "bundle")
    config = json.loads((tmp_path / "bundle" / "config.json").read_text())
    config["model"]["options"] = {}
    write_json(tmp_path / "bundle" / "config.json", config)
    plan = perpixel.plan(data, start_from=tmp_path / "bundle", epochs=1)
    assert plan["options"]["width"] == 64
    assert plan["options"]["weights"] is None


def test_fcn_is_trained_in_stages(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["-O", "backbone=alexnet", "-O", "fc_channels=4", "--scale", "0.5"]
    quick = ["--epochs", "1", "--batch-size", "4", "--precision", "fp32"]
    assert main(["train", str(data), "--model", "fcn32s", *small, *quick, "--out", "a"]) == 0
    assert main(["train", str(data), "--model", "fcn16s", "--start-from", "a", *quick, "--out", "b"]) == 0
    assert main(["train", str(data), "--model", "fcn8s", "--start-from", "b/bundle", *quick, "--out", "c"]) == 0
    assert json.loads(Path("c/config.json").read_text())["options"] == {"backbone": "alexnet", "fc_channels": 4}
    for child, parent, new in (("b", "a", "pool2"), ("c", "b", "pool1")):
        mine, theirs = initial(Path(child)), tensors(Path(parent) / "bundle")
        shared = [name for name in theirs if not name.startswith("upsample.")]
        assert all(torch.equal(mine[name], theirs[name]) for name in shared)
        added = set(mine) - set(theirs)
        assert added == {f"skips.{new}.{name}" for name in ("score.weight", "score.bias", "upsample.weight")}
        assert not mine[f"skips.{new}.score.weight"].any()
        assert any(tensor.any() for name, tensor in theirs.items() if name.startswith("score."))
    assert main(["train", str(data), "--model", "fcn32s", "--start-from", "b", *quick, "--out", "d"]) == 2
    assert not Path("d").exists()


@pytest.mark.parametrize("fate", ["changed", "gone"])
def test_a_resumed_run_does_not_need_the_other(data: Path, parent: Path, tmp_path: Path, fate: str) -> None:
    source = tmp_path / "source"
    shutil.copytree(parent / "bundle", source)
    whole = perpixel.train(data, start_from=source, out=tmp_path / "whole", **QUICK)

    def stop(event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            raise KeyboardInterrupt  # as a kill would: before any checkpoint

    with pytest.raises(KeyboardInterrupt):
        perpixel.train(data, start_from=source, out=tmp_path / "cut", on_event=stop, **QUICK)
    assert not (tmp_path / "cut" / "checkpoints" / "last.safetensors").exists()
    if fate == "gone":
        shutil.rmtree(source)
    else:
        shutil.copy(whole.bundle / "model.safetensors", source / "model.safetensors")
    cut = perpixel.resume(tmp_path / "cut")
    assert same(tensors(cut.bundle), tensors(whole.bundle))
    # From a checkpoint on, not even the copy is needed.
    (cut.path / "checkpoints" / "initial.safetensors").unlink()
    perpixel.resume(cut.path, extend="1")
    (cut.path / "checkpoints" / "last.safetensors").unlink()
    with pytest.raises(InputError, match=r"initial\.safetensors: the weights .* are gone, and it has no checkpoint"):
        perpixel.resume(cut.path)


def test_other_names_of_classes_are_told(data: Path, parent: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "names.json", NAMES)
    events: Events = []
    perpixel.plan(data, start_from=parent, epochs=1, classes=str(tmp_path / "names.json"), on_event=collect(events))
    assert "Note: class 2 was 'dividing' in the training of parent, here it is 'mitosis'" in phases(events)


def test_further_names_are_counted() -> None:
    there, here = (make_table([(name, i) for i, name in enumerate(names)]) for names in ("abc", "xby"))
    norm = Normalisation((0.0,), (1.0,), (0.0,), (1.0,))
    config = BundleConfig("unet", {}, 1, there, norm, 1.0, (64, 64), "fp32")
    events: Events = []
    compare_data(Start(Path("p"), config, False), channels=1, classes=here, on_event=collect(events))
    assert "class 0 was 'a' in the training of p, here it is 'x'" in phases(events)
    assert phases(events).count("Note") == 1 and "; 1 more class has another name" in phases(events)


def test_partial_takes_what_fits(data: Path, parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "two.json", TWO)
    words = ["train", str(data), "--start-from", str(parent), "--classes", str(tmp_path / "two.json"), "--epochs", "1"]
    words += ["--batch-size", "2", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    refusal = capsys.readouterr().err
    assert "it knows 3 classes (background, cell, dividing), the data have 2 (background, cell)" in refusal
    assert "--start-from-partial" in refusal
    assert not (tmp_path / "run").exists()
    assert main([*words, "--start-from-partial"]) == 0
    assert "new are " in capsys.readouterr().err
    mine, theirs = initial(tmp_path / "run"), tensors(parent / "bundle")
    kept = [name for name in mine if mine[name].shape == theirs[name].shape]
    assert 0 < len(mine) - len(kept) <= 2
    assert all(torch.equal(mine[name], theirs[name]) for name in kept)


def test_partial_takes_from_another_architecture(data: Path, parent: Path, tmp_path: Path) -> None:
    settings = {"model": "unet_valid", "options": {"width": 4}, "crop": (36, 36), "scale": 1.0}
    with pytest.raises(InputError, match="its model is 'unet', this one 'unet_valid': give the same model, or give"):
        perpixel.train(data, start_from=parent, out=tmp_path / "run", **settings, **QUICK)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="no tensor fits"):
        patches = {"model": "patch_cnn", "options": {"window": 9, "kernels": [4], "pools": [3], "width": 5}}
        perpixel.train(data, start_from=parent, start_from_partial=True, out=tmp_path / "run", **patches, **QUICK)
    assert not (tmp_path / "run").exists()


def test_other_options_are_named(data: Path, parent: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"option width is 4 there, 6 here, and its tensors do not fit: give the same"):
        perpixel.train(data, start_from=parent, model="unet", options={"width": 6}, out=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run").exists()


def test_images_of_other_channels_are_refused(data: Path, parent: Path, tmp_path: Path) -> None:
    grey = tmp_path / "grey"
    shutil.copytree(data, grey)
    for path in grey.glob("*/images/*.png"):
        Image.open(path).convert("L").save(path)
    for is_partial in (False, True):
        with pytest.raises(InputError, match=r"its images have 3 channel\(s\), these 1: give images of 3"):
            perpixel.train(grey, start_from=parent, start_from_partial=is_partial, out=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start_from": "nowhere"}, r"nowhere: no such folder: give a run or a bundle folder"),
        ({"start_from_partial": True}, r"start_from_partial: there is nothing to take part of"),
        ({"start_from": ".", "options": {"weights": "imagenet"}}, r"start_from '\.' and weights='imagenet' were both"),
        ({"start_from": "unfinished"}, r"unfinished: the run has not finished, so it has no bundle yet"),
        ({"start_from": "empty"}, r"empty: neither a run nor a bundle"),
        ({"start_from": 3}, r"start_from is 3"),
    ],
)
def test_a_start_that_is_none(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unfinished" / "checkpoints").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        perpixel.train(data, out=tmp_path / "run", **settings, **QUICK)
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_keeps_its_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", "r", "--start-from", "s"]) == 2
    assert "--start-from: cannot be given with --resume" in capsys.readouterr().err
