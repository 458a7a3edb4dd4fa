"""Search the weights and widths of the fully connected CRF of a bundle on its validation images.

Chen et al. ("DeepLab", ICLR 2015) fix the smoothness kernel at weight 3 and width 3 and search the appearance kernel on
a hundred validation images. Here the search starts at the published settings and improves one number at a time; the
smoothness kernel is searched as well.

The gain that is reported is cross-fitted: the images are split into halves, for each half the settings are taken that
are best on the other, and both are scored together. The best of many settings on one set of images always looks better
than it is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from perpixel.data import Dataset
from perpixel.engine.evaluate import check_classes, image_groups
from perpixel.errors import InputError
from perpixel.files import read_json, write_json
from perpixel.inference.bundle import read_bundle_config
from perpixel.inference.crf import PRESETS, CrfSettings, dense_crf
from perpixel.inference.predictor import Predictor
from perpixel.inference.refine import both_classes, crf_image
from perpixel.metrics import bootstrap_sums, confusion_matrix
from perpixel.metrics.scores import miou

# What each number is tried at, in the order of the search; the papers' ranges and what lies around them.
GRID: dict[str, tuple[float, ...]] = {
    "bilateral_range": (3.0, 5.0, 8.0, 13.0, 20.0),
    "bilateral_weight": (1.0, 2.0, 4.0, 7.0, 10.0),
    "bilateral_width": (30.0, 50.0, 65.0, 80.0, 100.0),
    "spatial_weight": (0.0, 1.0, 3.0, 6.0),
    "spatial_width": (1.0, 2.0, 3.0, 5.0),
}
ROUNDS = 2

OnStep = Callable[[int, int, str], None]


@dataclass(frozen=True)
class CrfTuning:
    """What the search found.

    Attributes:
        helps: the whole interval of the gain is above 0.
        settings: the best on all images, stored in the bundle where it helps.
        miou_before: of the net alone; miou_after: cross-fitted; gain: their difference, with its 95 % interval.
        tried: settings and mIoU on all images of each candidate, in the order of the search.
    """

    helps: bool
    settings: CrfSettings
    split: str
    images: int
    miou_before: float
    miou_after: float
    gain: float
    interval: tuple[float, float]
    tried: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "settings": self.settings.to_json(), "interval": list(self.interval)}


def tune_crf(
    predictor: Predictor,
    folder: Path,
    dataset: Dataset,
    split: str = "val",
    *,
    images: int = 100,
    iterations: int = 10,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> CrfTuning:
    """Search, and write what helps into the bundle's config.json; what does not help leaves none there.

    Args:
        predictor: of this bundle.
        folder: the bundle. Its metrics.json gets the whole result.
        split: images that were not trained on, and that the scores to report are not taken from.
        images: at most so many of them, chosen at random.
        iterations: of the mean field.
        seed: of the choice and of the bootstrap.
        on_step: called with (done, total, what) of predictions, then of settings; the total of these is a bound.
    Raises:
        InputError: classes differ, or fewer than two images with a label.
    """
    check_classes(predictor.config.classes, dataset)
    if images < 2:
        raise InputError(f"images is {images}: give 2 or more")
    with tempfile.TemporaryDirectory() as scratch:
        bench = _Bench(predictor, dataset, split, images, seed, Path(scratch), on_step)
        before = bench.without()
        best, scores = _search(bench, CrfSettings(iterations=iterations), on_step)
    result = _judge(best, before, scores, bench, split, seed)
    metrics = read_json(folder / "metrics.json") if (folder / "metrics.json").is_file() else {}
    write_json(folder / "metrics.json", {**metrics, "crf": result.to_json()})
    config = replace(read_bundle_config(folder), crf=result.settings if result.helps else None)
    write_json(folder / "config.json", config.to_json())
    return result


class _Bench:
    """Images, targets and the net's probabilities (half precision, on the disk), to try settings on."""

    def __init__(
        self,
        predictor: Predictor,
        dataset: Dataset,
        split: str,
        images: int,
        seed: int,
        scratch: Path,
        on_step: OnStep | None,
    ) -> None:
        self.predictor, self.dataset, self.scratch = predictor, dataset, scratch
        samples = dataset.split(split)
        order = np.random.default_rng(seed).permutation(len(samples))[:images]
        self.samples = [samples[i] for i in sorted(order)]
        self.groups = image_groups(self.samples)
        self._net: list[np.ndarray] = []
        for number, sample in enumerate(self.samples):
            image, target = dataset.load(sample)
            probs = predictor.predict(image, probs=True).probs
            assert probs is not None
            np.save(scratch / f"{number}.npy", both_classes(probs).astype(np.float16))
            self._net.append(self._count(both_classes(probs).argmax(0), target))
            if on_step:
                on_step(number + 1, len(self.samples), f"predict {sample.name}")
        if sum(matrix.any() for matrix in self._net) < 2:
            raise InputError(f"{dataset.root}: split '{split}' has fewer than two labelled images: tune on another one")

    def without(self) -> np.ndarray:
        """(N, K, K) counts of the net alone."""
        return np.stack(self._net)

    def with_crf(self, settings: CrfSettings) -> np.ndarray:
        """(N, K, K) counts under these settings."""
        found = []
        for number, sample in enumerate(self.samples):
            image, target = self.dataset.load(sample)
            probs = np.load(self.scratch / f"{number}.npy").astype(np.float32)
            pixels = crf_image(self.predictor.as_image(image), self.predictor.normalisation)
            found.append(self._count(dense_crf(pixels, probs, **settings.to_json()).argmax(0), target))
        return np.stack(found)

    def _count(self, pred: np.ndarray, target: np.ndarray) -> np.ndarray:
        classes = self.dataset.classes
        return confusion_matrix(pred, target, num_classes=classes.num_classes, ignore_index=classes.ignore_index)


