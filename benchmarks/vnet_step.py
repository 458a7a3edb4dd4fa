"""Training steps of models of volumes in fp32 and in bf16, and whether bf16 ever gives a NaN.

    python benchmarks/vnet_step.py                       V-Net at 64 voxels a side, batch 1: seconds a step, ratio
    python benchmarks/vnet_step.py --model light         the light 3D U-Net on two patches of 40 x 56 x 40
    python benchmarks/vnet_step.py --steps 200           losses of so many steps of V-Net in bf16 instead

A step is forward, V-Net's Dice, backward, SGD with momentum. The kinds of step take turns, so that what disturbs the
machine disturbs all; printed are the best wall time and the best processor time of each, and ratios to fp32.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perpixel.losses import create_loss
from perpixel.models import create_model

LIGHT = {
    "width": 8, "norm": "instance", "activation": "leaky_relu", "residual": True, "deep_supervision": True,
}  # fmt: skip
# Model, options, shape of the batch.
CASES = {"vnet": ("vnet", {}, (1, 1, 64, 64, 64)), "light": ("unet3d", LIGHT, (2, 1, 40, 56, 40))}
KINDS = {
    "fp32": (False, torch.contiguous_format),
    "fp32, channels last": (False, torch.channels_last_3d),
    "bf16": (True, torch.contiguous_format),
    "bf16, channels last": (True, torch.channels_last_3d),
}


class Training:
    """A net with its data, ready for steps."""

    def __init__(self, case: str, width: int | None) -> None:
        name, options, shape = CASES[case]
        torch.manual_seed(0)
        options = options if width is None else {**options, "width": width}
        self.model: nn.Module = create_model(name, in_channels=1, num_classes=2, **options).train()
        self.volume = torch.randn(shape)
        self.target = (nn.functional.avg_pool3d(self.volume, 5, 1, 2)[:, 0] > 0).long()
        self.loss_of = create_loss("dice:squared=true")
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)

    def step(self, in_bf16: bool, layout: torch.memory_format) -> float:
        """One step; returns the loss."""
        volume = self.volume.contiguous(memory_format=layout)
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
            outputs = self.model(volume)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        weights: Sequence[float] = (1.0, *self.model.aux_weights)  # type: ignore[misc]
        terms: list[Tensor] = [weight * self.loss_of(each, self.target) for weight, each in zip(weights, outputs)]
        loss = torch.stack(terms).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def time_steps(training: Training, rounds: int, kinds: Sequence[str]) -> None:
    """Print the best times of every kind over `rounds` rounds, the first of which warms up."""
    wall: dict[str, float] = dict.fromkeys(kinds, math.inf)
    work: dict[str, float] = dict.fromkeys(kinds, math.inf)
    for number in range(rounds + 1):
        for kind in kinds:
            in_bf16, layout = KINDS[kind]
            training.model.to(memory_format=layout)  # type: ignore[call-overload]
            began, worked = time.perf_counter(), time.process_time()
            training.step(in_bf16, layout)
            if number:
                wall[kind] = min(wall[kind], time.perf_counter() - began)
                work[kind] = min(work[kind], time.process_time() - worked)
    first = kinds[0]
    print(f"{'':22} wall s  ratio   processor s  ratio")
    for kind in kinds:
        ratios = wall[first] / wall[kind], work[first] / work[kind]
        print(f"{kind:22} {wall[kind]:6.2f} {ratios[0]:6.2f} {work[kind]:13.2f} {ratios[1]:6.2f}")


def count_nans(training: Training, steps: int) -> None:
    """Print losses of `steps` steps in bf16, and how many were no numbers."""
    losses = [training.step(*KINDS["bf16"]) for _ in range(steps)]
    for number in range(0, steps, max(1, steps // 10)):
        print(f"step {number:4} loss {losses[number]:.4f}")
    print(f"{sum(map(math.isnan, losses))} of {steps} losses were NaN; the last is {losses[-1]:.4f}")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=CASES, default="vnet")
    parser.add_argument("--width", type=int, help="of the model; the default is the paper's")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--steps", type=int, default=0, help="count NaNs over so many steps instead")
    given = parser.parse_args()
    training = Training(given.model, given.width)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.model}, {CASES[given.model][2]}")
    if given.steps:
        count_nans(training, given.steps)
    else:
        time_steps(training, given.rounds, given.kinds)


if __name__ == "__main__":
    main()
