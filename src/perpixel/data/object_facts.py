"""The part of a fingerprint that only sets of objects have."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class InstanceFacts:
    """The objects of a set of images; shares are of all objects, NaN-free: 0 where there is no object.

    Attributes:
        images, empty_images: how many, and how many of them without objects.
        objects: in all; `objects_per_image` is the median over images, `most_objects` the largest number in one.
        median_area: in pixels; `median_side` its square root.
        size_spread: 90th over 10th percentile of the square roots of the areas; 1 = all alike.
        small_share: smaller than 32 x 32 pixels.
        contact_share: touch or overlap another one, or have one pixel between.
        overlap_share: share a pixel with another one, so that a label map cannot hold them.
        frame_share: reach the frame of their image.
        relative_side: median of the square root of area over that of the image's pixels.
        small_box, large_box: 5th and 95th percentile of the square root of the area of the boxes, in pixels.
        flat_box, tall_box: 10th and 90th percentile of their height over width; 1 where there is no object.
    """

    images: int
    empty_images: int
    objects: int
    objects_per_image: float
    most_objects: int
    median_area: float
    median_side: float
    size_spread: float
    small_share: float
    contact_share: float
    overlap_share: float
    frame_share: float
    relative_side: float
    small_box: float = 0.0
    large_box: float = 0.0
    flat_box: float = 1.0
    tall_box: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """Plain values, which `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> InstanceFacts:
        """Read what `to_json` wrote."""
        return cls(**content)
