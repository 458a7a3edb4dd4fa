"""Mask R-CNN's training step and prediction beside torchvision's own model: time and peak memory, with its weights.

    python benchmarks/mask_rcnn.py                                    ResNet-50, 91 classes: 2 images of 384x512
    python benchmarks/mask_rcnn.py --size 800x1088 --batch 1 --rounds 3
    python benchmarks/mask_rcnn.py --memory                           peak memory instead, a process for each kind

Both have the same weights and the same objects, the normalisation of the encoder frozen, as it is wherever pretrained
weights are used, and every layer is trained. A step is forward, backward, SGD with momentum; a prediction takes one
image to masks at its full size (torchvision leaves them as float maps, ours are run lengths). The kinds take turns, so
that what disturbs the machine disturbs all. Printed are medians of wall and processor time over the rounds, and their
ratios to torchvision (below 1 is faster), then what the resident memory grew by at its peak (Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN as Reference
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from perpixel.data.instance_crops import DrawnObjects
from perpixel.models.foreign import load_foreign
from perpixel.models.foreign.torchvision_detectors import read_detector
from perpixel.models.mask_rcnn import MaskRCNN

MIB = 2**20
# Ours or torchvision's, bf16, memory layout.
KINDS = {
    "torchvision": (False, False, torch.contiguous_format),
    "torchvision, channels last": (False, False, torch.channels_last),
    "torchvision, bf16": (False, True, torch.channels_last),
    "perpixel": (True, False, torch.contiguous_format),
    "perpixel, channels last": (True, False, torch.channels_last),
    "perpixel, bf16": (True, True, torch.channels_last),
}


def their_model(encoder: str, classes: int, size: tuple[int, int]) -> nn.Module:
    torch.manual_seed(0)
    trunk = resnet_fpn_backbone(backbone_name=encoder, weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=5)
    plain = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    model = Reference(trunk, classes, min_size=min(size), max_size=max(size), **plain)
    with torch.no_grad():
        for name, part in model.named_modules():
            if name.endswith("bn3") or (name.endswith("bn2") and "layer1.0.bn3" not in dict(trunk.named_modules())):
                part.weight.mul_(0.2)
        # Sure of some classes, so that a random net finds objects to make masks of.
        model.roi_heads.box_predictor.cls_score.weight.mul_(300)
    return model


def our_model(theirs: nn.Module) -> MaskRCNN:
    foreign = read_detector(theirs.state_dict(), "torchvision")
    model = load_foreign(MaskRCNN(3, foreign.num_classes, **foreign.options | {"norm_eps": 1e-5}), foreign)
    model.is_trainable = True  # the frozen statistics are those of no data
    return model


def make_objects(size: tuple[int, int], count: int, classes: int) -> DrawnObjects:
    """Rectangles side by side in rows, of growing size."""
    height, width = size
    layers = torch.zeros((1, height, width), dtype=torch.int32)
    cols = (count + 1) // 2
    for index in range(count):
        row, col = divmod(index, cols)
        top, left = row * height // 2, col * width // cols
        bottom = top + 4 + (height // 2 - 4) * (index + 1) // count
        layers[0, top + 2 : bottom, left + 2 : left + width // cols] = index + 1
    return DrawnObjects(layers, torch.arange(count) % (classes - 1) + 1, torch.zeros(count, dtype=torch.bool))


class Bench:
    """Models, images and objects, ready for steps and predictions of every kind."""

    def __init__(self, options: argparse.Namespace, kinds: list[str]) -> None:
        self.size = tuple(int(side) for side in options.size.split("x"))
        theirs = their_model(options.encoder, options.classes, self.size)
        ours = our_model(theirs)
        wanted = {KINDS[kind][0] for kind in kinds}
        self.models = {is_ours: model for is_ours, model in ((False, theirs), (True, ours)) if is_ours in wanted}
        # A rate of nearly nothing: all kinds go on with the same weights.
        self.optimizers = {
            is_ours: torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9)
            for is_ours, model in self.models.items()
        }
        self.images = torch.randn(options.batch, 3, *self.size, generator=torch.Generator().manual_seed(0))
        self.objects = [make_objects(self.size, options.objects, options.classes)] * options.batch
        each = self.objects[0]
        self.target = {"boxes": each.boxes(), "labels": each.classes, "masks": each.masks().byte()}

    def step(self, kind: str) -> float:
        """One training step; returns the loss."""
        is_ours, in_bf16, layout = KINDS[kind]
        model = self.models[is_ours].to(memory_format=layout).train()
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
            if is_ours:
                losses = model(self.images.contiguous(memory_format=layout), self.objects)
            else:
                losses = model(list(self.images), [dict(self.target) for _ in self.images])
        total: Tensor = torch.stack([value.float() for value in losses.values()]).sum()
        self.optimizers[is_ours].zero_grad()
        total.backward()
        self.optimizers[is_ours].step()
        return float(total.detach())

    @torch.no_grad()
    def predict(self, kind: str) -> float:
        """One image; returns the number of objects."""
        is_ours, in_bf16, layout = KINDS[kind]
        model = self.models[is_ours].to(memory_format=layout).eval()
        image = self.images[:1]
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
            if is_ours:
                return len(model.detect(image.contiguous(memory_format=layout), size=self.size))
            return len(model([image[0]])[0]["scores"])


def compare(title: str, run: Callable[[str], float], kinds: list[str], rounds: int) -> None:
    """Print the medians of every kind over `rounds` rounds, after one that warms up."""
    walls: dict[str, list[float]] = {kind: [] for kind in kinds}
    works: dict[str, list[float]] = {kind: [] for kind in kinds}
    answers = {}
    for number in range(rounds + 1):
        for kind in kinds:
            began, worked = time.perf_counter(), time.process_time()
            answers[kind] = run(kind)
            if number:
                walls[kind].append(time.perf_counter() - began)
                works[kind].append(time.process_time() - worked)
    first = kinds[0]
    print(f"{title:28} wall s  ratio   processor s  ratio   answer")
    for kind in kinds:
        wall, work = statistics.median(walls[kind]), statistics.median(works[kind])
        ratios = wall / statistics.median(walls[first]), work / statistics.median(works[first])
        print(f"{kind:28} {wall:6.2f} {ratios[0]:6.2f} {work:13.2f} {ratios[1]:6.2f} {answers[kind]:8.3f}")


def memory(name: str) -> int:
    """Bytes that this process holds resident now ("VmRSS"), or held at most since the last reset ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def child(options: argparse.Namespace) -> None:
    """Measure one kind."""
    bench = Bench(options, [options.child])
    grown = {}
    for name, run in (("predict", bench.predict), ("step", bench.step)):
        run(options.child)
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        run(options.child)
        grown[name] = memory("VmHWM") - before
    print(json.dumps(grown))


def compare_memory(kinds: list[str]) -> None:
    """Print the peak memory of every kind, each in a process of its own."""
    # With a fixed threshold glibc gives large blocks back at once: the peak is then what was held, not what was cached.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144"}
    print(f"{'peak memory beyond the model':28}  step MiB  prediction MiB")
    for kind in kinds:
        command = [sys.executable, *sys.argv, "--child", kind]
        run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        grown = json.loads(run.stdout.splitlines()[-1])
        print(f"{kind:28} {grown['step'] / MIB:9.0f} {grown['predict'] / MIB:15.0f}")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--size", default="384x512", help="height x width of the images")
    parser.add_argument("--batch", type=int, default=2, help="images a training step")
    parser.add_argument("--objects", type=int, default=8, help="in each image")
    parser.add_argument("--classes", type=int, default=91)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--memory", action="store_true", help="peak memory instead of times")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.encoder}, {options.size}")
    if options.memory:
        compare_memory(options.kinds)
        return
    bench = Bench(options, options.kinds)
    compare(f"step of {options.batch} images, loss", bench.step, options.kinds, options.rounds)
    compare("prediction, objects", bench.predict, options.kinds, options.rounds)


if __name__ == "__main__":
    main()
