"""Map a function over files with threads: decoding releases the interpreter lock, so threads are enough."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_workers() -> int:
    """As many threads as this process may use cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def map_threads(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """Yield `function(item)` in the order of `items`.

    No more than four results per worker wait to be taken, so memory does not grow with the number of items.
    An exception of `function` reaches the caller at the item's turn.
    """
    workers = workers or default_workers()
    if workers == 1:
        yield from map(function, items)
        return
    rest = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(function, item) for item in islice(rest, 4 * workers)]
        try:
            while waiting:
                result = waiting.pop(0).result()
                waiting.extend(pool.submit(function, item) for item in islice(rest, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()
