"""The demonstration takes every step once, goes on where it stopped, and keeps what is done."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from perpixel.apps.demo import run_demo
from perpixel.errors import InputError


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The API and the generator, replaced by stubs that leave the files by which progress is known."""
    from perpixel.apps import api
    from perpixel.data import synthetic

    made: list[str] = []

    def leave(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")

    def write_demo(root: Path, **settings: Any) -> None:
        made.append("data")
        leave(root / "classes.json")

    def train(data: Path, *, out: Path, **settings: Any) -> None:
        made.append("train")
        leave(out / "bundle" / "config.json")

    def resume(run: Path, **settings: Any) -> None:
        made.append("resume")
        leave(run / "bundle" / "config.json")

    def evaluate(run: Path, data: Path, **settings: Any) -> Any:
        made.append("evaluate")
        return SimpleNamespace(scores={"scores": {"miou": 0.87}})

    monkeypatch.setattr(synthetic, "write_demo", write_demo)
    monkeypatch.setattr(api, "train", train)
    monkeypatch.setattr(api, "resume", resume)
    monkeypatch.setattr(api, "evaluate", evaluate)
    monkeypatch.setattr(api, "predict", lambda *a, **k: made.append("predict"))
    monkeypatch.setattr(api, "report", lambda *a, **k: made.append("report"))
    return made


def test_every_step_once_and_a_second_call_does_nothing(calls: list[str], tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    first = run_demo(tmp_path / "demo", on_event=events.append)
    assert calls == ["data", "train", "evaluate", "predict", "report"]
    assert first.is_new and first.miou == 0.87 and first.report == tmp_path / "demo" / "runs" / "cells" / "report.html"
    assert [event["text"] for event in events if event["kind"] == "phase"][-1] == "writing the report"
    second = run_demo(tmp_path / "demo")
    assert len(calls) == 5 and not second.is_new and second.miou == 0.87


def test_an_interrupted_training_is_resumed(calls: list[str], tmp_path: Path) -> None:
    (tmp_path / "runs" / "cells").mkdir(parents=True)
    (tmp_path / "runs" / "cells" / "config.json").write_text("{}")
    run_demo(tmp_path)
    assert calls == ["data", "resume", "evaluate", "predict", "report"]


def test_other_settings_in_the_same_folder_are_refused(calls: list[str], tmp_path: Path) -> None:
    run_demo(tmp_path, budget="20s")
    with pytest.raises(InputError, match=r"other settings is here .*'20s'.* give another --out, or remove it"):
        run_demo(tmp_path, budget="30s")
