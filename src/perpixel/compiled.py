"""Loops compiled by numba where it is there: kept on the disk between runs, safe under many threads and processes.

No threading layer of numba's is used: its workqueue ends the process when two threads call it at once, its OpenMP one
does not survive a fork. The loops release the interpreter, so plain threads do, and each piece of work is the same
whatever thread takes it: results do not depend on the number of threads.

Numba looks only at the file of a function, not at those that it calls, when it decides whether the machine code that it
has kept is still right. Whoever changes a file whose functions are compiled into those of others
(`inference/crf/vectors.py`) removes the `__pycache__` folders.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from types import TracebackType
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def can_compile() -> bool:
    """Whether numba is there and its compiler is not switched off."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"


def compiled(function: Function) -> Function:
    """`function` compiled by numba, free of the interpreter's lock, kept on disk where a folder for it can be found."""
    import numba

    settings: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp"}}
    try:
        result: Function = numba.njit(cache=True, **settings)(function)
    except RuntimeError:  # no folder in which a cache could be kept
        result = numba.njit(**settings)(function)
    return result


def compile_loop(loop: Callable[..., Any]) -> Callable[..., Any] | None:
    """The compiled form of `loop`; None where nothing can be compiled.

    A loop must set all that it writes itself: it may be started twice where the cache on the disk fails.
    """
    if not can_compile():
        return None
    import numba

    uncached: Callable[..., Any] = numba.njit(nogil=True)(loop)
    try:
        cached: Callable[..., Any] = numba.njit(nogil=True, cache=True)(loop)
    except RuntimeError:  # no folder in which a cache could be kept
        return uncached

    def run(*arguments: Any) -> Any:
        try:
            return cached(*arguments)
        except OSError:  # the cache folder went away, or is full: compiling anew always works
            return uncached(*arguments)

    return run


def usable_cores() -> int:
    """Cores that this process may run on: fewer than the machine has where it was given a part of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


class Workers:
    """A few threads for the length of a `with` block; the calling thread is one of them."""

    def __init__(self, threads: int) -> None:
        self.threads = max(1, threads)
        self._pool = ThreadPoolExecutor(self.threads - 1) if self.threads > 1 else None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run(self, task: Callable[[int], Any], tasks: int) -> list[Any]:
        """[task(0), ..., task(tasks - 1)]; a thread that has finished one takes the next."""
        results: list[Any] = [None] * tasks
        numbers = count()

        def take() -> None:
            while (number := next(numbers)) < tasks:
                results[number] = task(number)

        helpers = [self._pool.submit(take) for _ in range(min(self.threads, tasks) - 1)] if self._pool else []
        try:
            take()
        finally:
            for helper in helpers:
                helper.result()
        return results
