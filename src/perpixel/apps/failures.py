"""How a command ends badly: one line that says why, an exit code, and no traceback.

Exit codes: 1 failed, 2 wrong input or usage, 130 interrupted.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from perpixel.apps.wording import one_line
from perpixel.errors import InputError

# Failures that explain themselves in one line. By name, since importing their classes would import torch.
EXPLAINED_FAILURES = ("NonFiniteLossError",)
MEMORY_FAILURES = ("MemoryError", "OutOfMemoryError")
NO_MEMORY = "can't allocate memory"  # what torch's plain RuntimeError says where a CPU has none left
USAGE_ERROR = typer.BadParameter.__bases__[0]  # click's UsageError, wherever this typer keeps click


class StoppedByUser(Exception):
    """Ctrl-C or SIGTERM ended the command; the text says what was saved and how to go on."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block SIGTERM ends the command as Ctrl-C does, and both leave as StoppedByUser.

    Typer would swallow the text of a KeyboardInterrupt. Signals reach the main thread only.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler) if is_main else None
    try:
        yield
    except KeyboardInterrupt as stop:
        raise StoppedByUser(str(stop) or "interrupted") from stop
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)


def explain(error: BaseException) -> tuple[str, int]:
    """One line about `error` for the user, and the exit code."""
    text = one_line(error)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, InputError):
        return f"error: {text}", 2
    if isinstance(error, USAGE_ERROR):
        return f"error: {one_line(error.format_message())} (perpixel --help shows the options)", 2  # type: ignore[attr-defined]
    if isinstance(error, StoppedByUser | KeyboardInterrupt | typer.Abort):
        return text or "interrupted", 130
    if kinds.intersection(EXPLAINED_FAILURES):
        return f"failed: {text}", 1
    if kinds.intersection(MEMORY_FAILURES) or NO_MEMORY in text:
        return f"failed: out of memory ({text[:200]}): use a smaller --batch-size, --crop or --scale", 1
    advice = "this is a fault of perpixel: run it again with --debug and report what it prints"
    return f"internal failure ({type(error).__name__}: {text}): {advice}", 1
