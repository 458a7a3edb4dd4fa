"""The CRF on a CPU: arrays laid out for the compiled loops, kernels built and normalised, mean field run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from perpixel.compiled import Workers, compiled
from perpixel.inference.crf.coordinates import Keys, origin, slice_factor
from perpixel.inference.crf.lattice import build_lattice, filter_ones
from perpixel.inference.crf.mean_field import GridGaussian, LatticeGaussian, filtered_ones, gaussian_taps, mean_field
from perpixel.inference.crf.settings import LEAST, SUM_TOLERANCE, CrfSettings, refuse_probs
from perpixel.inference.crf.vectors import LANES, OUTPUTS, log_row

# Pixels of one part, about: small enough that several threads share an image, large enough that parts share few points.
_PART = 1 << 14
_PARTS = 64
# Pixels whose probabilities are turned at a time, so that they stay in the cache.
_BLOCK = 64
# Logits of the labels that pad a row.
_NEVER = -1e30


def refine(
    image: np.ndarray,
    probs: np.ndarray,
    settings: CrfSettings,
    threads: int,
    on_step: Callable[[int, np.ndarray], None] | None,
) -> np.ndarray:
    """`dense_crf` of checked arrays."""
    shape = grid_shape(probs.shape[1:])
    edges = part_edges(shape)
    with Workers(min(threads, len(edges) - 1)) as workers:
        logits = _logits(probs, edges, workers)
        grid, kernel = None, None
        if settings.spatial_weight and settings.iterations:
            grid = _grid_kernel(shape, settings, probs.ndim - 1)
        if settings.bilateral_weight and settings.iterations:
            kernel = _lattice_kernel(image, edges, settings, workers)

        def step(iteration: int, marginals: np.ndarray) -> None:
            if on_step:
                on_step(iteration, marginals.reshape(probs.shape))

        result = mean_field(
            logits, shape, len(probs), edges, settings.iterations, grid, kernel,
            _mixing(settings, len(logits) // len(probs[0].reshape(-1))), workers, step if on_step else None,
        )  # fmt: skip
    return result.reshape(probs.shape)


def grid_shape(spatial: tuple[int, ...]) -> tuple[int, int, int]:
    """(depth, height, width); the rows of a 2-D image become slabs of height 1."""
    first, *middle, last = spatial
    return first, *(middle or [1]), last  # type: ignore[return-value]


def part_edges(shape: tuple[int, int, int]) -> np.ndarray:
    """(parts + 1,) int64: parts of whole slabs, by the shape alone, in steps that the filters like."""
    slab = shape[1] * shape[2]
    wanted = min(_PARTS, max(1, shape[0] * slab // _PART))
    slabs = -(-shape[0] // wanted)
    slabs = -(-slabs // OUTPUTS) * OUTPUTS
    return np.minimum(np.arange(0, shape[0] + slabs, slabs), shape[0]).astype(np.int64) * slab


def _logits(probs: np.ndarray, edges: np.ndarray, workers: Workers) -> np.ndarray:
    """Log probabilities, flat (N * width,): pixel by pixel, padded with labels that never win.

    Raises:
        InputError: NaN, negative or not normalised.
    """
    flat = np.ascontiguousarray(probs.reshape(len(probs), -1), np.float32)
    width = -(-len(flat) // LANES) * LANES
    logits = np.empty(flat.shape[1] * width, np.float32)
    bad = workers.run(lambda i: _take_logs(flat, logits, width, edges[i], edges[i + 1]), len(edges) - 1)
    if max(bad) >= 0:
        refuse_probs(probs, min(pixel for pixel in bad if pixel >= 0))
    return logits


@compiled
def _take_logs(probs, logits, width, begin, end):  # type: ignore[no-untyped-def]
    """Rows of logits for the pixels begin..end of (K, N); the first pixel without probabilities, or -1."""
    labels, tolerance = len(probs), np.float32(SUM_TOLERANCE)
    for first in range(begin, end, _BLOCK):
        stop = min(first + _BLOCK, end)
        for label in range(labels):
            for x in range(first, stop):
                logits[x * width + label] = probs[label, x]
        for x in range(first, stop):
            start = x * width
            total, lowest = np.float32(0), np.float32(0)
            for label in range(labels):
                total += logits[start + label]
                lowest = min(lowest, logits[start + label])
            if not abs(total - np.float32(1)) <= tolerance or lowest < 0:
                return x
            log_row(logits, start, np.float32(LEAST), width)
            for k in range(start + labels, start + width):
                logits[k] = np.float32(_NEVER)
    return -1


def _mixing(settings: CrfSettings, width: int) -> np.ndarray | None:
    """Minus the compatibility, padded to (width * width,); None for Potts."""
    if settings.compatibility is None:
        return None
    matrix = np.array(settings.compatibility, np.float32)
    padding = (0, width - len(matrix))
    # Row l' of what is added for label l: the cost of l beside l'.
    return -np.pad(matrix.T, (padding, padding)).reshape(-1)


def _grid_kernel(shape: tuple[int, int, int], settings: CrfSettings, axes: int) -> GridGaussian:
    own = settings.per_axis("spatial_width", axes)
    widths = (own[0], *([1.0] if axes == 2 else own[1:2]), own[-1])
    made = [gaussian_taps(width, side) for width, side in zip(widths, shape)]
    ones = [filtered_ones(width, side).astype(np.float32) for width, side in zip(widths, shape)]
    sums = (ones[0][:, None, None] * ones[1][:, None] * ones[2]).reshape(-1)
    before, after = _factors(sums, settings.spatial_weight, settings.normalisation)
    return GridGaussian(before, after, tuple(taps for taps, _ in made), tuple(radius for _, radius in made))  # type: ignore[arg-type]


def _lattice_kernel(image: np.ndarray, edges: np.ndarray, settings: CrfSettings, workers: Workers) -> LatticeGaussian:
    spatial, channels = image.shape[:-1], image.shape[-1]
    widths = settings.per_axis("bilateral_width", len(spatial))
    ranges = settings.per_axis("bilateral_range", channels)
    values = image.reshape(-1, channels)
    lowest, highest = value_range(values)

    def features(begin: int, end: int) -> np.ndarray:
        return pixel_features(values, spatial, begin, end, widths, ranges, lowest)

    low = origin(len(spatial) + channels)
    high = low + np.concatenate([((np.array(spatial) - 1) / widths)[::-1], (highest - lowest) / ranges])
    lattice = build_lattice(features, Keys.within(low, high), edges, workers)
    factor = np.float32(slice_factor(len(high)))
    sums = filter_ones(lattice, int(edges[-1]), edges, workers) * factor
    before, after = _factors(sums, settings.bilateral_weight, settings.normalisation)
    return LatticeGaussian(before, after * factor, lattice)


def value_range(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(C,) float64 bounds of (N, C) values: 0..255 where all lie in there, so that 8-bit images need no look."""
    channels = values.shape[1]
    if values.dtype == np.uint8 or (values.min() >= 0 and values.max() <= 255):
        return np.zeros(channels), np.full(channels, 255.0)
    return values.min(0).astype(np.float64), values.max(0).astype(np.float64)


