"""What a net makes of one image on its way to the labels: scores, maps of its stages, what a pixel sees, its doubts.

Everything is measured on one view of the image, in fp32, in one piece and at the working size, so that every picture
lies on every other. The parts have files of their own: `score_maps`, `coarse_to_fine`, `stage_maps`, `influence`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.inference.coarse_to_fine import Rung, coarse_to_fine, frames
from perpixel.inference.influence import Influence, influence_on
from perpixel.inference.predictor import Predictor, run_model
from perpixel.inference.sampling import sampling
from perpixel.inference.score_maps import ScoreMap, score_maps, side_outputs
from perpixel.inference.sliding import entropy
from perpixel.inference.stage_maps import StageMaps, follow_stages

# Longest side that the net sees of a view: a pass back through it keeps the maps of all layers at once.
MAX_WORKING_SIDE = 640

OnProgress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class View:
    """The part of an image that is looked at.

    Attributes:
        values: (h, w, C) of the value range of the training images.
        limits: low and high (C,) of that range, which may be those of the whole image.
        box: x0, y0, x1, y1 of the part in the image.
        point: (row, col) in the part whose logit is looked at; None leaves the choice to `look`.
        is_part: whether anything of the image is left out.
    """

    values: np.ndarray
    limits: tuple[np.ndarray, np.ndarray]
    box: tuple[int, int, int, int]
    point: tuple[int, int] | None
    is_part: bool


@dataclass(frozen=True)
class Samples:
    """What random passes with dropout say.

    Attributes:
        count: of passes.
        variance: (h, w) of the probabilities over the passes, mean over the classes (Kendall et al., "Bayesian
            SegNet", BMVC 2017).
        model_uncertainty: (h, w) mutual information over log K: the part of the entropy on which passes disagree.
    """

    count: int
    variance: np.ndarray
    model_uncertainty: np.ndarray


@dataclass(frozen=True)
class Insight:
    """Everything about one view, at the working size (h, w).

    Attributes:
        logits: (K, h, w); with K = 1 it is that of class 1 against class 0.
        probs: (K', h, w) with K' = 2 for K = 1.
        label_map: (h, w).
        uncertainty: (h, w) entropy over its largest value, 0..1.
        margin: (h, w) probability of the class chosen less that of the next, 0..1.
        runner_up: (h, w) the next class.
        point: (row, col) whose logit `influence` is about.
        scores: maps with a value a class, in the order in which the net makes them.
        rungs: of an FCN, from its coarsest scores to its finest skip; else empty.
        stages: in the order in which they finish.
        sides: logits (K, h, w) of the further outputs that training has; `presence`: probability that the image holds
            each class, of nets that tell it; else None.
        samples: None without dropout passes.
    """

    logits: np.ndarray
    probs: np.ndarray
    label_map: np.ndarray
    uncertainty: np.ndarray
    margin: np.ndarray
    runner_up: np.ndarray
    point: tuple[int, int]
    influence: Influence
    scores: tuple[ScoreMap, ...]
    rungs: tuple[Rung, ...]
    stages: tuple[StageMaps, ...]
    sides: tuple[np.ndarray, ...]
    presence: np.ndarray | None
    samples: Samples | None


def choose_view(predictor: Predictor, image: np.ndarray, point: tuple[int, int] | None = None) -> View:
    """The whole image, or of a large one the part around `point` (row, col), or around its middle.

    A part and not a smaller copy, since the net knows things at the size at which it has learnt them.
    """
    longest = max(1, int(MAX_WORKING_SIDE / predictor.config.scale))
    middle = point or (image.shape[0] // 2, image.shape[1] // 2)
    starts = [max(0, min(at - longest // 2, side - longest)) for at, side in zip(middle, image.shape)]
    stops = [min(side, start + longest) for start, side in zip(starts, image.shape)]
    return View(
        values=image[starts[0] : stops[0], starts[1] : stops[1]],
        limits=predictor.normalisation.limits(image),
        box=(starts[1], starts[0], stops[1], stops[0]),
        point=None if point is None else (point[0] - starts[0], point[1] - starts[1]),
        is_part=(stops[0] - starts[0], stops[1] - starts[1]) != image.shape[:2],
    )


def look(
    predictor: Predictor, view: View, *, samples: int = 0, seed: int = 0, on_progress: OnProgress | None = None
) -> Insight:
    """Follow one view of an image through the net.

    Args:
        samples: passes with dropout on, drawn from `seed`; 0 for a net without.
        on_progress: called as (done, total, what).
    """
    tell = on_progress or (lambda done, total, what: None)
    model, image = predictor.model, net_input(predictor, view)
    with torch.no_grad():
        logits = run_model(model, image)
    probs = class_probs(logits, predictor.config.temperature)
    best, classes = probs.topk(2, dim=0)
    label_map = classes[0].cpu().numpy()
    point = choose_point(label_map) if view.point is None else _at_working_size(view, image)
    step = (view.values.shape[0] / image.shape[2], view.values.shape[1] / image.shape[3])
    sides, presence = side_outputs(model, image)
    return Insight(
        logits=logits[0].float().cpu().numpy(),
        probs=probs.cpu().numpy(),
        label_map=label_map,
        uncertainty=entropy(probs).cpu().numpy(),
        margin=(best[0] - best[1]).cpu().numpy(),
        runner_up=classes[1].cpu().numpy(),
        point=point,
        influence=influence_on(model, image, point, step=step),
        scores=score_maps(model, image, predictor.config),
        rungs=coarse_to_fine(model, image),
        stages=follow_stages(model, image, logits, on_progress=tell, frames=frames(model, image)),
        sides=sides,
        presence=presence,
        samples=_sample(predictor, image, samples, seed, tell) if samples else None,
    )


def net_input(predictor: Predictor, view: View) -> Tensor:
    """(1, C, h, w): the view normalised and at the working scale, as the net gets it."""
    config = predictor.config
    low, high = (tuple(float(value) for value in ends) for ends in view.limits)
    normalisation = replace(predictor.normalisation, low=low, high=high, per_image=False)
    values = torch.from_numpy(normalisation.apply(view.values)).permute(2, 0, 1)[None]
    if config.scale != 1.0:
        size = [max(1, round(side * config.scale)) for side in view.values.shape[:2]]
        values = F.interpolate(values, size, mode="area" if config.scale < 1 else "bilinear")
    return values.to(predictor.device).contiguous(memory_format=torch.channels_last)


def class_probs(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """(1, K, h, w) -> (K', h, w) that sum to 1; one logit, of class 1 against class 0, becomes two probabilities."""
    scores = logits[0].float() / temperature
    if len(scores) > 1:
        return scores.softmax(0)
    foreground = scores.sigmoid()
    return torch.cat([1 - foreground, foreground])


def choose_point(label_map: np.ndarray) -> tuple[int, int]:
    """(row, col) deepest within the region of the rarest class that covers at least one pixel in 200."""
    import cv2

    classes, counts = np.unique(label_map, return_counts=True)
    _, rarest = min((count, index) for index, count in zip(classes, counts) if count >= label_map.size / 200)
    inside = np.pad(label_map == rarest, 1).astype(np.uint8)  # the rim counts as an edge, too
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
    row, col = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(row), int(col)


def _at_working_size(view: View, image: Tensor) -> tuple[int, int]:
    assert view.point is not None
    pairs = zip(view.point, image.shape[-2:], view.values.shape[:2])
    row, col = (min(int(place * small / large), small - 1) for place, small, large in pairs)
    return row, col


@torch.no_grad()
def _sample(predictor: Predictor, image: Tensor, count: int, seed: int, tell: OnProgress) -> Samples:
    def passes(model: nn.Module) -> Iterator[Tensor]:
        for number in range(count):
            tell(number, count, "pass with dropout")
            yield class_probs(run_model(model, image), predictor.config.temperature)

    total = squares = doubt = torch.zeros((), device=image.device)
    with sampling(predictor.model, predictor.device, seed):
        for probs in passes(predictor.model):
            total, squares, doubt = total + probs, squares + probs.square(), doubt + entropy(probs)
    mean = total / count
    variance = (squares / count - mean.square()).clamp_min(0).mean(0)
    disagreement = (entropy(mean) - doubt / count).clamp_min(0)
    return Samples(count, variance.cpu().numpy(), disagreement.cpu().numpy())
