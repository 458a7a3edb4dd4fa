"""Work is shared out among threads and comes back in order."""

from __future__ import annotations

import threading
import time

import pytest

from perpixel.compiled import Workers, can_compile


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_are_in_order(threads: int) -> None:
    def task(number: int) -> int:
        time.sleep(0.001 * (5 - number))
        return number * number

    with Workers(threads) as workers:
        assert workers.run(task, 5) == [0, 1, 4, 9, 16]
        assert workers.run(task, 0) == []


def test_several_threads_take_part() -> None:
    meeting = threading.Barrier(2, timeout=10)  # one thread alone would wait here for ever
    with Workers(2) as workers:
        workers.run(lambda _: meeting.wait(), 2)


def test_an_error_in_any_thread_is_raised() -> None:
    def task(number: int) -> None:
        time.sleep(0.002)
        if number == 3:
            raise ValueError("three")

    for threads in (1, 3):
        with Workers(threads) as workers, pytest.raises(ValueError, match="three"):
            workers.run(task, 6)


def test_switched_off_by_numba_s_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "0")
    assert can_compile()
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert not can_compile()
