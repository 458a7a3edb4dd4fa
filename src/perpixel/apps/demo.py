"""The demonstration: drawn cells in, then every step that a user takes, with the user's own functions.

OUT/data/          the data set
OUT/run/           the run: bundle, evaluation, report.html
OUT/predictions/   label maps and overlays of the test images
OUT/demo.json      written last: a second call finds everything done
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perpixel.errors import InputError
from perpixel.files import make_folder, read_json, write_json

OnEvent = Callable[[dict[str, Any]], None]

DATA, RUN = Path("cells"), Path("runs", "cells")
BUDGET = "100s"  # with data, evaluation and report this ends within three minutes on two CPU cores


@dataclass(frozen=True)
class Demo:
    """Where everything of the demonstration lies, and how good it is."""

    data: Path
    run: Path
    predictions: Path
    report: Path
    miou: float
    is_new: bool  # False when an earlier call had made all of it


def run_demo(out: str | Path, *, budget: str = BUDGET, seed: int = 0, on_event: OnEvent | None = None) -> Demo:
    """Generate, train, evaluate, predict and report; what an earlier call has done is kept.

    Raises:
        InputError: `out` cannot be written, or holds a demonstration of another budget or seed.
    """
    folder = make_folder(out)
    tell = on_event or (lambda event: None)
    settings = {"budget": budget, "seed": seed}
    _refuse_other(folder, settings)
    if (folder / "demo.json").is_file():
        return _demo(folder, read_json(folder / "demo.json"), is_new=False)
    write_json(folder / "settings.json", settings)
    _make_data(folder / DATA, seed, tell)
    _train(folder, budget, seed, tell)
    result = _judge(folder, tell)
    write_json(folder / "demo.json", result)
    return _demo(folder, result, is_new=True)


def _refuse_other(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / "settings.json"
    if path.is_file() and (before := read_json(path)) != settings:
        raise InputError(
            f"{folder}: a demonstration with other settings is here ({before}): give another --out, or remove it"
        )


def _demo(folder: Path, result: dict[str, Any], *, is_new: bool) -> Demo:
    run = folder / RUN
    return Demo(folder / DATA, run, folder / "predictions", run / "report.html", float(result["miou"]), is_new)


def _make_data(data: Path, seed: int, tell: OnEvent) -> None:
    from perpixel.data import synthetic

    if (data / "classes.json").is_file():  # the generator writes it last
        return
    tell({"kind": "phase", "text": f"drawing the demonstration data set in {data}"})
    synthetic.write_demo(
        data,
        seed=seed,
        on_progress=lambda done, total, name: tell({"kind": "progress", "done": done, "total": total, "text": name}),
    )


def _train(folder: Path, budget: str, seed: int, tell: OnEvent) -> None:
    from perpixel.apps import api

    run = folder / RUN
    if (run / "bundle" / "config.json").is_file():
        return
    if (run / "config.json").is_file():
        tell({"kind": "phase", "text": f"continuing the interrupted training in {run}"})
        api.resume(run, on_event=on_event(tell))
    else:
        tell({"kind": "phase", "text": f"training for {budget} into {run}"})
        api.train(folder / DATA, budget=budget, seed=seed, out=run, on_event=on_event(tell))


def _judge(folder: Path, tell: OnEvent) -> dict[str, Any]:
    from perpixel.apps import api

    data, run = folder / DATA, folder / RUN
    tell({"kind": "phase", "text": "evaluating on the test images"})
    evaluation = api.evaluate(run, data, split="test", on_event=on_event(tell))
    tell({"kind": "phase", "text": "predicting the test images"})
    api.predict(run, [data / "test" / "images"], out=folder / "predictions", on_event=on_event(tell))
    tell({"kind": "phase", "text": "writing the report"})
    api.report(run)
    return {"miou": evaluation.scores["scores"]["miou"]}


def on_event(tell: OnEvent) -> OnEvent:
    """`tell`, without the phases of the single steps: the demonstration names its own."""
    return lambda event: None if event.get("kind") == "phase" else tell(event)
