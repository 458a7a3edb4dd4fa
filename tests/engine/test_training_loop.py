"""The training loop: resumes to the same bits, keeps its budget, and never saves what is not finite."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from perpixel.apps import api, training
from perpixel.data.batches import TrainingCrops
from perpixel.engine.fit import Fit, NonFiniteLossError
from perpixel.engine.interrupts import Interrupted
from perpixel.engine.schedules import Leg, Legs
from perpixel.errors import InputError
from perpixel.losses import CrossEntropy


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "bundle" / "model.safetensors")


def assert_same_bits(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    last = [load_file(run / "checkpoints" / "last.safetensors") for run in (one, other)]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_same_seed_same_weights_other_seed_others(shapes: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        api.train(shapes, epochs=2, out=tmp_path / name, seed=seed, **tiny)
    assert_same_bits(tmp_path / "a", tmp_path / "b")
    a, c = weights(tmp_path / "a"), weights(tmp_path / "c")
    assert any(not torch.equal(a[name], c[name]) for name in a)


@pytest.mark.parametrize("stop_at", [1, 4, 8])
def test_resume_after_a_signal_ends_in_the_same_bits(
    shapes: Path, tiny: dict[str, Any], tmp_path: Path, stop_at: int
) -> None:
    api.train(shapes, epochs=3, out=tmp_path / "whole", **tiny)

    def interrupt(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=rf"stopped by SIGTERM after step {stop_at} of 9.*--resume"):
        api.train(shapes, epochs=3, out=tmp_path / "cut", on_event=interrupt, **tiny)
    api.resume(tmp_path / "cut")
    assert_same_bits(tmp_path / "whole", tmp_path / "cut")
    steps = [event["step"] for event in log(tmp_path / "cut") if event["kind"] == "step"]
    assert steps == list(range(1, 10))


def test_resume_follows_legs_and_decisions(
    shapes: Path, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half the scale first, and longer than planned: decided at step 3, known to the run that is resumed at step 1."""
    planned = Legs([Leg(0, 4, 0.0, "planned", until=0.5, shrink=2), Leg(4, 9, 0.5, "planned")])
    monkeypatch.setattr(training, "plan_legs", lambda plan: planned)
    monkeypatch.setattr(Fit, "_is_first_look", lambda self: self.progress.step == 3)

    def replan(self: Fit, clock: Any) -> None:
        if self.progress.step == 3 and not self.legs.is_decided_after(2):
            self.legs = self.legs.replanned(3, 3, "faster")
            self.folder.write_legs(self.legs)

    monkeypatch.setattr(Fit, "_replan", replan)
    sides = []
    draw = TrainingCrops.__getitem__

    def watched(self: TrainingCrops, key: tuple[int, int]) -> Any:
        drawn = draw(self, key)
        sides.append(drawn[1].shape[0])
        return drawn

    monkeypatch.setattr(TrainingCrops, "__getitem__", watched)
    api.train(shapes, epochs=3, out=tmp_path / "whole", **tiny)
    assert sides == [20] * 2 * 6 + [40] * 2 * 8
    for stop_at in (1, 5, 6, 10):

        def interrupt(event: dict[str, Any], stop_at: int = stop_at) -> None:
            if event["kind"] == "step" and event["step"] == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

        cut = tmp_path / f"cut{stop_at}"
        with pytest.raises(Interrupted):
            api.train(shapes, epochs=3, out=cut, on_event=interrupt, **tiny)
        (cut / "legs.json").write_bytes((tmp_path / "whole" / "legs.json").read_bytes())
        api.resume(cut)
        assert_same_bits(tmp_path / "whole", cut)


