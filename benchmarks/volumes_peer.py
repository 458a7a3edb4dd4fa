"""A 3-D U-Net of MONAI trained on volumes for a given time, scored as `perpixel evaluate` scores.

    pip install monai
    python benchmarks/volumes_peer.py DATA --minutes 10

The usual recipe of its tutorials: `monai.networks.nets.UNet` of 16, 32, 64, 128, 256 channels with two residual units,
DiceCELoss, Adam at 1e-3, random flips along each axis, whole volumes padded to multiples of 16, batches of 2. Each case
is normalised by itself, as `perpixel` does it. The weights of the end are scored. Prints the Dice of every structure
(mean over the test cases) and their mean.
"""

from __future__ import annotations

import argparse
import time

import monai
import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNet

from perpixel.data import open_dataset
from perpixel.engine.volumes import structure_dice
from perpixel.metrics import confusion_matrix

MULTIPLE = 16


def padded(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros behind each of the last three axes, up to `shape`."""
    more = [(0, wanted - side) for wanted, side in zip(shape, array.shape[-3:])]
    return np.pad(array, [(0, 0)] * (array.ndim - 3) + more)


def load(dataset, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(C, D, H, W) float32 of mean 0 and deviation 1, and its label map."""
    cases = []
    for sample in dataset.split(split):
        image, target = dataset.load(sample)
        image = image.astype(np.float32)
        axes = (1, 2, 3)
        image = (image - image.mean(axes, keepdims=True)) / image.std(axes, keepdims=True).clip(1e-8)
        cases.append((image, target))
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", help="train under bf16 autocast")
    given = parser.parse_args()
    began = time.perf_counter()
    monai.utils.set_determinism(given.seed)
    dataset = open_dataset(given.data)
    classes = dataset.classes.num_classes
    train = load(dataset, "train") + load(dataset, "val")  # it needs no validation: its last weights are taken
    largest = [max(target.shape[axis] for _, target in train) for axis in range(3)]
    shape = tuple(-(-side // MULTIPLE) * MULTIPLE for side in largest)
    net = UNet(3, dataset.channels, classes, (16, 32, 64, 128, 256), (2, 2, 2, 2), num_res_units=2)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True)
    rng, steps, order = np.random.default_rng(given.seed), 0, []
    net.train()
    while time.perf_counter() - began < 60 * given.minutes:
        images, targets = [], []
        for _ in range(2):
            order = order or rng.permutation(len(train)).tolist()
            image, target = (padded(array, shape) for array in train[order.pop()])
            for axis in range(3):
                if rng.random() < 0.5:
                    image, target = np.flip(image, axis + 1), np.flip(target, axis)
            images.append(image.copy())
            targets.append(target[None].astype(np.int64).copy())
        with torch.autocast("cpu", torch.bfloat16, enabled=given.bf16):
            logits = net(torch.from_numpy(np.stack(images)))
        loss = loss_of(logits.float(), torch.from_numpy(np.stack(targets)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        steps += 1
        if steps % 100 == 0:
            print(f"step {steps}: loss {loss.item():.3f}, {time.perf_counter() - began:.0f} s", flush=True)
    net.eval()
    matrices = []
    with torch.inference_mode():
        for image, target in load(dataset, "test"):
            sides = tuple(-(-side // MULTIPLE) * MULTIPLE for side in target.shape)
            logits = net(torch.from_numpy(padded(image, sides))[None])
            depth, height, width = target.shape
            pred = logits.argmax(1)[0, :depth, :height, :width].numpy()
            matrices.append(
                confusion_matrix(pred, target, num_classes=classes, ignore_index=dataset.classes.ignore_index)
            )
    mean, each = structure_dice(np.stack(matrices))
    said = ", ".join(f"{name} {value:.3f}" for name, value in zip(dataset.classes.names, each))
    print(
        f"MONAI {monai.__version__}, {'bf16' if given.bf16 else 'fp32'}, {steps} steps: {said}; structures {mean:.4f}"
    )


if __name__ == "__main__":
    main()
