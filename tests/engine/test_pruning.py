"""A U-Net++ trained with deep supervision, used at a level: through Python, the command line and the benchmark."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

import perpixel
from perpixel.apps import api
from perpixel.apps.cli import main
from perpixel.errors import InputError
from perpixel.inference.bundle import load_bundle
from perpixel.inference.files import fingerprint

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "pruning.py"
OPTIONS = {"width": 4, "dropout": 0.1, "norm": True, "deep_supervision": True}


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    return api.train(shapes, model="unet_plus_plus", options=OPTIONS, epochs=4, batch_size=2, threads=1, out=out).path


def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_pruning", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_the_loaded_part_is_bitwise_the_head_of_the_whole(run: Path, level: int) -> None:
    whole, _ = load_bundle(run)
    part, config = load_bundle(run, prune_level=level)
    image = torch.randn(1, config.channels, 37, 45, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(part(image), whole.head_logits(image)[level - 1])
    assert sum(each.numel() for each in part.parameters()) <= sum(each.numel() for each in whole.parameters())
    assert (config.options["prune_level"], config.options["deep_supervision"]) == (level, False)


def test_results_of_two_levels_are_told_apart(run: Path) -> None:
    loaded = [perpixel.load(run, device="cpu", prune_level=level) for level in (None, 1, 2, 4)]
    prints = {fingerprint(p.model, p.config, p.precision) for p in loaded}
    assert len(prints) == 4


def test_the_command_line_takes_a_level(run: Path, shapes: Path, tmp_path: Path, capsys) -> None:
    images, out = str(shapes / "test" / "images"), str(tmp_path / "out")
    assert main(["predict", str(run), images, "--out", out, "--prune-level", "2", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["written"]) == 4
    assert main(["predict", str(run), images, "--out", out, "--json"]) == 2
    assert "predictions of another model or other settings" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--prune-level", "2", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert Path(scores["path"]) == run / "evaluation" / "test-L2"
    assert not (run / "evaluation" / "test").exists()
    expected = np.asarray(api.evaluate(run, prune_level=2, out=tmp_path / "again").scores["confusion"])
    assert np.array_equal(scores["confusion"], expected)


def test_what_cannot_be_pruned_is_refused(run: Path, shapes: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(InputError, match="prune_level=5 of unet_plus_plus: choose 1 to 4"):
        perpixel.load(run, prune_level=5)
    one_head = {**OPTIONS, "deep_supervision": False}
    settings = {"epochs": 1, "batch_size": 2, "threads": 1}
    plain = api.train(shapes, model="unet_plus_plus", options=one_head, out=tmp_path / "plain", **settings).path
    with pytest.raises(InputError, match="prune level 2: this unet_plus_plus was trained without deep supervision"):
        perpixel.load(plain, prune_level=2)
    unet = api.train(shapes, model="unet", options={"width": 2, "depth": 2}, out=tmp_path / "unet", **settings).path
    assert main(["predict", str(unet), str(shapes), "--out", str(tmp_path / "out"), "--prune-level", "2"]) == 2
    assert "prune level 2: 'unet' cannot be pruned, only unet_plus_plus: leave it out" in capsys.readouterr().err


def test_the_benchmark_prints_a_row_a_level(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    script = benchmark()
    rows = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["pruning.py", str(run), "--rounds", "2", "--size", "48x40", "--json", str(rows)])
    script.main()
    printed = capsys.readouterr().out
    values = json.loads(rows.read_text())
    assert [row["level"] for row in values] == ["L1", "L2", "L3", "L4", "mean of heads"]
    assert all(f"| {row['level']} | {row['parameters']:,} |" in printed for row in values)
    for name in ("parameters", "multiply_adds"):
        assert [row[name] for row in values] == sorted(row[name] for row in values)
    assert all(row["milliseconds"] > 0 and 0 <= row["miou"] <= 1 for row in values)
    level2 = api.evaluate(run, prune_level=2, out=tmp_path / "scores").scores["scores"]["miou"]
    assert values[1]["miou"] == pytest.approx(level2)


def test_medians_are_of_interleaved_rounds_without_the_first(monkeypatch) -> None:
    script = benchmark()
    ticks = iter([0, 9, 0, 8, 0, 1, 0, 5, 0, 3, 0, 6, 0, 2, 0, 7])
    monkeypatch.setattr(script.time, "perf_counter", lambda: next(ticks))

    class Fake:
        config = SimpleNamespace(channels=1)

        def predict(self, image: np.ndarray) -> None:
            assert image.shape == (4, 6, 1)

    assert script.milliseconds({"a": Fake(), "b": Fake()}, (4, 6), rounds=3) == {"a": 2000, "b": 6000}