def test_resume_of_a_finished_run_changes_nothing(shapes: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    api.train(shapes, epochs=1, out=tmp_path / "run", **tiny)
    before = (tmp_path / "run" / "bundle" / "model.safetensors").read_bytes()
    api.resume(tmp_path / "run")
    assert (tmp_path / "run" / "bundle" / "model.safetensors").read_bytes() == before


def test_extend_goes_on_from_the_end(shapes: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    api.train(shapes, epochs=1, out=tmp_path / "run", **tiny)
    api.resume(tmp_path / "run", extend="2")
    steps = [event for event in log(tmp_path / "run") if event["kind"] == "step"]
    assert [event["step"] for event in steps] == list(range(1, 10))
    legs = json.loads((tmp_path / "run" / "legs.json").read_text())["legs"]
    assert [(leg["start"], leg["end"]) for leg in legs] == [(0, 3), (3, 9)]
    with pytest.raises(InputError, match=r"budget 'soon' is not a duration"):
        api.resume(tmp_path / "run", extend="soon")


def test_budget_is_kept(shapes: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    began = time.perf_counter()
    api.train(shapes, budget="8s", out=tmp_path / "run", **{**tiny, "options": {"width": 4, "depth": 3}})
    seconds = time.perf_counter() - began
    # Generous at the top: the last validation and the bundle of a loaded machine.
    assert 3 < seconds < 16
    assert log(tmp_path / "run")[-1]["kind"] == "end"


def test_non_finite_loss_names_step_and_files(
    shapes: Path, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(100))
    plain = CrossEntropy.forward

    def broken(self: CrossEntropy, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss = plain(self, logits, target)
        return loss * float("nan") if next(calls) == 4 else loss

    monkeypatch.setattr(CrossEntropy, "forward", broken)
    run = tmp_path / "run"
    with pytest.raises(NonFiniteLossError, match=r"step 4: loss nan.*files: train/images/train\d|step 4: loss nan"):
        api.train(shapes, epochs=3, out=run, loss="ce", checkpoint_every_s=0, **tiny)
    stopped = log(run)[-1]
    assert stopped["kind"] == "stop" and stopped["step"] == 4 and len(stopped["names"]) == 2
    kept = load_file(run / "checkpoints" / "last.safetensors")
    assert all(torch.isfinite(value).all() for value in kept.values())
    monkeypatch.setattr(CrossEntropy, "forward", plain)
    api.resume(run)
    assert (run / "bundle" / "config.json").is_file()


def test_early_stop(shapes: Path, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from perpixel.engine.semantic import SemanticTask

    monkeypatch.setattr(
        SemanticTask,
        "validate",
        lambda self, model: {
            "score": 0.5 - 0.01 * next(counter),
            "miou": 0.5,
            "pixel_accuracy": 0.5,
            "mean_dice": 0.5,
            "iou": [0.5] * 3,
        },
    )
    counter = iter(range(100))
    api.train(shapes, epochs=20, out=tmp_path / "run", patience=1, **tiny)
    stop = next(event for event in log(tmp_path / "run") if event["kind"] == "stop")
    assert stop["reason"] == "no better validation in 1: stopped early"


def test_learns_four_images(shapes: Path, tmp_path: Path) -> None:
    api.train(
        shapes,
        epochs=60,
        out=tmp_path / "run",
        model="unet",
        options={"width": 8, "depth": 3},
        batch_size=2,
        learning_rate=5e-3,
    )
    scores = api.evaluate(tmp_path / "run", split="train").scores["scores"]
    assert scores["miou"] > 0.9


def test_a_run_folder_is_not_overwritten(shapes: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    api.train(shapes, epochs=1, out=tmp_path / "run", **tiny)
    with pytest.raises(InputError, match=r"run: a run is here already: continue it with --resume"):
        api.train(shapes, epochs=1, out=tmp_path / "run", **tiny)


@pytest.mark.slow
def test_kill_nine_at_random_moments_ends_in_the_same_bits(shapes: Path, tmp_path: Path) -> None:
    """Real processes, killed without warning; see also benchmarks/kill_resume.py for twenty of them."""
    options = ["--model", "unet", "-O", "width=4", "-O", "depth=3", "--batch-size", "2", "--epochs", "12"]

    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "perpixel.apps.cli", *arguments]

    subprocess.run(command("train", str(shapes), "--out", str(tmp_path / "whole"), *options), check=True)
    rng = random.Random(0)
    process = subprocess.Popen(command("train", str(shapes), "--out", str(tmp_path / "cut"), *options))
    while not (tmp_path / "cut" / "config.json").exists():
        time.sleep(0.05)
    for _ in range(3):
        time.sleep(rng.uniform(0.1, 2.0))
        process.kill()
        process.wait()
        process = subprocess.Popen(command("train", "--resume", str(tmp_path / "cut")))
    assert process.wait() == 0
    assert_same_bits(tmp_path / "whole", tmp_path / "cut")


def test_log_has_the_share_of_time_spent_on_data(shapes: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    api.train(shapes, epochs=2, out=tmp_path / "run", **tiny)
    steps = [event for event in log(tmp_path / "run") if event["kind"] == "step"]
    assert all(0 < event["data_s"] < event["step_s"] for event in steps)
    assert np.isfinite([event["loss"] for event in steps]).all()
