"""Training throughput of U-Net/ResNet-34, batch 8, 256x256: perpixel's loop against a plain fp32 loop over this net.

    python benchmarks/throughput.py --data ../shared/data/camvid --rounds 5

Both run in one process, interleaved. The plain loop is what a careful script does: fp32, default layout, AdamW, batches
already in memory. Ours is the product's: `Fit` with its data pipeline, averaging, logging, and the layout and precision
that its plan chooses. Also prints the share of our step that is not forward, backward or optimizer.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning_fabric
import torch
import torch.nn.functional as F

from perpixel.data import open_dataset
from perpixel.data.batches import TrainingCrops, batches
from perpixel.data.transforms import Augmentation
from perpixel.engine.fit import Fit, Recipe
from perpixel.engine.hardware import find_hardware, keep_freed_memory
from perpixel.engine.interrupts import StopRequest
from perpixel.engine.run_folder import RunFolder
from perpixel.engine.schedules import Leg, Legs
from perpixel.images import Normalisation
from perpixel.losses import create_loss
from perpixel.models import create_model

BATCH, SIDE, CLASSES = 8, 256, 11


class Crops:
    """The semantic task without validation: this benchmark is about steps."""

    def __init__(self, crops: TrainingCrops) -> None:
        self.crops, self.samples = crops, ()
        self.criterion = create_loss("ce", ignore_index=255)

    def batches(self, *, start_step: int, end_step: int, shrink: int, rank: int, world_size: int) -> Any:
        return batches(self.crops, batch_size=BATCH, start_step=start_step, end_step=end_step)

    def loss(self, outputs: Any, batch: Any) -> torch.Tensor:
        return self.criterion(outputs, batch.target)

    def validate(self, model: torch.nn.Module) -> dict[str, Any]:
        return {"score": 0.0}


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model("unet", num_classes=CLASSES, encoder="resnet34")


def plain_steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
    image, target = torch.randn(BATCH, 3, SIDE, SIDE), torch.randint(0, CLASSES, (BATCH, SIDE, SIDE))
    began = time.perf_counter()
    for _ in range(steps):
        loss = F.cross_entropy(model(image), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()
    return (time.perf_counter() - began) / steps


def bare_steps(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Any, criterion: Any, steps: int
) -> float:
    """Forward, backward and step alone, in our layout: what our loop is compared with for its overhead."""
    image = batch.image
    began = time.perf_counter()
    for _ in range(steps):
        loss = criterion(model(image), batch.target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()
    return (time.perf_counter() - began) / steps


def our_steps(fit: Fit, folder: RunFolder, steps: int) -> float:
    """The mean of `steps` further steps of the product's loop."""
    start = fit.progress.step
    fit.legs = Legs([Leg(0, start + steps, 0.0, "benchmark")])
    began = time.perf_counter()
    fit.train_steps(StopRequest())
    return (time.perf_counter() - began) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    machine = find_hardware("cpu")
    precision = "bf16-mixed" if machine.has_bf16 else "32-true"
    print(f"{machine.name}, {machine.threads} threads, torch {torch.__version__}, ours in {precision}, channels_last")
    plain = net().train()
    plain_optimizer = torch.optim.AdamW(plain.parameters(), 1e-3)
    plain_steps(plain, plain_optimizer, 1)
    keep_freed_memory()
    dataset = open_dataset(options.data)
    crops = TrainingCrops(
        dataset,
        dataset.split("train"),
        crop=(SIDE, SIDE),
        normalisation=Normalisation((0.0,) * 3, (255.0,) * 3, (0.4,) * 3, (0.3,) * 3),
        augmentation=Augmentation(scale=(0.8, 1.6), rotate_degrees=5, contrast=0.3, brightness=0.15, saturation=0.4),
        seed=0,
    )
    with tempfile.TemporaryDirectory() as root:
        folder = RunFolder(Path(root) / "run").create()
        folder.write_legs(Legs([Leg(0, 1, 0.0, "benchmark")]))
        fabric = lightning_fabric.Fabric(accelerator="cpu", precision=precision)
        task = Crops(crops)
        fit = Fit(net(), task, folder, Recipe(validations=1), fabric=fabric, on_event=lambda event: None)
        fit.progress.best_score = math.inf  # or the end of every round would write the best weights to the disk
        our_steps(fit, folder, 1)
        twin = net().to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        twin_optimizer = torch.optim.AdamW(twin.parameters(), 1e-3, fused=True)
        batch = next(task.batches(start_step=0, end_step=1, shrink=1, rank=0, world_size=1))
        times: dict[str, list[float]] = {"plain": [], "ours": [], "bare": []}
        data_s: list[float] = []
        for _ in range(options.rounds):
            times["plain"].append(plain_steps(plain, plain_optimizer, options.steps))
            times["ours"].append(our_steps(fit, folder, options.steps))
            with torch.autocast("cpu", torch.bfloat16, enabled=machine.has_bf16):
                times["bare"].append(bare_steps(twin, twin_optimizer, batch, task.criterion, options.steps))
        data_s = [event["data_s"] for event in folder.read_log() if event["kind"] == "step"]
    for name, values in times.items():
        print(
            f"{name}: median {statistics.median(values):.3f} s a step, {BATCH / statistics.median(values):.2f} images/s"
        )
    ratios = [plain / ours for plain, ours in zip(times["plain"], times["ours"])]
    shares = [1 - bare / ours for bare, ours in zip(times["bare"], times["ours"])]
    print(f"ours against plain: median ratio {statistics.median(ratios):.2f}x")
    print(f"share of our step that is not forward, backward, optimizer: median {statistics.median(shares):.1%}")
    print(f"waiting for data: median {statistics.median(data_s) / statistics.median(times['ours']):.1%} of a step")


if __name__ == "__main__":
    main()
