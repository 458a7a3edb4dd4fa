"""Measured, not guessed: what a training step of a net costs on this machine."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from perpixel.models import create_model

# Layers that keep the signal's size whatever the weights are.
NORMALISATIONS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)

# Crops that steps are timed on: small enough to take a blink, large enough to be representative.
SIDE = 192
BATCH = 2
# How much longer than its successors the very first step may take.
COLD = 3.0


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
    first = _step(net, optimizer, image, device, precision) / megapixels
    if first > COLD * hopeless:
        return first / COLD
    times = [_step(net, optimizer, image, device, precision) for _ in range(steps)]
    return sorted(times)[len(times) // 2] / megapixels


def _step(net: nn.Module, optimizer: torch.optim.Optimizer, image: torch.Tensor, device: str, precision: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
        outputs = net(image)
    logits = outputs[0] if isinstance(outputs, tuple) else outputs
    target = torch.zeros(logits.shape[0], *logits.shape[2:], dtype=torch.int64, device=logits.device)
    optimizer.zero_grad(set_to_none=True)
    F.cross_entropy(logits.float(), target).backward()
    optimizer.step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began
