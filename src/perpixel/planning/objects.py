"""Which way finds the objects of a data set: boxes first (`mask_rcnn`), or one map for all (`unet_watershed`)."""

from __future__ import annotations

from typing import Literal

from perpixel.data import InstanceFacts

Way = Literal["unet_watershed", "mask_rcnn"]

# A map holds one object a pixel: above this share of objects that overlap, too many would be cut.
MOST_OVERLAP = 0.1
# The same where nothing but the map can be trained in the time.
MOST_OVERLAP_FORCED = 0.4
# Crowded: so many objects in the median image; and small: of so small a side against the image's.
CROWDED, SMALL_SIDE = 20.0, 0.1
# Objects of an image that a detector keeps.
MOST_DETECTIONS = 100
# Object sizes that differ by more ask for the levels of a pyramid.
WIDE_SPREAD = 6.0
# Seconds in which a detector without pretrained weights learns something: on a CPU, on a GPU.
SCRATCH_S = {"cpu": 12 * 3600.0, "gpu": 1800.0}


def choose_way(
    facts: InstanceFacts, *, budget_s: float | None = None, on_gpu: bool = False, is_pretrained: bool = False
) -> tuple[Way, str]:
    """The model for the objects of a training set, and why.

    Args:
        facts: of the training images, at the size at which they are worked on.
        budget_s: seconds for training; None is no limit.
        on_gpu: whether training runs on a GPU.
        is_pretrained: whether the detector starts from trained weights.
    """
    overlap = f"{facts.overlap_share:.0%} of the objects overlap"
    can_detect = is_pretrained or budget_s is None or budget_s >= SCRATCH_S["gpu" if on_gpu else "cpu"]
    if facts.overlap_share > (MOST_OVERLAP if can_detect else MOST_OVERLAP_FORCED):
        return "mask_rcnn", f"{overlap}, and one map for all objects gives each pixel to one of them"
    if facts.objects == 0:
        return "unet_watershed", "no object is known: the quicker way"
    if not can_detect:
        device = "a GPU" if on_gpu else "a CPU"
        why = f"{budget_s:.0f} s on {device} are too few for a detector without pretrained weights"
        return "unet_watershed", f"{why}; {overlap}"
    many = f"{facts.objects_per_image:.0f} objects in the median image"
    if facts.most_objects > MOST_DETECTIONS:
        return (
            "unet_watershed",
            f"up to {facts.most_objects} objects in an image, more than a detector keeps; {overlap}",
        )
    if facts.objects_per_image >= CROWDED and facts.relative_side <= SMALL_SIDE:
        small = f"{facts.relative_side:.1%} of the image's side"
        touch = f"{facts.contact_share:.0%} in contact"
        return "unet_watershed", f"{many}, small ({small}), {touch}: crowded small objects; {overlap}"
    if facts.contact_share > 0.5 and facts.size_spread <= WIDE_SPREAD and facts.objects_per_image >= CROWDED / 2:
        return "unet_watershed", f"{facts.contact_share:.0%} of {many} touch and are alike in size; {overlap}"
    return "mask_rcnn", f"{many}, {facts.relative_side:.0%} of the image's side: few and large; {overlap}"
