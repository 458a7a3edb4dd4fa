"""Dropout at test time: the mean of random passes through the net, and how much they know that no single one does.

Each pass drops other values, so that it is the answer of another net. Where the net has learnt, they agree; where the
image is unlike the training images, each guesses in its own way. The entropy of their mean is the whole uncertainty;
the mean of their entropies is what lies in the image; the rest, the mutual information, is what the net does not know.

Gal, Ghahramani, "Dropout as a Bayesian approximation", ICML 2016; Kendall, Badrinarayanan, Cipolla, "Bayesian SegNet",
BMVC 2017; Depeweg et al., "Decomposition of uncertainty in Bayesian deep learning", ICML 2018.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from perpixel.errors import InputError
from perpixel.inference.sliding import entropy


def check_samples(model: nn.Module, samples: int) -> None:
    """Refuse a number of passes that makes no sense, or any where passes would all be alike.

    Raises:
        InputError: below 0, or a model without dropout.
    """
    if samples < 0:
        raise InputError(f"samples {samples}: give the number of random passes, such as 20, or 0 for one plain pass")
    if samples and not dropout_layers(model):
        raise InputError(
            f"samples {samples}: {type(model).__name__} has no dropout to sample from: leave it out, or train a model "
            "with dropout, such as bayesian_segnet"
        )


def dropout_layers(model: nn.Module) -> list[nn.Module]:
    """The layers inside `model` that drop values in training."""
    return [part for part in model.modules() if isinstance(part, _DropoutNd) and part.p > 0]


@contextmanager
def sampling(model: nn.Module, device: torch.device, seed: int) -> Iterator[None]:
    """Within it the dropout of a model in eval mode is on, drawn from `seed`; batch normalisation stays as it is.

    Afterwards the model and torch's random state are as they were. The model must not answer anyone else meanwhile.
    """
    layers = dropout_layers(model)
    modes = [layer.training for layer in layers]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        try:
            for layer in layers:
                layer.train()
            yield
        finally:
            for layer, mode in zip(layers, modes):
                layer.train(mode)


def mean_of_passes(passes: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Logits (B, K, h, w) of one or more passes -> logits of their mean probabilities, and mean entropy (B, h, w).

    With K = 1 a logit is that of class 1 against class 0. Entropies are shares of log K, 0..1.
    """
    count, total, doubt = 0, torch.zeros(()), torch.zeros(())  # without a shape these fit any device
    for logits in passes:
        probs = logits.softmax(1) if logits.shape[1] > 1 else logits.sigmoid()
        count, total, doubt = count + 1, total + probs, doubt + entropy(probs, 1)
    mean = total / count
    return (mean.log() if mean.shape[1] > 1 else mean.logit()), doubt / count
