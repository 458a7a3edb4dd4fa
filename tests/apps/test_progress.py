from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from perpixel.apps.progress import ProgressPrinter


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def play(events: list[dict[str, Any]], *, seconds_each: float = 1.0, bars: bool = False) -> str:
    clock, text = Clock(), io.StringIO()
    console = Console(file=text, width=120, force_terminal=bars, highlight=False, markup=False)
    with ProgressPrinter(console, bars=bars, clock=clock) as on_event:
        for event in events:
            clock.now += seconds_each
            on_event(event)
    return text.getvalue()


def steps(count: int, total: int) -> list[dict[str, Any]]:
    return [
        {"kind": "step", "step": i + 1, "total_steps": total, "loss": 0.5, "images_per_s": 6.4} for i in range(count)
    ]


def test_without_a_terminal_there_is_a_line_every_ten_seconds() -> None:
    lines = play([{"kind": "start", "total_steps": 100}, *steps(60, 100)]).splitlines()
    assert lines[0] == "training for 100 steps"
    assert len(lines) == 1 + 6
    assert lines[1] == "step 9/100 (9 %)  loss 0.500  6.4 images/s  1 min 31 s left"
    assert not any("\x1b" in line or "━" in line for line in lines)


def test_validation_shows_in_a_line_of_its_own_and_in_the_steps_after_it() -> None:
    validation = {
        "kind": "validation",
        "step": 9,
        "miou": 0.531,
        "pixel_accuracy": 0.8,
        "seconds": 4.2,
        "is_best": True,
    }
    text = play([*steps(9, 20), validation, *steps(11, 20)])
    assert "validation at step 9: mIoU 0.531  pixel accuracy 0.800  (4.2 s)  best so far" in text
    assert "loss 0.500  mIoU 0.531" in text


def test_loss_that_is_not_read_keeps_the_last_one() -> None:
    unread = {**steps(1, 9)[0], "loss": None}
    assert "loss 0.500" in play([*steps(3, 9), unread], seconds_each=6)


def test_every_kind_of_event_is_told() -> None:
    text = play(
        [
            {"kind": "phase", "text": "Checking the data"},
            {"kind": "resume", "step": 40, "total_steps": 100},
            {"kind": "replan", "step": 50, "total_steps": 80, "reason": "a step takes 2.0 s"},
            {"kind": "stop", "step": 60, "reason": "SIGTERM"},
            {"kind": "end", "step": 80, "score": 0.61, "seconds": 575},
            {"kind": "checkpoint", "step": 80},
            {"kind": "something newer"},
        ]
    )
    assert text.splitlines() == [
        "Checking the data",
        "resumed after step 40 of 100",
        "plan changed to 80 steps: a step takes 2.0 s",
        "stopped at step 60: SIGTERM",
        "trained 80 steps in 9 min 35 s, best validation mIoU 0.610",
    ]


def test_files_are_named_and_cannot_steer_the_terminal() -> None:
    text = play([{"kind": "progress", "done": 1, "total": 3, "text": "a\x1b[2Jb.png"}], seconds_each=11)
    assert text == "1 of 3  a\\x1b[2Jb.png\n"


def test_bars_on_a_terminal() -> None:
    files = [{"kind": "progress", "done": i, "total": 3, "text": f"file{i}.png"} for i in range(1, 4)]
    text = play([*files, *steps(5, 9)], bars=True)
    assert "training" in text and "\x1b" in text
