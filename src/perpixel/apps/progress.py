"""Events of a running command, shown as they happen: bars on a terminal, plain lines elsewhere.

An event is a dict with a "kind" (start, step, validation, resume, replan, stop, end, phase, progress);
training writes the same dicts to log.jsonl. Everything goes to standard error, so that standard output carries
results only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from perpixel.apps.failures import interruptible
from perpixel.apps.screens import make_console
from perpixel.apps.wording import (
    MAIN_SCORES,
    format_count,
    format_duration,
    format_large,
    format_rate,
    format_score,
    is_number,
    main_score,
    printable,
)

# What a validation tells beside its main score: the first of these that there is.
FURTHER_SCORES = (("pixel_accuracy", "pixel accuracy"), ("mask_ap", "mask AP"), ("f1_50", "F1 at IoU 0.5"))
LINE_EVERY_S = 10.0

Event = Mapping[str, Any]


class ProgressPrinter:
    """Call it with events; use it as a context manager so that bars end cleanly.

    Args:
        console: where to print (standard error).
        bars: live bars; otherwise one line at most every `every_s` seconds, and one per phase or validation.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        console: Console,
        *,
        bars: bool,
        every_s: float = LINE_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console
        self.every_s = every_s
        self.clock = clock
        self.total_steps = 0
        self.live_score: float | None = None
        self.score_title = MAIN_SCORES["miou"]
        self.live_loss: float | None = None
        self._line_due = clock() + every_s
        self._step_times: list[tuple[int, float]] = []
        self._bars = _make_bars(console) if bars else None
        self._task: TaskID | None = None
        self._task_name = ""

    def __enter__(self) -> ProgressPrinter:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_bar()
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Show one event. Kinds that it does not know are passed over: a log may come from a newer version."""
        handler = HANDLERS.get(str(event.get("kind")))
        if handler is not None:
            handler(self, event)

    # One handler per kind of event.

    def on_phase(self, event: Event) -> None:
        self._end_bar()
        self._line(f"{event.get('text', '')}", style="bold")

    def on_progress(self, event: Event) -> None:
        done, total = int(event.get("done", 0)), int(event.get("total", 0))
        text = printable(event.get("text", ""))
        if self._bars is not None:
            self._move_bar("files", done, total, text)
        elif self._is_line_due():
            self._line(f"{format_count(done)} of {format_count(total)}  {text}")
        if total and done >= total:
            self._end_bar()

    def on_start(self, event: Event) -> None:
        self.total_steps = int(event.get("total_steps", 0))
        self.live_score = self.live_loss = None  # of another run before this one, perhaps
        self._step_times.clear()
        parts = [f"training for {format_count(self.total_steps)} steps"]
        if is_number(event.get("parameters")):
            parts.append(f"{format_large(event['parameters'])} parameters")
        self._line(", ".join(parts))

    def on_step(self, event: Event) -> None:
        step = int(event.get("step", 0))
        self.total_steps = int(event.get("total_steps", self.total_steps))
        # On a GPU the loss is read only now and then, since reading it waits for the device.
        self.live_loss = event["loss"] if is_number(event.get("loss")) else self.live_loss
        self._step_times = [*self._step_times[-50:], (step, self.clock())]
        if self._bars is not None:
            self._move_bar("training", step, self.total_steps, self._step_text(event))
        elif self._is_line_due():
            share = f" ({100 * step / self.total_steps:.0f} %)" if self.total_steps else ""
            self._line(f"step {step}/{self.total_steps or '?'}{share}  {self._step_text(event)}")

    def on_validation(self, event: Event) -> None:
        key, self.score_title = main_score(event)
        score = event.get(key)
        self.live_score = score if is_number(score) else None
        best = "  best so far" if event.get("is_best") else ""
        at = f" at step {event['step']}" if self.total_steps else ""
        further = [(name, title) for name, title in FURTHER_SCORES if name in event and name != key]
        told = "".join(f"  {title} {format_score(event[name])}" for name, title in further[:1])
        self._line(
            f"validation{at}: {self.score_title} {format_score(score)}{told}"
            f"  ({format_duration(event.get('seconds'))}){best}",
            style="green" if best else "",
        )

    def on_resume(self, event: Event) -> None:
        self.total_steps = int(event.get("total_steps", self.total_steps))
        self._step_times.clear()
        self._line(f"resumed after step {event.get('step', '?')} of {self.total_steps or '?'}")

    def on_replan(self, event: Event) -> None:
        self.total_steps = int(event.get("total_steps", self.total_steps))
        self._line(f"plan changed to {self.total_steps} steps: {event.get('reason', '')}", style="yellow")

    def on_stop(self, event: Event) -> None:
        self._end_bar()
        self._line(f"stopped at step {event.get('step', '?')}: {event.get('reason', '')}", style="yellow")

    def on_end(self, event: Event) -> None:
        self._end_bar()
        made = f"grown {event['trees']} trees" if "trees" in event else f"trained {event.get('step', '?')} steps"
        self._line(
            f"{made} in {format_duration(event.get('seconds'))}"
            f", best validation {self.score_title} {format_score(event.get('score'))}"
        )

    # What the handlers share.

    def _step_text(self, event: Event) -> str:
        parts = [f"loss {format_score(self.live_loss)}"]
        if self.live_score is not None:
            parts.append(f"{self.score_title} {format_score(self.live_score)}")
        if is_number(event.get("images_per_s")):
            parts.append(f"{format_rate(event['images_per_s'])} images/s")
        left = self._seconds_left(event)
        if left is not None:
            parts.append(f"{format_duration(left)} left")
        return "  ".join(parts)

    def _seconds_left(self, event: Event) -> float | None:
        """Of the budget where there is one; else from the pace of the last steps, None until there are three."""
        if is_number(event.get("remaining_s")):
            return float(event["remaining_s"])
        if len(self._step_times) < 3 or not self.total_steps:
            return None
        (first, begun), (last, now) = self._step_times[0], self._step_times[-1]
        return (self.total_steps - last) * (now - begun) / max(1, last - first)

    def _is_line_due(self) -> bool:
        if self.clock() < self._line_due:
            return False
        self._line_due = self.clock() + self.every_s
        return True

    def _line(self, text: str, style: str = "") -> None:
        self.console.print(Text(printable(text), style=style), soft_wrap=True)

    def _move_bar(self, name: str, done: int, total: int, text: str) -> None:
        assert self._bars is not None
        if self._task is None or self._task_name != name:
            self._end_bar()
            self._task, self._task_name = self._bars.add_task(name, total=total or None, text=""), name
        self._bars.update(self._task, completed=done, total=total or None, text=text)

    def _end_bar(self) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None


class _Count(ProgressColumn):
    """'120/400' in the width of its widest form, so that the bar does not jump."""

    def render(self, task: Task) -> Text:
        total = int(task.total) if task.total else 0
        return Text(f"{int(task.completed):>{len(str(total))}}/{total or '?'}", style="cyan")


class _Note(ProgressColumn):
    """The task's text, cut from the left: the end of a file name tells more than its beginning."""

    def render(self, task: Task) -> Text:
        text = str(task.fields.get("text", ""))
        return Text(text if len(text) <= 64 else "…" + text[-63:])


def _make_bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        _Count(),
        _Note(),
        console=console,
        transient=True,
        refresh_per_second=5,
    )


HANDLERS: dict[str, Callable[[ProgressPrinter, Event], None]] = {
    "phase": ProgressPrinter.on_phase,
    "progress": ProgressPrinter.on_progress,
    "start": ProgressPrinter.on_start,
    "step": ProgressPrinter.on_step,
    "validation": ProgressPrinter.on_validation,
    "resume": ProgressPrinter.on_resume,
    "replan": ProgressPrinter.on_replan,
    "stop": ProgressPrinter.on_stop,
    "end": ProgressPrinter.on_end,
}


@contextmanager
def progress_events() -> Iterator[ProgressPrinter]:
    """Events on standard error while an interruptible piece of work runs."""
    bars = sys.stdout.isatty() and sys.stderr.isatty()
    with ProgressPrinter(make_console(sys.stderr), bars=bars) as on_event, interruptible():
        yield on_event
