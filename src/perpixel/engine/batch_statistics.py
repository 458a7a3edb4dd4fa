"""The means and variances of batch normalisation, computed anew over images in place of the moving averages.

Moving averages are those of the last hundred or so steps, while the weights still changed; with small batches or a
short training they lag behind. SegNet's release throws them away and averages over the training set once the weights
are final.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from perpixel.errors import InputError


class Moments:
    """Mean and variance of every channel over all that was added, in float64 (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = torch.zeros((), dtype=torch.float64)

    def add(self, maps: Tensor) -> None:
        """maps (B, C, ...)."""
        values = maps.detach().transpose(0, 1).flatten(1).double()  # (C, values)
        count, mean = values.shape[1], values.mean(1)
        squares = (values - mean[:, None]).square().sum(1)
        total, delta = self.count + count, mean - self.mean
        self.squares = self.squares + squares + delta.square() * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total

    def variance(self) -> Tensor:
        """Unbiased, as torch stores it."""
        return self.squares / max(1, self.count - 1)


@torch.no_grad()
def recompute_batch_statistics(model: nn.Module, images: Iterable[Tensor]) -> int:
    """Replace the running means and variances of `model` by those over `images`, in place; the weights stay.

    Each batch passes once, normalised by its own statistics as in training, with dropout and augmentations of the
    model off; a layer then takes the mean and variance of everything that it met, every pixel of every image counting
    alike. The release averages the variances of batches instead, which leaves out how batches differ.

    Args:
        model: any; its modes are put back afterwards. Layers that eval mode does not use are left as they are.
        images: (B, C, H, W) batches as the model was trained on: normalised alike, of the same size and about the same
            number. They are moved to the model's device.
    Returns:
        How many images were seen.
    Raises:
        InputError: no images, no batch normalisation with averages, or values that are not finite. Nothing is changed
            then.
    """
    norms = {name: part for name, part in model.named_modules() if isinstance(part, _BatchNorm) and _averages(part)}
    if not norms:
        raise InputError(
            f"{type(model).__name__} has no batch normalisation with running averages: there is nothing to recompute"
        )
    moments = {name: Moments() for name in norms}
    device = next(model.parameters()).device
    count = 0
    with _by_batches(model, norms.values()), ExitStack() as hooks:
        for name, norm in norms.items():
            hooks.callback(norm.register_forward_pre_hook(_adding(moments[name])).remove)
        for batch in images:
            if batch.ndim != 4 or batch.numel() == 0:
                raise InputError(
                    f"images: a batch of shape {tuple(batch.shape)}: give tensors (B, C, H, W) with pixels"
                )
            model(batch.to(device))
            count += len(batch)
    if count == 0:
        raise InputError("images: there are none: give at least one batch (B, C, H, W)")
    seen = {name: moment for name, moment in moments.items() if moment.count}
    for name, moment in seen.items():
        if not (moment.mean.isfinite().all() and moment.squares.isfinite().all()):
            raise InputError(f"batch normalisation '{name}' met values that are not finite: check images and weights")
    for name, moment in seen.items():
        norms[name].running_mean.copy_(moment.mean)  # type: ignore[union-attr]
        norms[name].running_var.copy_(moment.variance())  # type: ignore[union-attr]
    return count


def _averages(norm: _BatchNorm) -> bool:
    return norm.running_mean is not None and norm.running_var is not None


def _adding(moments: Moments) -> Any:
    return lambda part, args: moments.add(args[0])


@contextmanager
def _by_batches(model: nn.Module, norms: Iterable[_BatchNorm]) -> Iterator[None]:
    """The model in eval mode, but its `norms` by the statistics of each batch, without touching their averages."""
    norms = list(norms)
    modes = {part: part.training for part in model.modules()}
    tracks = {norm: norm.track_running_stats for norm in norms}
    try:
        model.eval()
        for norm in norms:
            norm.train()
            norm.track_running_stats = False
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        for norm, is_tracking in tracks.items():
            norm.track_running_stats = is_tracking
