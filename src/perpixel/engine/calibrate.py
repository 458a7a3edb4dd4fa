"""Temperature scaling of a bundle: one number chosen on the validation images, kept in the bundle's config.json."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from perpixel.data import Dataset
from perpixel.engine.evaluate import check_classes
from perpixel.errors import InputError
from perpixel.files import read_json, write_json
from perpixel.inference.bundle import read_bundle_config
from perpixel.inference.predictor import Predictor
from perpixel.metrics import calibration_counts, calibration_scores, fit_temperature

# One number is fitted: this many pixels, spread over all images, settle it to the third digit.
MAX_PIXELS = 200_000
MAX_NUMBERS = 8_000_000
_TINIEST = 1e-30  # probabilities that underflowed to 0

OnImage = Callable[[int, int, str], None]


@dataclass(frozen=True)
class TemperatureResult:
    """What calibration found. `nll` is the mean negative log-likelihood (nats a pixel), `ece` the expected calibration
    error; before is at temperature 1, both on the pixels that the temperature was fitted to."""

    temperature: float
    split: str
    images: int
    pixels: int
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def calibrate_bundle(
    predictor: Predictor,
    folder: Path,
    dataset: Dataset,
    split: str = "val",
    *,
    seed: int = 0,
    on_image: OnImage | None = None,
) -> TemperatureResult:
    """Fit the temperature on a split, and write it into the bundle's config.json and metrics.json.

    A temperature that the bundle has already is replaced, not added to.

    Args:
        predictor: of this bundle.
        folder: the bundle.
        split: images that were not trained on, and that the scores to report are not taken from.
        seed: of the choice of pixels.
        on_image: called with (done, total, name).
    Raises:
        InputError: classes differ, the split is empty or has no labelled pixel.
    """
    check_classes(predictor.config.classes, dataset)
    plain = Predictor(
        predictor.model,
        replace(predictor.config, temperature=1.0),
        device=predictor.device,
        precision=predictor.precision,
    )
    scores, target, images = _collect(plain, dataset, split, seed, on_image)
    fit = fit_temperature(scores, target)
    result = TemperatureResult(
        temperature=round(fit.temperature, 4),
        split=split,
        images=images,
        pixels=fit.pixels,
        nll_before=fit.nll_before,
        nll_after=fit.nll_after,
        ece_before=_ece(scores, target),
        ece_after=_ece(scores / fit.temperature, target),
    )
    metrics = read_json(folder / "metrics.json") if (folder / "metrics.json").is_file() else {}
    write_json(folder / "metrics.json", {**metrics, "calibration": result.to_json()})
    config = replace(read_bundle_config(folder), temperature=result.temperature)
    write_json(folder / "config.json", config.to_json())
    return result


def _collect(
    predictor: Predictor, dataset: Dataset, split: str, seed: int, on_image: OnImage | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """(N, K) log-probabilities and (N,) classes of randomly chosen labelled pixels, and the number of images.

    Where windows overlap these are logarithms of blended probabilities; elsewhere logits up to a constant.
    """
    samples = dataset.split(split)
    most = max(1, min(MAX_PIXELS, MAX_NUMBERS // dataset.classes.num_classes) // len(samples))
    parts, truths = [], []
    for done, sample in enumerate(samples):
        image, target = dataset.load(sample)
        probs = predictor.predict(image, probs=True).probs
        assert probs is not None
        places = np.flatnonzero(target.ravel() != dataset.classes.ignore_index)
        if len(places) > most:
            places = np.random.default_rng((seed, done)).choice(places, most, replace=False)
        if len(probs) == 1:  # a single logit: class 1 against class 0
            probs = np.concatenate([1 - probs, probs])
        parts.append(probs.reshape(len(probs), -1)[:, places].T)
        truths.append(target.ravel()[places])
        if on_image:
            on_image(done + 1, len(samples), sample.name)
    chances, truth = np.concatenate(parts), np.concatenate(truths)
    if not len(truth):
        raise InputError(f"{dataset.root}: split '{split}' has no labelled pixel: calibrate on another one")
    return np.log(np.maximum(chances, _TINIEST)), truth.astype(np.int64), len(samples)


def _ece(scores: np.ndarray, target: np.ndarray) -> float:
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    return calibration_scores(calibration_counts(chances.max(axis=1), chances.argmax(axis=1), target)).ece
