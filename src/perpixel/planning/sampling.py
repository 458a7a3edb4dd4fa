"""How often images and places with rare classes are shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from perpixel.data import Fingerprint, repeat_factors

# Share of the images below which a class is rare, so that its images come more often. LVIS takes 0.001 of 100 000
# images; data sets here are smaller, and a class in less than a tenth of a few hundred images is seldom seen.
RARE_IMAGES = 0.1
# Share of crops that are placed on a class where the pixels are spread unevenly.
RARE_SHARE = 0.33

# (setting, value, reason) -> the value that stands.
Add = Callable[[str, Any, str], Any]


def plan_sampling(add: Add, data: Fingerprint, *, weighs: bool, fact: str) -> None:
    """Decide rare_share, rare_power and repeat_threshold.

    Args:
        weighs: whether the pixels of the classes are so uneven that something is done about it.
        fact: how uneven they are, in words.
    """
    add("rare_share", RARE_SHARE if weighs else 0.0, "share of crops placed on a class of the image; " + fact)
    add("rare_power", 0.0, "every class of the image is drawn alike; above 0 with a chance of its pixels ** -power")
    add("repeat_threshold", *_repeat_threshold(data))


def _repeat_threshold(data: Fingerprint) -> tuple[float, str]:
    """Share of the images below which a class is rare, 0 where none is; and why."""
    count, held = data.num_images["train"], data.class_images["train"]
    seen = [(images, name) for images, name in zip(held, data.class_names, strict=True) if images]
    images, name = min(seen, default=(count, ""))
    if images >= RARE_IMAGES * count:
        return 0.0, f"no class is in less than {RARE_IMAGES:.0%} of the images, so all come alike"
    rare = sum(images < RARE_IMAGES * count for images, _ in seen)
    most = repeat_factors([[0]] * images + [[]] * (count - images), threshold=RARE_IMAGES).max()
    return RARE_IMAGES, (
        f"{rare} of {len(seen)} classes are in less than {RARE_IMAGES:.0%} of the images ('{name}' in {images} of "
        f"{count}): images with them come up to {most:.1f} times as often"
    )


def class_chances(class_pixels: list[int], power: float) -> list[float] | None:
    """The relative chance of each class to be the one that a crop is placed on: pixels ** -power; None where equal."""
    if power == 0:
        return None
    return [pixels**-power if pixels else 0.0 for pixels in class_pixels]