def pixel_features(
    values: np.ndarray,
    spatial: tuple[int, ...],
    begin: int,
    end: int,
    widths: np.ndarray,
    ranges: np.ndarray,
    lowest: np.ndarray,
) -> np.ndarray:
    """(axes + C, end - begin) float32: positions and values of some pixels, in widths of the bilateral kernel."""
    features = np.empty((len(widths) + len(ranges), end - begin), np.float32)
    start = origin(len(features))
    rest, size = np.arange(begin, end), 1
    # x, y, (z): in the order of the authors' library, so that the lattice lies as it does there.
    for i, axis in enumerate(reversed(range(len(spatial)))):
        features[i] = (rest // size % spatial[axis]) / widths[axis] + start[i]
        size *= spatial[axis]
    for channel, row in enumerate(features[len(spatial) :]):
        # Values far from 0 would cost precision: only differences count.
        np.subtract(values[begin:end, channel], lowest[channel], out=row, casting="unsafe")
        row *= np.float32(1 / ranges[channel])
        row += np.float32(start[len(spatial) + channel])
    return features


def _factors(sums: np.ndarray, weight: float, normalisation: str) -> tuple[np.ndarray, np.ndarray]:
    """(N,) float32 factors before and after a kernel whose filter makes `sums` of ones."""
    if normalisation == "symmetric":
        root = 1 / np.sqrt(sums)
        return root, root * np.float32(weight)
    before, after = np.ones_like(sums), np.full_like(sums, weight)
    if normalisation == "before":
        before /= sums
    elif normalisation == "after":
        after /= sums
    return before, after
