"""Where a net holds one map a class: its prediction heads before upsampling, and its further outputs in training."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perpixel.inference.bundle import BundleConfig, build_model
from perpixel.inference.predictor import run_model
from perpixel.inference.stage_maps import maps_of, stages_of
from perpixel.labels import ClassInfo

# Of more the last ones are taken, which are nearest to the labels. GCN has 13.
MAX_MAPS = 16
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


@dataclass(frozen=True)
class ScoreMap:
    """(K, h, w) scores that the part `name` returned; a stage's own name, or else its place in the net."""

    name: str
    scores: np.ndarray


@torch.no_grad()
def score_maps(model: nn.Module, image: Tensor, config: BundleConfig) -> tuple[ScoreMap, ...]:
    """The maps with one value a class that layers return for (1, C, H, W), in the order in which they are made.

    Of a part within a part whose maps are the same size, the outer one is taken: it may add several of the inner ones.
    Of maps that the outer part enlarges, those before it.
    """
    heads = class_layers(model, config)
    names = {part: name for name, part in model.named_modules() if name}
    holders = [
        part
        for part, name in names.items()
        if any(head == name or head.startswith(f"{name}.") for head in heads)
    ]  # fmt: skip
    heard = _hear(model, image, holders, config.classes.num_classes)
    kept = _without_repeats({names[part]: scores for part, scores in heard.items()})
    stages = {part: name for name, part in stages_of(model).items()}
    told = {names[part]: name for part, name in stages.items() if part in names}
    return tuple(ScoreMap(told.get(name, name), scores) for name, scores in kept.items())[-MAX_MAPS:]


def class_layers(model: nn.Module, config: BundleConfig) -> list[str]:
    """Names of the convolutions with one output a class: those that would have one more if there were one more class.

    Their number alone would not do: a small net may have layers with as many channels for other reasons.
    """
    count = config.classes.num_classes
    candidates = [
        name for name, part in model.named_modules() if isinstance(part, CONVOLUTIONS) and part.out_channels == count
    ]
    twin = dict(_with_one_more_class(config).named_modules())
    return [name for name in candidates if getattr(twin.get(name), "out_channels", 0) == count + 1]


def _with_one_more_class(config: BundleConfig) -> nn.Module:
    more = replace(config.classes, classes=(*config.classes.classes, ClassInfo("one more", (0, 0, 0), ())))
    wider = replace(config, classes=more)
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):  # without values; not every encoder can be built like this
                return build_model(wider)
        except (RuntimeError, NotImplementedError, TypeError):
            return build_model(wider)


def _hear(model: nn.Module, image: Tensor, parts: list[nn.Module], count: int) -> dict[nn.Module, np.ndarray]:
    heard: dict[nn.Module, np.ndarray] = {}

    def hear(part: nn.Module, args: Any, output: Any) -> None:
        maps = maps_of(output)
        if maps is not None and maps.shape[1] == count:
            heard.pop(part, None)
            heard[part] = maps[0].float().cpu().numpy().copy()

    with ExitStack() as hooks:
        for part in parts:
            hooks.callback(part.register_forward_hook(hear).remove)
        run_model(model, image)
    return heard


def _without_repeats(heard: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of nested parts the outer one, unless it only shows enlarged what an inner one has."""
    kept = dict(heard)
    for outer in heard:
        inner = [name for name in heard if name.startswith(f"{outer}.") and name in kept]
        if outer not in kept or not inner:
            continue
        if all(kept[name].shape[1] < heard[outer].shape[1] for name in inner):
            del kept[outer]
        else:
            for name in inner:
                del kept[name]
    return kept


@torch.no_grad()
def side_outputs(model: nn.Module, image: Tensor) -> tuple[tuple[np.ndarray, ...], np.ndarray | None]:
    """Further outputs of a net that has some in training: logits (K, H, W) each, and which classes are there (K,).

    Only the net itself believes to be in training, none of its parts: norms and dropout stay as they are, so that the
    answers are those of the trained net.
    """
    if not getattr(model, "aux_weights", ()):
        return (), None
    mode = model.training
    try:
        model.training = True
        output = run_model(model, image)
    finally:
        model.training = mode
    others: tuple[Tensor, ...] = tuple(output[1:]) if isinstance(output, (tuple, list)) else ()
    maps = tuple(each[0].float().cpu().numpy() for each in others if each.ndim == 4)
    presence = next((each[0].float().sigmoid().cpu().numpy() for each in others if each.ndim == 2), None)
    return maps, presence
