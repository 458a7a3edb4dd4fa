"""Dense CRF: time, stages, memory and accuracy against a plain single-thread lattice CRF and the definition.

    python benchmarks/crf.py --image photo.jpg
    python benchmarks/crf.py --size 1024x1024 --classes 5 --rounds 3
    python benchmarks/crf.py --size 2048x2048 --classes 5 --rounds 1 --only-ours

The plain form is written as a careful reader of the papers would: both kernels on lattices, one hash table filled by
one thread, an inner loop over the labels, compiled by numba, no threads and no blocking. Printed are the medians of
interleaved rounds on 1 and 2 threads and their ratios, the time of every stage, what each form adds to the resident
memory at its peak (a process of its own each), and the mean absolute difference of marginals: between the forms, and on
a part of the image of 64 x 64 pixels from all pairs of pixels.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

from perpixel.data.synthetic import draw_scene
from perpixel.images import read_image, resize_image
from perpixel.inference.crf import CrfSettings, compiled_form, dense_crf, exact_crf, mean_field
from perpixel.inference.crf.coordinates import Keys, elevation, slice_factor


def scene(path: Path | None, size: tuple[int, int], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8; (K, H, W) float32 smooth probabilities, as a net's of stride 25 would be."""
    given = draw_scene(0, size).image if path is None else np.atleast_3d(read_image(path))[..., :3]
    image = np.ascontiguousarray(resize_image(given, size))
    random = np.random.default_rng(0)
    coarse = random.normal(scale=3, size=(size[0] // 25 + 2, size[1] // 25 + 2, classes)).astype(np.float32)
    logits = resize_image(coarse, size).transpose(2, 0, 1)
    powers = np.exp(logits - logits.max(0))
    return image, np.ascontiguousarray(powers / powers.sum(0))


@numba.njit(cache=True)
def plain_cells(features: np.ndarray, matrix: np.ndarray, strides: np.ndarray, steps: np.ndarray) -> Any:
    """Lattice of (N, d) features: ids and weights (N, d + 1), neighbours (d + 1, 2, M)."""
    count, d = features.shape
    corners = d + 1
    ids, weights = np.empty((count, corners), np.int32), np.empty((count, corners), np.float32)
    room = 1
    while room < 2 * count * corners:
        room *= 2
    keys, points, found = np.empty(room, np.int64), np.full(room, -1, np.int32), np.empty(count * corners, np.int64)
    size = 0
    place, base, rank = np.empty(corners, np.float32), np.empty(corners, np.int64), np.empty(corners, np.int64)
    shares = np.empty(corners + 1, np.float32)
    for pixel in range(count):
        total = 0
        for i in range(corners):
            value = np.float32(0)
            for j in range(d):
                value += matrix[i, j] * features[pixel, j]
            whole = np.floor(value + np.float32(0.5))
            place[i], base[i] = value - whole, np.int64(whole)
            total += base[i]
            rank[i] = 0
        for i in range(corners):
            for j in range(i + 1, corners):
                if place[i] < place[j]:
                    rank[i] += 1
                else:
                    rank[j] += 1
        shares[:] = 0
        for i in range(corners):
            rank[i] += total
            if rank[i] < 0:
                rank[i] += corners
                base[i] += 1
                place[i] -= 1
            elif rank[i] > d:
                rank[i] -= corners
                base[i] -= 1
                place[i] += 1
            shares[d - rank[i]] += place[i]
            shares[corners - rank[i]] -= place[i]
        shares[0] += 1 + shares[corners]
        for k in range(corners):
            key = np.int64(0)
            for i in range(corners):
                key += (base[i] * corners + k - (corners if rank[i] > d - k else 0)) * strides[i]
            at = np.int64(np.uint64(key) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(16)) & (room - 1)
            while points[at] >= 0 and keys[at] != key:
                at = (at + 1) & (room - 1)
            if points[at] < 0:
                points[at], keys[at], found[size] = size, key, key
                size += 1
            ids[pixel, k], weights[pixel, k] = points[at], shares[k]
    neighbours = np.empty((corners, 2, size), np.int32)
    for j in range(corners):
        for side in range(2):
            for point in range(size):
                key = found[point] + (2 * side - 1) * steps[j]
                at = np.int64(np.uint64(key) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(16)) & (room - 1)
                while points[at] >= 0 and keys[at] != key:
                    at = (at + 1) & (room - 1)
                neighbours[j, side, point] = points[at] if points[at] >= 0 else size
    return ids, weights, neighbours


@numba.njit(cache=True, fastmath=True)
def plain_filter(values: np.ndarray, ids: np.ndarray, weights: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """(N, K) -> (N, K): splat, blur, slice."""
    count, labels = values.shape
    corners, size = neighbours.shape[0], neighbours.shape[2]
    table, other = np.zeros((size + 1, labels), np.float32), np.zeros((size + 1, labels), np.float32)
    for pixel in range(count):
        for k in range(corners):
            for label in range(labels):
                table[ids[pixel, k], label] += weights[pixel, k] * values[pixel, label]
    for j in range(corners):
        for point in range(size):
            left, right = neighbours[j, 0, point], neighbours[j, 1, point]
            for label in range(labels):
                other[point, label] = table[point, label] + np.float32(0.5) * (table[left, label] + table[right, label])
        table, other = other, table
    result = np.zeros((count, labels), np.float32)
    for pixel in range(count):
        for k in range(corners):
            for label in range(labels):
                result[pixel, label] += weights[pixel, k] * table[ids[pixel, k], label]
    return result


@numba.njit(cache=True, fastmath=True)
def plain_softmax(logits: np.ndarray) -> np.ndarray:
    result = np.empty_like(logits)
    for pixel in range(len(logits)):
        top = logits[pixel].max()
        total = np.float32(0)
        for label in range(logits.shape[1]):
            result[pixel, label] = np.exp(logits[pixel, label] - top)
            total += result[pixel, label]
        for label in range(logits.shape[1]):
            result[pixel, label] /= total
    return result


class PlainCrf:
    """The CRF by the functions above; `stages` adds up seconds."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}

    def timed(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        began = time.perf_counter()
        result = function(*arguments)
        self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - began
        return result

    def kernel(self, features: np.ndarray) -> tuple[Any, np.ndarray, float]:
        d = features.shape[1]
        keys = Keys.within(features.min(0), features.max(0))
        matrix = (elevation(d) / (d + 1)).astype(np.float32)
        lattice = self.timed("build", plain_cells, features, matrix, keys.strides, keys.steps())
        ones = plain_filter(np.ones((len(features), 1), np.float32), *lattice) * np.float32(slice_factor(d))
        return lattice, 1 / np.sqrt(ones), slice_factor(d)

    def __call__(self, image: np.ndarray, probs: np.ndarray, settings: CrfSettings) -> np.ndarray:
        height, width = image.shape[:2]
        places = np.stack(np.mgrid[:height, :width][::-1], -1).reshape(-1, 2).astype(np.float32)
        colours = image.reshape(-1, 3).astype(np.float32) / np.float32(settings.bilateral_range)
        bilateral = np.concatenate([places / np.float32(settings.bilateral_width), colours], 1)
        kernels = [
            (self.kernel(places / np.float32(settings.spatial_width)), settings.spatial_weight),
            (self.kernel(bilateral), settings.bilateral_weight),
        ]
        unaries = np.log(np.maximum(probs.reshape(len(probs), -1), 1e-5)).T.astype(np.float32, order="C")
        marginals = self.timed("softmax", plain_softmax, unaries)
        for _ in range(settings.iterations):
            logits = unaries.copy()
            for (lattice, root, factor), weight in kernels:
                heard = self.timed("splat, blur, slice", plain_filter, marginals * root, *lattice)
                logits += np.float32(weight * factor) * root * heard
            marginals = self.timed("softmax", plain_softmax, logits)
        return marginals.T.reshape(probs.shape)


def our_stages(image: np.ndarray, probs: np.ndarray, settings: CrfSettings, threads: int) -> dict[str, float]:
    """Seconds of each stage of the compiled form; inside the passes by leaving kernels out."""
    spent: dict[str, float] = {}

    def watch(module: Any, name: str, label: str) -> Callable[[], None]:
        function = getattr(module, name)

        def timed(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments)
            spent[label] = spent.get(label, 0.0) + time.perf_counter() - began
            return result

        setattr(module, name, timed)
        return lambda: setattr(module, name, function)

    undo = [
        watch(compiled_form, "_logits", "check and log"),
        watch(compiled_form, "build_lattice", "build"),
        watch(compiled_form, "filter_ones", "normalise"),
        watch(mean_field, "blur", "blur"),
    ]

    def per_iteration(**changes: float) -> float:
        took = []
        for iterations in (1, settings.iterations + 1):
            arguments = {**settings.to_json(), "iterations": iterations, **changes}
            took.append(median_s(lambda: dense_crf(image, probs, threads=threads, **arguments), 3))  # noqa: B023
        return (took[1] - took[0]) / settings.iterations

    dense_crf(image, probs, threads=threads, **settings.to_json())
    for restore in undo:
        restore()
    neither = per_iteration(bilateral_weight=0.0, spatial_weight=0.0)
    spent["softmax, an iteration"] = neither
    spent["splat, blur, slice, an iteration"] = per_iteration(spatial_weight=0.0) - neither
    spent["grid Gaussian, an iteration"] = per_iteration(bilateral_weight=0.0) - neither
    spent["an iteration"] = per_iteration()
    return spent


def median_s(work: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def added_memory(which: str, image: np.ndarray, probs: np.ndarray, settings: CrfSettings) -> float:
    """MiB by which a call raises the peak of the resident memory, in a process of its own, after a small call."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_measure_memory, args=(which, image, probs, settings, queue))
    process.start()
    result: float = queue.get()
    process.join()
    return result


def _measure_memory(which: str, image: np.ndarray, probs: np.ndarray, settings: CrfSettings, queue: Any) -> None:
    def run(rows: int) -> np.ndarray:
        some, chances = np.ascontiguousarray(image[:rows]), np.ascontiguousarray(probs[:, :rows])
        if which == "plain":
            return PlainCrf()(some, chances, settings)
        return dense_crf(some, chances, threads=2, **settings.to_json())

    run(8)
    before, stop, highest = _resident(), threading.Event(), [0.0]

    def watch() -> None:
        while not stop.wait(0.001):
            highest[0] = max(highest[0], _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    run(image.shape[0])
    stop.set()
    watcher.join()
    queue.put(highest[0] - before)


def _resident() -> float:
    """MiB; the whole process's peak where the system does not tell the present."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", type=Path, help="an image file; a drawn scene where none is given")
    parser.add_argument("--size", default="500x375", help="width x height that it is resized to")
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="the larger number of threads")
    parser.add_argument("--only-ours", action="store_true", help="leave the plain form out")
    options = parser.parse_args()
    width, height = (int(side) for side in options.size.split("x"))
    settings = CrfSettings(iterations=options.iterations)
    image, probs = scene(options.image, (height, width), options.classes)
    print(f"{width} x {height} pixels, {options.classes} labels, {options.iterations} iterations, {settings.to_json()}")

    ours: dict[int, np.ndarray] = {}
    forms: dict[str, Callable[[], Any]] = {}
    plain = PlainCrf()
    began = time.perf_counter()
    dense_crf(image[:8, :8], np.ascontiguousarray(probs[:, :8, :8]))
    print(f"first call: {time.perf_counter() - began:.2f} s (compiling, or reading what was compiled before)")
    if not options.only_ours:
        plain(image[:8, :8], probs[:, :8, :8], settings)
        forms["plain, 1 thread"] = lambda: plain(image, probs, settings)
    for threads in sorted({1, options.threads}):
        ours[threads] = dense_crf(image, probs, threads=threads, **settings.to_json())
        forms[f"ours, {threads} thread(s)"] = lambda threads=threads: dense_crf(
            image, probs, threads=threads, **settings.to_json()
        )
    times: dict[str, list[float]] = {name: [] for name in forms}
    plain.stages.clear()
    for _ in range(options.rounds):
        for name, work in forms.items():
            times[name].append(median_s(work, 1))
    slowest = statistics.median(next(iter(times.values())))
    for name, values in times.items():
        middle = statistics.median(values)
        print(f"{name:>18}: median {middle:.3f} s ({min(values):.3f} to {max(values):.3f}), {slowest / middle:.2f}x")
    if plain.stages:
        stages = ", ".join(f"{name} {1000 * s / options.rounds:.0f}" for name, s in plain.stages.items())
        print(f"plain, ms in all: {stages}")
    for threads in ours:
        stages = ", ".join(f"{name} {1000 * s:.1f}" for name, s in our_stages(image, probs, settings, threads).items())
        print(f"ours on {threads} thread(s), ms: {stages}")
    for which in ["ours"] if options.only_ours else ["plain", "ours"]:
        print(f"peak memory added, {which}: {added_memory(which, image, probs, settings):.0f} MiB")
    report_accuracy(image, probs, settings, ours, options.only_ours)


def report_accuracy(
    image: np.ndarray, probs: np.ndarray, settings: CrfSettings, ours: dict[int, np.ndarray], only_ours: bool
) -> None:
    first, *others = ours.values()
    print(f"same bits on every number of threads: {all((first == other).all() for other in others)}")
    if not only_ours:
        reference = PlainCrf()(image, probs, settings)
        agree = (reference.argmax(0) == first.argmax(0)).mean()
        print(f"ours against plain: mean difference {np.abs(reference - first).mean():.2e}, same label {agree:.4%}")
    top, left = image.shape[0] // 2 - 32, image.shape[1] // 2 - 32
    part = np.ascontiguousarray(image[top : top + 64, left : left + 64])
    chances = np.ascontiguousarray(probs[:, top : top + 64, left : left + 64])
    exact = exact_crf(part, chances, settings)
    forms = {"ours": dense_crf(part, chances, **settings.to_json()), "plain": PlainCrf()(part, chances, settings)}
    for name, got in forms.items():
        agree = (exact.argmax(0) == got.argmax(0)).mean()
        print(
            f"{name} against all pairs, 64 x 64 pixels: mean difference {np.abs(got - exact).mean():.2e}, "
            f"same label {agree:.4%}"
        )


if __name__ == "__main__":
    main()
