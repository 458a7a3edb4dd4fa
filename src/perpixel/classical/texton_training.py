"""Training of a semantic texton forest: which pixels are used, what is kept in memory, what the time allows.

Images pass by one at a time, three times at most: to count labels, to read the values of the first forest's tests at
the training pixels, and to read those of the second forest's. What stays is one table of values (16 bits each, at most
VALUES_BYTES), from which a forest grows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from perpixel.classical import texton_bags as bagging
from perpixel.classical import texton_prior as priors
from perpixel.classical import texton_regions as regions
from perpixel.classical import texton_splits as splits
from perpixel.classical.texton_growth import Grown, Growth, class_weights, grow_forest, node_probs, search_loop
from perpixel.classical.texton_sampling import LEAST_PIXELS, Load, Sample, Seen, check_labels, draw_pixels, survey

if TYPE_CHECKING:
    from perpixel.classical.texton_forest import TextonForest

VALUES_BYTES = 600 * 2**20
# Images that the image-level prior learns from, at most.
PRIOR_IMAGES = 1000
# Runs of neighbouring images: neighbours are often frames of one film, and would tell on each other.
RUNS = 10
# Seconds on a plain core: the value of a split, that of a region, a training pixel at a test, a pixel in its bags.
_COSTS = {"split": 4e-9, "region": 2e-8, "search": 3e-9, "pixel": 1e-6}

Progress = Callable[[int, int, str], None]


@dataclass
class Clock:
    """Seconds since the start, and a soft limit."""

    limit: float | None
    start: float = field(default_factory=time.perf_counter)

    def spent(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start

    def is_past(self, share: float) -> bool:
        """Whether more than this share of the limit is spent."""
        return self.limit is not None and self.spent() > share * self.limit


class _Steps:
    """Tells `on_progress` how far training is."""

    def __init__(self, total: int, on_progress: Progress | None) -> None:
        self.done, self.total, self.on_progress = 0, total, on_progress

    def __call__(self, what: str) -> None:
        self.done += 1
        if self.on_progress:
            self.on_progress(min(self.done, self.total), self.total, what)


def train(
    forest: TextonForest, load: Load, count: int, ignore_index: int, seed: int, seconds: float | None,
    on_progress: Progress | None,
) -> dict[str, Any]:  # fmt: skip
    """`TextonForest.grow`, on the CPU wherever the forest is."""
    device = forest.alpha.device
    try:
        return _train(forest.cpu(), load, count, ignore_index, seed, Clock(seconds), on_progress)
    finally:
        forest.to(device)


def _train(
    forest: TextonForest, load: Load, count: int, ignore_index: int, seed: int, clock: Clock,
    on_progress: Progress | None,
) -> dict[str, Any]:  # fmt: skip
    s = forest.settings
    with_regions = forest.stages != "textons"
    steps = _Steps((3 if with_regions else 2) * count + s.trees + with_regions * s.region_trees, on_progress)
    seen = survey(
        load, count, forest.num_classes, ignore_index,
        grid=s.grid, seed=seed, is_over=lambda: clock.is_past(0.2), step=steps,
    )  # fmt: skip
    loading = clock.spent()
    check_labels(seen, forest.num_classes)
    tests, pixels = _affordable(forest, seen, loading, clock)
    sample = draw_pixels(seen, forest.num_classes, pixels, seed)
    facts = {
        "trees": s.trees + with_regions * s.region_trees, "images": len(seen), "images_given": count,
        "labelled_pixels": sample.counts.tolist(), "training_pixels": sample.drawn().tolist(), "tests_a_node": tests,
    }  # fmt: skip
    growing = _Growing(forest, load, seen, sample, Growth(s.depth, tests, s.thresholds), seed, clock, steps)
    facts["seconds"] = {"reading": round(loading, 2)}
    facts["textons"] = growing.textons(0.45 if with_regions else 0.95)
    facts["seconds"]["textons"] = round(clock.spent() - loading, 2)
    if with_regions:
        before = clock.spent()
        facts["regions"], facts["prior"] = growing.regions()
        facts["seconds"]["regions"] = round(clock.spent() - before, 2)
    else:
        _forget_regions(forest)
    facts["seconds"]["all"] = round(clock.spent(), 2)
    return facts


def _affordable(forest: TextonForest, seen: list[Seen], loading: float, clock: Clock) -> tuple[int, int]:
    """Tests a node and training pixels that memory and time allow."""
    s = forest.settings
    pixels = min(s.pixels, sum(len(each.labels) for each in seen), VALUES_BYTES // (2 * s.pool))
    if clock.limit is None:
        return s.tests, pixels
    with_regions = forest.stages != "textons"
    slower, threads = _slowness(), torch.get_num_threads()
    passing = loading * (1 + with_regions)
    if with_regions:
        passing += _COSTS["pixel"] * slower * sum(each.size[0] * each.size[1] for each in seen)
    values = s.pool * (_COSTS["split"] + with_regions * _COSTS["region"]) * pixels
    levels = s.trees * s.depth + with_regions * s.region_trees * s.region_depth
    search = _COSTS["search"] * s.tests * s.share * levels * pixels / threads
    left = max(0.9 * clock.limit - clock.spent() - passing, 0.05 * clock.limit)
    scale = min(1.0, left / (slower * (values + search)))
    # Half of the saving from each: all of it would leave one of them useless.
    return max(20, round(s.tests * scale**0.5)), max(LEAST_PIXELS, round(pixels * scale**0.5))


def _slowness() -> float:
    """How much slower than the machine of `_COSTS` this one is at searching."""
    search = search_loop()
    if search is None:
        return 20.0
    random = np.random.default_rng(0)
    arguments = (
        random.integers(0, 1000, (50, 20_000)).astype(np.int16), random.integers(0, 5, 20_000).astype(np.int16),
        np.ones(5), np.arange(20_000, dtype=np.int32),
    )  # fmt: skip
    picks = random.random((50, 5), dtype=np.float32)
    search(*arguments, np.arange(1, dtype=np.int32), picks)  # compiles, which is not to be measured
    begin = time.perf_counter()
    search(*arguments, np.arange(50, dtype=np.int32), picks)
    return max(0.2, (time.perf_counter() - begin) / (_COSTS["search"] * 50 * 20_000))


def _forget_regions(forest: TextonForest) -> None:
    """Empty what an earlier training of all stages may have left."""
    fresh = type(forest)(forest.in_channels, forest.num_classes, stages="textons")
    for name, buffer in fresh.regions.named_buffers():
        setattr(forest.regions, name, buffer)
    for name in ("bag_nodes", "prior_bags", "prior_weights", "prior_constants", "prior_sigmoids", "alpha"):
        setattr(forest, name, getattr(fresh, name))


@dataclass
class _Result:
    """A forest, the leaves of the training pixels tree by tree, class distributions of the nodes, and what to tell.

    left_out: (K, n) answer of the trees that did not see a pixel; zeros where all did.
    """

    grown: Grown
    leaves: list[np.ndarray]
    probs: np.ndarray
    left_out: np.ndarray
    facts: dict[str, Any]


class _Growing:
    """Both forests and the prior, in their order."""

    def __init__(
        self, forest: TextonForest, load: Load, seen: list[Seen], sample: Sample, growth: Growth, seed: int,
        clock: Clock, step: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.forest, self.load, self.seen, self.sample = forest, load, seen, sample
        self.growth, self.seed, self.clock, self.step = growth, seed, clock, step
        # Images pass by in random order; neighbours are those with neighbouring numbers.
        self.runs = np.argsort(np.argsort([each.number for each in seen])) * RUNS // max(len(seen), RUNS)

    def textons(self, until: float) -> dict[str, Any]:
        """Grow the first forest by this share of the time; what to tell of it."""
        forest, s, sample = self.forest, self.forest.settings, self.sample
        random = np.random.default_rng([self.seed, 4])
        drawn = splits.draw_splits(s.pool, forest.in_channels, s.patch, random)
        values, reach, done = np.empty((s.pool, len(sample.labels)), np.int16), s.patch // 2, 0
        for each, own in sample.runs(self.seen):
            if done and self.clock.is_past(until / 2):
                break
            image = torch.from_numpy(np.ascontiguousarray(self.load(each.number)[0], np.float32))
            channels = splits.padded(forest.colours(image), reach).numpy()
            rows, cols = np.divmod(sample.pixels[own], each.size[1])
            values[:, own] = splits.values_at(channels, rows + reach, cols + reach, drawn)
            done = own.stop
            self.step("reading pixels")
        sample = sample.first(done)
        shares = [self._some(done, random) for _ in range(s.trees)]
        made = self._grow(values[:, :done], sample, shares, s.depth, until, "growing textons")
        forest.textons.store(made.grown, drawn, made.probs)
        self._draw_bag_nodes(made, random)
        return made.facts

    def regions(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Grow the second forest and the prior; what to tell of both."""
        forest, s = self.forest, self.forest.settings
        random = np.random.default_rng([self.seed, 5])
        nodes = len(forest.bag_nodes)
        drawn = regions.draw_regions(s.pool, forest.num_classes, nodes, s.cell, s.reach, random)
        shifts = regions.shifts_of(drawn, forest.num_classes, s.cell)
        values = np.empty((s.pool, len(self.sample.labels)), np.int16)
        bags: dict[int, np.ndarray] = {}
        done = 0
        for each, own in self.sample.runs(self.seen):
            if done and self.clock.is_past(0.75):
                break
            leaves = forest.textonise(torch.from_numpy(np.ascontiguousarray(self.load(each.number)[0], np.float32)))
            if forest.stages == "all" and len(bags) < PRIOR_IMAGES:
                bag = bagging.whole_bag(leaves, forest.textons)
                bags[self.sample.places[own.start]] = priors.weighted_bag(bag, forest.textons.depths()).numpy()
            self._read_regions(leaves, own, drawn, shifts, values)
            done = own.stop
            self.step("reading regions")
        sample = self.sample.first(done)
        shares = self._shares(sample, random)
        made = self._grow(values[:, :done], sample, shares, s.region_depth, 0.95, "growing regions")
        forest.regions.store(replace(made.grown, thresholds=_lengthened(made.grown, shifts)), drawn, made.probs)
        return made.facts, self._prior(bags, sample, made.left_out)

    def _read_regions(
        self, leaves: torch.Tensor, own: slice, drawn: np.ndarray, shifts: np.ndarray, values: np.ndarray
    ) -> None:
        _, height, width = leaves.shape
        rows, cols = np.divmod(self.sample.pixels[own], width)
        for part in regions.parts_of(height, width):
            inside = np.flatnonzero((rows >= part[0]) & (rows < part[1]) & (cols >= part[2]) & (cols < part[3]))
            if len(inside):
                bags = self.forest.bags_of(leaves, part)
                found = regions.region_values_at(bags, rows[inside], cols[inside], drawn, shifts)
                values[:, own.start + inside] = found

    def _grow(
        self, values: np.ndarray, sample: Sample, shares: list[np.ndarray], depth: int, until: float, what: str
    ) -> _Result:
        weights = class_weights(sample.counts, sample.drawn(), self.forest.settings.balance)
        grown = grow_forest(
            values, sample.labels, weights, shares, replace(self.growth, depth=depth),
            seed=self.seed, threads=torch.get_num_threads(), is_over=lambda: self.clock.is_past(until),
            on_tree=lambda _: self.step(what),
        )  # fmt: skip
        leaves = [grown.leaves(values, tree) for tree in range(len(shares))]
        left_out = _left_out(grown, leaves, shares, sample.labels, weights)
        facts: dict[str, Any] = {"trees": len(shares), "nodes": len(grown.tests), "pixels": len(sample.labels)}
        known = left_out.sum(0) > 0
        if known.any():
            natural = sample.stands_for()[known]
            right = left_out[:, known].argmax(0) == sample.labels[known]
            facts["left_out_accuracy"] = round(float((natural * right).sum() / natural.sum()), 4)
        return _Result(grown, leaves, node_probs(grown, leaves, sample.labels, weights), left_out, facts)

    def _some(self, count: int, random: np.random.Generator) -> np.ndarray:
        """A random share of the training pixels."""
        return np.sort(random.choice(count, max(1, round(self.forest.settings.share * count)), replace=False))

    def _shares(self, sample: Sample, random: np.random.Generator) -> list[np.ndarray]:
        """The pixels that each tree of the second forest sees.

        With ten images or more a tree sees all pixels of some runs, so that the others can test it.
        """
        s, run_of = self.forest.settings, self.runs[sample.places]
        if len(np.unique(run_of)) < RUNS:
            return [self._some(len(sample.labels), random) for _ in range(s.region_trees)]
        chosen = [random.permutation(RUNS)[: max(1, round(s.share * RUNS))] for _ in range(s.region_trees)]
        return [np.flatnonzero(np.isin(run_of, some)) for some in chosen]

    def _draw_bag_nodes(self, made: _Result, random: np.random.Generator) -> None:
        grown = made.grown
        counts = np.bincount(np.concatenate(made.leaves), minlength=len(grown.tests))
        for node in np.flatnonzero(grown.children[:, 0] != np.arange(len(counts)))[::-1]:
            counts[node] = counts[grown.children[node]].sum()
        is_root = np.isin(np.arange(len(counts)), grown.roots)
        nodes = bagging.draw_bag_nodes(counts, is_root, self.forest.settings.bag_nodes, random)
        self.forest.bag_nodes = torch.from_numpy(nodes.astype(np.int32)).to(self.forest.bag_nodes.device)

    def _prior(self, bags: dict[int, np.ndarray], sample: Sample, left_out: np.ndarray) -> dict[str, Any]:
        """Train the prior, choose its exponent; what to tell of it."""
        forest, classes = self.forest, self.forest.num_classes
        empty = np.zeros(0, np.float32)
        made = priors.Prior(empty.reshape(0, 0), np.zeros((classes, 0)), np.zeros(classes), np.zeros((classes, 2)))
        facts: dict[str, Any] = {"alpha": 0.0, "why": "not asked for"}
        if forest.stages == "all" and len(bags) < priors.LEAST_IMAGES:
            facts["why"] = f"{len(bags)} images: the image-level prior needs {priors.LEAST_IMAGES}"
        elif forest.stages == "all":
            places = np.array(sorted(bags))
            shown = np.stack([self.seen[place].shown for place in places])
            folds = self.runs[places] * priors.FOLDS // RUNS
            made, says = priors.train_prior(np.stack([bags[place] for place in places]), shown, folds)
            row_of = np.full(len(self.seen), -1)
            row_of[places] = np.arange(len(places))
            row = row_of[sample.places]
            used = (row >= 0) & (left_out.sum(0) > 0)
            labels = sample.labels[used]
            natural = sample.stands_for()[used]
            alpha, scores = priors.choose_alpha(left_out[:, used], says[row[used]].T, labels, natural)
            facts = {"alpha": alpha, "mean_iou_by_alpha": scores, "images": len(places)}
            facts["classes_learned"] = int((made.sigmoids[:, 0] > 0).sum())
        arrays = {
            "prior_bags": made.bags, "prior_weights": made.weights, "prior_constants": made.constants,
            "prior_sigmoids": made.sigmoids, "alpha": np.array([facts["alpha"]]),
        }  # fmt: skip
        for name, values in arrays.items():
            tensor = torch.from_numpy(np.ascontiguousarray(values, np.float32))
            setattr(forest, name, tensor.to(getattr(forest, name).device))
        return facts


def _left_out(
    grown: Grown, leaves: list[np.ndarray], shares: list[np.ndarray], labels: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """(K, n) mean answer of the trees that did not see a pixel; zeros where all did."""
    seen = []
    for reached, share in zip(leaves, shares):
        own = np.full(len(labels), -1)
        own[share] = reached[share]
        seen.append(own)
    probs = node_probs(grown, seen, labels, weights)
    total, count = np.zeros((len(labels), len(weights)), np.float32), np.zeros(len(labels))
    for reached, own in zip(leaves, seen):
        out = own < 0
        total[out] += probs[reached[out]]
        count += out
    return (total / np.maximum(count, 1)[:, None]).T


def _lengthened(grown: Grown, shifts: np.ndarray) -> np.ndarray:
    """(N,) thresholds for whole values: v >> s > t, as v > ((t + 1) << s) - 1."""
    shift = shifts[grown.tests]
    return ((grown.thresholds.astype(np.int64) + 1) << shift) - 1
