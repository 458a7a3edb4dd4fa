"""What a loss costs: seconds and memory of forward and backward, and Lovász against its straightforward form.

    python benchmarks/losses.py
    python benchmarks/losses.py --losses lovasz,dice --batch 1 --side 512 --classes 21

Logits are those of an untrained net (noise) and of one that is mostly right (noise + 6 on the true class of nine pixels
in ten); the label map has blocks of all classes. Printed: median time of `--rounds`, the most memory that the process
took above what it held before, one process a loss, and for Lovász the same for the usual form: one float sort a
class, differences of the Jaccard loss, all kept for the backward pass.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from perpixel.losses import LOSSES, create_loss

PLAIN_LOVASZ = "lovasz, straightforward"


def plain_lovasz(logits: Tensor, target: Tensor) -> Tensor:
    """Lovász-Softmax as one would write it first; present classes of the batch."""
    probs = logits.softmax(1).movedim(1, 0).flatten(1)
    costs = []
    for each, probability in enumerate(probs):
        truth = (target.flatten() == each).float()
        if truth.sum() == 0:
            continue
        errors, order = torch.sort((truth - probability).abs(), descending=True)
        truth = truth[order]
        hits = truth.cumsum(0)
        losses = 1 - (truth.sum() - hits) / (truth.sum() + (1 - truth).cumsum(0))
        steps = torch.cat([losses[:1], losses[1:] - losses[:-1]])
        costs.append(torch.dot(errors, steps))
    return torch.stack(costs).mean()


def example(batch: int, classes: int, side: int, is_trained: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, classes, (batch, side // 32, side // 32), generator=generator)
    target = coarse.repeat_interleave(32, 1).repeat_interleave(32, 2)
    logits = torch.randn(batch, classes, *target.shape[1:], generator=generator)
    if is_trained:
        lift = 6.0 * (torch.rand(target.shape, generator=generator) < 0.9)
        logits.scatter_add_(1, target.unsqueeze(1), lift.unsqueeze(1))
    return logits, target


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(name: str, options: argparse.Namespace, is_trained: bool) -> tuple[float, float]:
    """(median seconds, peak memory in MiB above the inputs) of forward and backward."""
    torch.set_num_threads(options.threads)
    loss: Callable[[Tensor, Tensor], Tensor] = plain_lovasz if name == PLAIN_LOVASZ else create_loss(name)
    small = example(1, options.classes, 64, is_trained)
    loss(small[0].requires_grad_(), small[1]).backward()  # what is loaded at the first call
    logits, target = example(options.batch, options.classes, options.side, is_trained)
    logits.requires_grad_().grad = torch.zeros_like(logits)
    before, times = peak_bytes(), []
    for _ in range(options.rounds):
        began = time.perf_counter()
        loss(logits, target).backward()
        times.append(time.perf_counter() - began)
    return statistics.median(times), (peak_bytes() - before) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--losses", default=",".join(name for name in LOSSES if name not in ("bce", "lovasz_hinge")))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    names = options.losses.split(",")
    if "lovasz" in names:
        names.append(PLAIN_LOVASZ)
    print(f"({options.batch}, {options.classes}, {options.side}, {options.side}), {options.threads} thread(s)")
    print(f"{'':>24}  {'untrained':>20}  {'mostly right':>20}")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name in names:
            found = [pool.apply(measure, (name, options, is_trained)) for is_trained in (False, True)]
            print(f"{name:>24}  " + "  ".join(f"{1e3 * took:8.1f} ms {extra:5.0f} MiB" for took, extra in found))


if __name__ == "__main__":
    main()
