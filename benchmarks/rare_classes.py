"""How often training sees each class: pixels of the crops, for several ways of drawing them.

    python benchmarks/rare_classes.py DATA --crop 180 --scale 0.5 --draws 400

Printed for each class: the share of the training pixels that it has, and how many times that share the crops show, when
they are placed anywhere, a third of them on a class of the image (all alike; weighed by pixels ** -0.5; ** -1), and
alike with repeat factors of threshold 1. Where crops are nearly whole images, their places change little.
"""

from __future__ import annotations

import argparse

import numpy as np

from perpixel.data import check_dataset, open_dataset, repeat_factors
from perpixel.data.batches import TrainingCrops
from perpixel.data.transforms import Augmentation
from perpixel.images import Normalisation
from perpixel.planning import class_chances

WAYS = {
    "anywhere": {},
    "alike": {"rare_share": 0.33},
    "** -0.5": {"rare_share": 0.33, "rare_power": 0.5},
    "** -1": {"rare_share": 0.33, "rare_power": 1.0},
    "repeats": {"rare_share": 0.33, "repeat_threshold": 1.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--crop", type=int, default=180, help="side of the crops at the working scale")
    parser.add_argument("--scale", type=float, default=0.5)
    parser.add_argument("--draws", type=int, default=400)
    options = parser.parse_args()
    dataset = open_dataset(options.data)
    found = check_dataset(dataset)
    pixels = np.array(found.fingerprint.class_pixels["train"])
    samples = dataset.split("train")
    ones = (1.0,) * dataset.channels
    shares = {}
    for name, way in WAYS.items():
        settings = dict(way)
        settings["class_chances"] = class_chances(pixels.tolist(), settings.pop("rare_power", 0.0))
        if threshold := settings.pop("repeat_threshold", None):
            classes_of = [found.train_classes.get(sample.name, ()) for sample in samples]
            settings["repeats"] = repeat_factors(classes_of, threshold=threshold)
        crops = TrainingCrops(
            dataset,
            samples,
            crop=(options.crop, options.crop),
            normalisation=Normalisation((0.0,) * dataset.channels, ones, (0.0,) * dataset.channels, ones),
            augmentation=Augmentation(scale=(0.8, 1.6)),
            seed=0,
            scale=options.scale,
            **settings,
        )
        counts = sum(np.bincount(crops[draw, 1][1].ravel(), minlength=256) for draw in range(options.draws))
        shares[name] = counts[: len(pixels)] / counts[: len(pixels)].sum()
    print(f"{'class':>14} {'share':>8} " + " ".join(f"{name:>9}" for name in WAYS))
    for index, name in enumerate(dataset.classes.names):
        own = pixels[index] / pixels.sum()
        times = [shares[way][index] / own if own else 0.0 for way in WAYS]
        print(f"{name:>14} {own:8.2%} " + " ".join(f"{each:9.2f}" for each in times))


if __name__ == "__main__":
    main()