def _search(
    bench: _Bench, base: CrfSettings, on_step: OnStep | None
) -> tuple[CrfSettings, dict[CrfSettings, np.ndarray]]:
    """The best settings by mIoU over all images, and the counts of all that were tried."""
    scores: dict[CrfSettings, np.ndarray] = {}
    most = len(PRESETS) + ROUNDS * sum(len(values) for values in GRID.values())

    def score(settings: CrfSettings) -> float:
        if settings not in scores:
            scores[settings] = bench.with_crf(settings)
            if on_step:
                on_step(len(scores), most, "try settings")
        return float(miou(scores[settings].sum(0)))

    best = max((replace(base, **preset) for preset in PRESETS.values()), key=score)
    for _ in range(ROUNDS):
        start = best
        for name in GRID:
            best = max([best, *_variants(best, name)], key=score)
        if best == start:
            break
    return best, scores


def _variants(settings: CrfSettings, name: str) -> Iterator[CrfSettings]:
    for value in GRID[name]:
        if value != getattr(settings, name):
            yield replace(settings, **{name: value})  # type: ignore[arg-type]


def _judge(
    best: CrfSettings,
    before: np.ndarray,
    scores: dict[CrfSettings, np.ndarray],
    bench: _Bench,
    split: str,
    seed: int,
) -> CrfTuning:
    after = _cross_fitted(before, list(scores.values()))

    def gain(sums: np.ndarray) -> np.ndarray:
        return miou(sums[:, 1]) - miou(sums[:, 0])

    both = np.stack([before, after], axis=1)  # (N, 2, K, K)
    low, high = bootstrap_sums(both, {"gain": gain}, seed=seed, groups=bench.groups)["gain"]
    without, with_crf = float(miou(before.sum(0))), float(miou(after.sum(0)))
    tried = ({"settings": each.to_json(), "miou": float(miou(counts.sum(0)))} for each, counts in scores.items())
    return CrfTuning(
        helps=bool(low > 0),
        settings=best,
        split=split,
        images=len(before),
        miou_before=without,
        miou_after=with_crf,
        gain=with_crf - without,
        interval=(float(low), float(high)),
        tried=tuple(tried),
    )


def _cross_fitted(before: np.ndarray, candidates: list[np.ndarray]) -> np.ndarray:
    """(N, K, K) counts of each half of the images under what is best on the other half, the net alone included."""
    halves = np.arange(len(before)) % 2 == 0
    result = np.empty_like(before)
    for half in (halves, ~halves):
        scores = [np.nan_to_num(miou(counts[~half].sum(0))) for counts in (before, *candidates)]
        result[half] = (before, *candidates)[int(np.argmax(scores))][half]
    return result
