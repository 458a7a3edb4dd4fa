"""Prediction of volumes: time and peak memory of slabs with online argmax, whole-volume blending, and MONAI.

    python benchmarks/volume_prediction.py
    python benchmarks/volume_prediction.py --sizes 160x160x160 160x160x1280 --patch 96 --classes 3 --rounds 1

Each form predicts in a process of its own, which makes a random volume, runs the same small net over patches with half
of each side in common and Gaussian weights, and ends with a label map. Printed are seconds of processor time (other
processes disturb them less than the clock), what the resident memory grew by at its peak over what it was with the
volume and the net loaded (in a further process whose allocator returns what is freed; Linux), and how many voxels have
another label than with slabs. MONAI's form is its sliding_window_inference in Gaussian mode, of softmax probabilities,
then torch's argmax; it is left out where MONAI is not installed. Its weights end at 0.001, so that some labels differ.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from perpixel.inference import sliding_window

OVERLAP = 0.5
MIB = 2**20


def small_net(classes: int) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv3d(8, classes, 1)
    return nn.Sequential(*layers).requires_grad_(False).eval()


def slabs(net: nn.Module, image: Tensor, classes: int, patch: int) -> np.ndarray:
    return sliding_window(net, image, num_classes=classes, tile=(patch,) * 3, overlap=OVERLAP, batch=1).label_map


def whole(net: nn.Module, image: Tensor, classes: int, patch: int) -> np.ndarray:
    """The same, with all probabilities kept before one argmax."""
    result = sliding_window(net, image, num_classes=classes, tile=(patch,) * 3, overlap=OVERLAP, batch=1, probs=True)
    assert result.probs is not None
    return result.probs.argmax(0).astype(np.uint8)


@torch.inference_mode()
def monai(net: nn.Module, image: Tensor, classes: int, patch: int) -> np.ndarray:
    from monai.inferers import sliding_window_inference

    chances = sliding_window_inference(
        image, (patch,) * 3, 1, lambda window: net(window).softmax(1), overlap=OVERLAP, mode="gaussian"
    )
    assert isinstance(chances, Tensor)
    return chances[0].argmax(0).to(torch.uint8).numpy()


FORMS = {"slabs": slabs, "whole": whole, "monai": monai}


def memory(name: str) -> int:
    """Bytes that this process holds resident now ("VmRSS"), or held at most since the last reset ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def reset_peak() -> None:
    """Linux counts the peak anew from here on."""
    Path("/proc/self/clear_refs").write_text("5")


def child(form: str, size: tuple[int, ...], patch: int, classes: int, out: str) -> None:
    torch.set_num_threads(1)
    net = small_net(classes)
    # Imports and first calls take memory of their own.
    FORMS[form](net, torch.zeros(1, 1, patch + 8, patch, patch), classes, patch)
    image = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(1))
    reset_peak()
    before = memory("VmRSS")
    began = time.process_time()
    label_map = FORMS[form](net, image, classes, patch)
    spent = time.process_time() - began
    grown = memory("VmHWM") - before
    np.save(out, label_map)
    print(json.dumps({"cpu_s": spent, "bytes": grown}))


def measure(form: str, size: tuple[int, ...], patch: int, classes: int, folder: Path) -> tuple[dict, np.ndarray]:
    out = folder / "labels.npy"
    arguments = ["--child", form, "--sizes", "x".join(map(str, size)), "--patch", str(patch), "--classes", str(classes)]
    command = [sys.executable, __file__, *arguments, "--out", str(out)]
    # With a fixed threshold glibc gives large blocks back at once: the peak is then what was held, not what was cached.
    returning = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144"}
    timed, held = (
        json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout.splitlines()[-1])
        for env in (None, returning)
    )
    return {"cpu_s": timed["cpu_s"], "bytes": held["bytes"]}, np.load(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["160x160x160", "160x160x640", "160x160x1280", "1280x160x160"])
    parser.add_argument("--patch", type=int, default=64, help="side of the cubic patches")
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1, help="the quickest of so many is printed")
    parser.add_argument("--forms", nargs="+", choices=sorted(FORMS), default=list(FORMS))
    parser.add_argument("--child", choices=sorted(FORMS), help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = [tuple(int(side) for side in text.split("x")) for text in options.sizes]
    if options.child:
        child(options.child, sizes[0], options.patch, options.classes, options.out)
        return
    forms = [form for form in options.forms if form != "monai" or importlib.util.find_spec("monai")]
    print(f"patch {options.patch}^3, {options.classes} classes, one thread; label map and input are counted apart")
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            voxels = math.prod(size)
            own = f"input {4 * voxels / MIB:.0f} MiB, label map {voxels / MIB:.0f} MiB"
            print(f"{'x'.join(map(str, size))} ({own})")
            best: dict[str, tuple[dict, np.ndarray]] = {}
            for _ in range(options.rounds):
                for form in forms:
                    found = measure(form, size, options.patch, options.classes, Path(folder))
                    if form not in best or found[0]["cpu_s"] < best[form][0]["cpu_s"]:
                        best[form] = found
            first = best[forms[0]][1]
            for form, (cost, label_map) in best.items():
                extra = cost["bytes"] / MIB
                print(
                    f"  {form:6} {cost['cpu_s']:7.2f} s  +{extra:7.1f} MiB, without the label map "
                    f"{extra - voxels / MIB:7.1f} MiB; {int((label_map != first).sum())} labels differ"
                )


if __name__ == "__main__":
    main()
