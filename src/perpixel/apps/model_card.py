"""README.md of a bundle: what the model is, what it was trained on, how well it did, how to use it."""

from __future__ import annotations

from typing import Any

from perpixel.inference.bundle import BundleConfig

CARD = """\
---
library_name: perpixel
pipeline_tag: image-segmentation
tags: [{tag}, {model}]
---
# {model} on {data}

{does}

| | |
| --- | --- |
| architecture | {model} {options} |
| input | {channels} channel(s), any size; {working} |
| trained on | {train_images} {noun}s, data fingerprint {digest} |
| trained for | {length}, {seconds:.0f} s, seed {seed}{start} |
| validation ({images} {noun}s) | {validation} |
| versions | {versions} |

{table}
```python
import perpixel

predictor = perpixel.load("path/to/this/folder")
label_map = predictor.predict("{file}").label_map  # {shape} class indices
{more}```

{meaning}
The licence of the model is for its maker to state; it may depend on that of the training data.
"""

# Scores of a validation, in the order in which they are told.
SCORES = {
    "structure_dice": "structure Dice",
    "mask_ap": "mask AP",
    "matching_ap50": "AP50",
    "f1_50": "F1 at IoU 0.5",
    "pq": "PQ",
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_dice": "mean Dice",
}
PIXEL_MEANING = (
    "mIoU is the mean over classes of true positives over the union, from one confusion matrix of the whole split."
)
OBJECT_MEANING = (
    "AP50 is TP / (TP + FP + FN) of objects matched one to one at IoU 0.5; mask AP is COCO's, which ranks by score."
)
OBJECT_CODE = 'objects = predictor.predict("image.png").instances  # classes, boxes, masks, scores\n'
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
    words = IMAGE_WORDS if config.volume is None else VOLUME_WORDS
    classes = ", ".join(config.classes.names)
    finds = f"Finds the objects of {words['a_noun']} one by one, of {config.classes.num_classes - 1} classes: "
    labels = f"Labels every {words['element']} of {words['a_noun']} with one of {config.classes.num_classes} classes: "
    has_objects = config.objects is not None
    return CARD.format(
        does=finds + ", ".join(config.classes.names[1:]) + "." if has_objects else f"{labels}{classes}.",
        tag="instance-segmentation" if has_objects else "semantic-segmentation",
        model=config.model,
        data=config.data["name"],
        options=", ".join(f"{name}={value}" for name, value in config.options.items()) or "(defaults)",
        channels=config.channels,
        **words,
        working=_working(config),
        validation=", ".join(f"{title} {_number(metrics[key])}" for key, title in SCORES.items() if key in metrics),
        train_images=config.data["num_images"].get("train", 0),
        digest=config.data["digest"][:12],
        length=f"{metrics['trees']} trees" if "trees" in metrics else f"{metrics['steps']} steps",
        seconds=metrics["seconds"],
        seed=config.training["seed"],
        start=_start(config.training.get("start_from")),
        images=metrics["images"],
        versions=", ".join(f"{name} {version}" for name, version in config.versions.items()),
        table=_class_table(metrics),
        more=OBJECT_CODE if has_objects else "",
        meaning=OBJECT_MEANING if has_objects else PIXEL_MEANING,
    )


def _class_table(metrics: dict[str, Any]) -> str:
    if "iou" not in metrics:
        return ""
    rows = "\n".join(f"| {name} | {_number(value)} |" for name, value in metrics["iou"].items())
    return f"| class | IoU |\n| --- | --- |\n{rows}\n"


def _working(config: BundleConfig) -> str:
    if config.volume is None:
        return f"working scale {config.scale:g}"
    return "resampled to voxels of " + " x ".join(f"{side:.3g}" for side in config.volume.spacing_mm) + " mm"


def _start(start: dict[str, Any] | None) -> str:
    return "" if start is None else f", from the weights of {start['name']} ({start['model']})"


def _number(value: float | None) -> str:
    return "absent" if value is None else f"{value:.3f}"
