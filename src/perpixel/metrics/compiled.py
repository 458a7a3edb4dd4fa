"""Loops compiled by numba where it is there: kept on the disk between runs, safe under many threads and processes.

No threading layer of numba's is used (`parallel=True` starts threads that do not survive a fork): a loop releases the
interpreter, and who wants threads calls it on slices from a thread pool.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


def compile_loop(loop: Callable[..., Any]) -> Callable[..., Any] | None:
    """The compiled form of `loop`; None without numba, or with its compiler switched off.

    A loop must set all that it writes itself: it may be started twice where the cache on the disk fails.
    """
    try:
        import numba
    except ImportError:
        return None
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        return None
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
