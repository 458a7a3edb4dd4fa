"""Measured, not guessed: what a training step of a net costs on this machine."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.data.instance_crops import DrawnObjects
from perpixel.models import MaskRCNN, create_model

# Layers that keep the signal's size whatever the weights are.
NORMALISATIONS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)

# Crops that steps are timed on: small enough to take a blink, large enough to be representative.
SIDE = 192
BATCH = 2
# How much longer than its successors the very first step may take.
COLD = 3.0
# Seconds of a first step from which one more is enough: what disturbs a blink does not disturb a second.
LONG_STEP_S = 1.0
# Of the bytes that a step keeps for its backward pass: what comes on top while it runs (gradients of maps, work space),
# measured as 0.4 to 0.6 on U-Nets; and what is left of them in bf16, where some maps stay in fp32.
ON_TOP, BF16_SHARE = 1.7, 0.6
# Weights, their running average, their gradient, and the two moments of Adam.
COPIES = 5


def has_normalisation(model: str, options: dict[str, Any]) -> bool:
    """Whether a net normalises its maps anywhere; without, it bears a tenth of the learning rate."""
    with torch.device("meta"):
        net = create_model(model, **{name: value for name, value in options.items() if name != "weights"})
    return any(isinstance(part, NORMALISATIONS) for part in net.modules())


def seconds_per_megapixel(
    model: str,
    options: dict[str, Any],
    *,
    in_channels: int,
    num_classes: int,
    device: str,
    precision: str,
    side: int = SIDE,
    hopeless: float = float("inf"),
    steps: int = 3,
) -> float:
    """Seconds of forward, backward and SGD for a million input pixels. The median of `steps` after one warm-up.

    Args:
        side: height and width of the crops; small ones cost more a pixel, since every layer has a price of its own.
        hopeless: seconds that are too many in any case: if the first step says so clearly, there is no second.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options = {name: value for name, value in options.items() if name != "weights"}
        net = create_model(model, in_channels=in_channels, num_classes=num_classes, **options)
        margin = getattr(net, "margin", 0)
        side = net.fit_size((side + 2 * margin,) * 2)[0] if margin else side  # type: ignore[operator]
        image = torch.randn(BATCH, in_channels, side, side)
    net = net.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    image = image.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)
    megapixels = BATCH * (side - 2 * margin) ** 2 / 1e6
    first_s = _step(net, optimizer, image, device, precision)
    if first_s / megapixels > COLD * hopeless:
        return first_s / megapixels / COLD
    steps = 1 if first_s > LONG_STEP_S else steps
    times = [_step(net, optimizer, image, device, precision) for _ in range(steps)]
    return sorted(times)[len(times) // 2] / megapixels


def seconds_per_step(
    model: str,
    options: dict[str, Any],
    *,
    in_channels: int,
    num_classes: int,
    device: str,
    precision: str,
    size: tuple[int, ...],
    batch_size: int,
    hopeless: float = float("inf"),
    steps: int = 3,
) -> float:
    """Seconds of forward, backward and SGD for a batch. The median of `steps` after one warm-up.

    Args:
        size: (d, h, w) of patches of volumes, (h, w) of crops of images.
        hopeless: seconds that are too many in any case: if the first step says so clearly, there is no second.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = create_model(model, in_channels=in_channels, num_classes=num_classes, **options).to(device).train()
        margin = getattr(net, "margin", 0)
        sides = net.fit_size(tuple(side + 2 * margin for side in size)) if margin else size  # type: ignore[operator]
        image = torch.randn(batch_size, in_channels, *sides, device=device)
        if len(size) == 2:
            net = net.to(memory_format=torch.channels_last)
            image = image.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)
    first_s = _step(net, optimizer, image, device, precision)
    if first_s > COLD * hopeless:
        return first_s / COLD
    steps = 1 if first_s > LONG_STEP_S else steps
    times = [_step(net, optimizer, image, device, precision) for _ in range(steps)]
    return sorted(times)[len(times) // 2]


def _step(net: nn.Module, optimizer: torch.optim.Optimizer, image: torch.Tensor, device: str, precision: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
        outputs = net(image, _objects(image)) if isinstance(net, MaskRCNN) else net(image)
    optimizer.zero_grad(set_to_none=True)
    _loss(outputs).backward()
    optimizer.step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _objects(image: Tensor) -> list[DrawnObjects]:
    """Four objects in each image of a batch, as a detector learns from them."""
    height, width = image.shape[-2:]
    layer = torch.zeros(1, height, width, dtype=torch.int32)
    for number, (row, col) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1)), start=1):
        top, left = row * height // 2, col * width // 2
        layer[0, top : top + max(1, height // 4), left : left + max(1, width // 4)] = number
    classes, crowds = torch.ones(4, dtype=torch.int64), torch.zeros(4, dtype=torch.bool)
    return [DrawnObjects(layer, classes, crowds) for _ in range(len(image))]


def _loss(outputs: Tensor | tuple[Tensor, ...] | dict[str, Tensor]) -> Tensor:
    """A loss with a gradient for every output; its value means nothing."""
    if isinstance(outputs, dict):
        return torch.stack([value.float() for value in outputs.values()]).sum()
    main, *others = outputs if isinstance(outputs, tuple) else (outputs,)
    target = torch.zeros(main.shape[0], *main.shape[2:], dtype=torch.int64, device=main.device)
    return sum((each.float().mean() for each in others), F.cross_entropy(main.float(), target))


def training_bytes(
    model: str,
    options: dict[str, Any],
    *,
    in_channels: int,
    num_classes: int,
    size: tuple[int, ...],
    batch_size: int,
    precision: str,
) -> float:
    """About how much memory a training step takes. Nothing is computed: shapes without values pass through the net.

    Args:
        size: (height, width) of the crops, (depth, height, width) of patches of volumes.
    """
    with torch.device("meta"):
        options = {name: value for name, value in options.items() if name != "weights"}
        net = create_model(model, in_channels=in_channels, num_classes=num_classes, **options).train()
        margin = getattr(net, "margin", 0)
        fitted = net.fit_size(tuple(side + 2 * margin for side in size)) if margin else size  # type: ignore[operator]
        image = torch.empty(batch_size, in_channels, *fitted)
    own = {parameter.untyped_storage()._cdata for parameter in net.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        kept[storage._cdata] = storage
        return value

    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        loss = _loss(net(image))
    del loss
    maps = sum(storage.nbytes() for place, storage in kept.items() if place not in own)
    weights = sum(4 * parameter.numel() for parameter in net.parameters())
    return ON_TOP * maps * (BF16_SHARE if precision == "bf16" else 1.0) + COPIES * weights
