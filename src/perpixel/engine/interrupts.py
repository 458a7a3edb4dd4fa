"""Ctrl-C and SIGTERM as a polite request: finish the step, save, then stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Training stopped at a signal, after saving. Its text says how to go on; the command line exits with 130."""


@dataclass
class StopRequest:
    """`name` of the signal that came, or None."""

    name: str | None = None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within the block a first SIGINT or SIGTERM is only noted; a second one interrupts at once.

    Python delivers signals to the main thread only, so elsewhere (a server, a notebook's worker) nothing is changed.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, frame: FrameType | None) -> None:
        if request.name is not None:
            raise KeyboardInterrupt
        request.name = signal.Signals(number).name

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
