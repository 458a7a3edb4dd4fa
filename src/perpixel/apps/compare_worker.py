"""The work behind a comparison: train and evaluate one model, or time them all; here, or in a process of its own.

A process of its own gives all memory back when it ends, may be ended by the system without taking the comparison with
it, and can share its model among several devices. It is `python -m perpixel.apps.compare_worker DIR LABEL`: events and
the result leave on standard output, one JSON line each. It ends when its standard input does: with the process that
started it, however that one ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from perpixel.apps.failures import explain
from perpixel.apps.json_output import to_document
from perpixel.files import make_folder

OnEvent = Callable[[dict[str, Any]], None]

# Stands for a label: the last round over all models.
MEASURE = "--measure"
# Exit code of a process that SIGKILL, which Windows does not know, has ended.
KILLED = -9
# Seconds between the polite and the firm request to end.
FIRM_AFTER_S = 20.0
ENDED_BY_SYSTEM = (
    "its process was ended by the system (SIGKILL), as happens when the memory is full: "
    "compare anew, into another folder, with a smaller --batch-size, --crop or --scale"
)


def perform(folder: Path, what: str, on_event: OnEvent, *, lock: int | None) -> dict[str, Any]:
    """Do one piece of work.

    Args:
        what: a label, or MEASURE.
        lock: a descriptor that the process shall inherit and so hold; None works in this process.
    Returns:
        {"state": "done", ...} or {"state": "failed", "reason": one sentence}.
    Raises:
        KeyboardInterrupt: stopped, after saving.
    """
    if lock is not None:
        return _in_process(folder, what, on_event, lock)
    try:
        return do(folder, what, on_event)
    except Exception as error:
        return {"state": "failed", "reason": sentence(error)}


def do(folder: Path, what: str, on_event: OnEvent) -> dict[str, Any]:
    """The work itself."""
    from perpixel.apps import compare_steps as steps

    if what == MEASURE:
        return steps.measure(folder, on_event=on_event)
    return steps.train_and_judge(folder, what, on_event=on_event)


def sentence(error: BaseException) -> str:
    """What went wrong, in one line."""
    text, _ = explain(error)
    return text.removeprefix("error: ").removeprefix("failed: ")


def _in_process(folder: Path, what: str, on_event: OnEvent, lock: int) -> dict[str, Any]:
    printed = make_folder(folder / "results") / f"{what.lstrip('-')}.txt"
    command = [sys.executable, "-m", "perpixel.apps.compare_worker", str(folder), what]
    # A session of its own: Ctrl-C on the terminal reaches this process alone, which passes it on once.
    with (
        open(printed, "wb") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={"GOMP_SPINCOUNT": "20000", **os.environ},
            pass_fds=(lock,) if os.name == "posix" else (),
            start_new_session=True,
        ) as process,
    ):
        try:
            result, stop = _listen(process, on_event)
        finally:
            if process.poll() is None:
                process.kill()
    if stop is not None or (result is None and process.returncode == 130):
        # Also where it was done in the same moment: the next call finds its work done.
        raise KeyboardInterrupt(str(stop or "")) from stop
    if result is None:
        ended = f"its process ended with code {process.returncode}: {printed} holds what it printed"
        result = {"state": "failed", "reason": ENDED_BY_SYSTEM if process.returncode == KILLED else ended}
    if result["state"] != "failed":
        printed.unlink()
    return result


def _listen(process: subprocess.Popen[bytes], on_event: OnEvent) -> tuple[dict[str, Any] | None, BaseException | None]:
    """The result and, if there was one, the interruption."""
    assert process.stdout is not None
    result, stop = None, None
    while True:
        try:
            for line in process.stdout:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # cut off by a kill
                if event["kind"] == "result":
                    result = event["result"]
                elif event["kind"] == "interrupted":
                    stop = KeyboardInterrupt(event["text"])
                else:
                    on_event(event)
            process.wait()
            return result, stop
        except KeyboardInterrupt as error:
            stop = error
            process.terminate()


def main(words: list[str]) -> int:
    """The process: DIR and a label or MEASURE."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # whatever else is printed must not mix with the events

    def tell(event: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # whoever listened has gone: what has been learned is still to be saved
            channel.write(json.dumps(to_document(event)) + "\n")

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        tell({"kind": "result", "result": do(Path(words[0]), words[1], tell)})
    except KeyboardInterrupt as stop:
        tell({"kind": "interrupted", "text": str(stop)})
        return 130
    except Exception as error:
        traceback.print_exc()
        tell({"kind": "result", "result": {"state": "failed", "reason": sentence(error)}})
        return 1
    return 0


def _end_with_parent() -> None:
    """Nothing is ever written to standard input; it ends when the process that started this one has ended."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(FIRM_AFTER_S)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
