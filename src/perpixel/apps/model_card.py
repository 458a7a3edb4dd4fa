"""README.md of a bundle: what the model is, what it was trained on, how well it did, how to use it."""

from __future__ import annotations

from typing import Any

from perpixel.inference.bundle import BundleConfig

CARD = """\
---
library_name: perpixel
pipeline_tag: image-segmentation
tags: [semantic-segmentation, {model}]
---
# {model} on {data}

Labels every {element} of {a_noun} with one of {num_classes} classes: {classes}.

| | |
| --- | --- |
| architecture | {model} {options} |
| input | {channels} channel(s), any size; {working} |
| trained on | {train_images} {noun}s, data fingerprint {digest} |
| trained for | {length}, {seconds:.0f} s, seed {seed}{start} |
| validation ({images} {noun}s) | {main}mIoU {miou}, pixel accuracy {accuracy}, mean Dice {dice} |
| versions | {versions} |

| class | IoU |
| --- | --- |
{rows}

```python
import perpixel

predictor = perpixel.load("path/to/this/folder")
label_map = predictor.predict("{file}").label_map  # {shape} class indices
```

mIoU is the mean over classes of true positives over the union, from one confusion matrix of the whole split.
The licence of the model is for its maker to state; it may depend on that of the training data.
"""

IMAGE_WORDS = {"element": "pixel", "noun": "image", "a_noun": "an image", "file": "image.png", "shape": "(H, W)"}
VOLUME_WORDS = {
    "element": "voxel",
    "noun": "volume",
    "a_noun": "a volume",
    "file": "volume.nii.gz",
    "shape": "(D, H, W), in the canonical orientation,",
}


def model_card(config: BundleConfig, metrics: dict[str, Any]) -> str:
    """The card as Markdown."""
    rows = "\n".join(f"| {name} | {_number(value)} |" for name, value in metrics["iou"].items())
    return CARD.format(
        model=config.model,
        data=config.data["name"],
        num_classes=config.classes.num_classes,
        classes=", ".join(config.classes.names),
        options=", ".join(f"{name}={value}" for name, value in config.options.items()) or "(defaults)",
        channels=config.channels,
        **(IMAGE_WORDS if config.volume is None else VOLUME_WORDS),
        working=_working(config),
        main=f"structure Dice {_number(metrics['structure_dice'])}, " if "structure_dice" in metrics else "",
        train_images=config.data["num_images"].get("train", 0),
        digest=config.data["digest"][:12],
        length=f"{metrics['trees']} trees" if "trees" in metrics else f"{metrics['steps']} steps",
        seconds=metrics["seconds"],
        seed=config.training["seed"],
        start=_start(config.training.get("start_from")),
        images=metrics["images"],
        miou=_number(metrics["miou"]),
        accuracy=_number(metrics["pixel_accuracy"]),
        dice=_number(metrics["mean_dice"]),
        versions=", ".join(f"{name} {version}" for name, version in config.versions.items()),
        rows=rows,
    )


def _working(config: BundleConfig) -> str:
    if config.volume is None:
        return f"working scale {config.scale:g}"
    return "resampled to voxels of " + " x ".join(f"{side:.3g}" for side in config.volume.spacing_mm) + " mm"


def _start(start: dict[str, Any] | None) -> str:
    return "" if start is None else f", from the weights of {start['name']} ({start['model']})"


def _number(value: float | None) -> str:
    return "absent" if value is None else f"{value:.3f}"
