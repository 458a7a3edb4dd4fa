"""Anchors of Mask R-CNN from the sizes of the objects: boxes that are twice too large or too small find them late."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from perpixel.data import InstanceFacts

# COCO's, which detectors have by default: stride 4 and 32 pixels, doubled four times.
LEVELS = 5
FINEST = 4
USUAL = 32
USUAL_RATIO = 2.0
# A box of two strides a side lies a quarter of its side off the nearest anchor at worst (IoU 0.4); less is not found.
LEAST_STRIDES = 2
# Sides from level to level; a box between two anchors twice apart has an IoU of 0.5 with the nearer one.
STEP = 2.0
# Tall over flat boxes up to which one shape of anchor serves all (IoU 0.8 at least), and the most elongated anchors.
ALIKE, MOST_RATIO = 1.5, 4.0


@dataclass(frozen=True)
class AnchorPlan:
    """Options of `mask_rcnn` and why.

    Attributes:
        finest: stride of the finest level.
        anchor_sizes: side in pixels at working scale of the anchor of each level, fine to coarse.
        aspect_ratios: height over width.
        reason: one sentence.
    """

    finest: int
    anchor_sizes: list[list[int]]
    aspect_ratios: list[float]
    reason: str

    def options(self) -> dict[str, Any]:
        """As `create_model` takes them."""
        return {"finest": self.finest, "anchor_sizes": self.anchor_sizes, "aspect_ratios": self.aspect_ratios}


def plan_anchors(facts: InstanceFacts, scale: float = 1.0) -> AnchorPlan:
    """Anchors that reach from the 5th to the 95th percentile of the boxes' sides, doubling from level to level.

    The smallest is never above COCO's 32, so that the coarse levels keep their large ones. Where boxes are smaller
    than two strides of the usual finest level, a finer one is added, which costs about three times the work of all
    others together.

    Args:
        scale: pixels of the image that the net sees over those of the file.
    """
    if not facts.objects or facts.small_box <= 0:
        return AnchorPlan(FINEST, _sizes(USUAL, STEP, LEVELS), _ratios(1 / USUAL_RATIO, USUAL_RATIO),
                          "no objects are known: COCO's anchors")  # fmt: skip
    small, large = facts.small_box * scale, facts.large_box * scale
    finest = FINEST if small >= LEAST_STRIDES * FINEST else FINEST // 2
    levels = LEVELS + (finest < FINEST)
    first = min(USUAL, max(small, LEAST_STRIDES * finest))
    step = max(STEP, (large / first) ** (1 / (levels - 1)))
    sizes = _sizes(first, step, levels)
    reason = (
        f"boxes are {small:.0f} to {large:.0f} pixels a side (5th to 95th percentile, at scale {scale:g}): anchors of "
        f"{sizes[0][0]} to {sizes[-1][0]}"
    )
    if finest < FINEST:
        reason += f", with a level at stride {finest} for the small ones"
    if step > 1.05 * STEP:
        reason += f", {step:.1f} times larger from level to level to reach the large ones"
    ratios = _ratios(facts.flat_box, facts.tall_box)
    return AnchorPlan(finest, sizes, ratios, f"{reason}; height over width {facts.flat_box:.2f} to "
                      f"{facts.tall_box:.2f} (10th to 90th)")  # fmt: skip


def _sizes(first: float, step: float, levels: int) -> list[list[int]]:
    return [[round(first * step**level)] for level in range(levels)]


def _ratios(flat: float, tall: float) -> list[float]:
    """Flat, middle and tall anchors; the middle one alone where the boxes are nearly alike."""
    flat, tall = (min(max(each, 1 / MOST_RATIO), MOST_RATIO) for each in (flat, tall))
    middle = round(math.sqrt(flat * tall), 2)
    return [middle] if tall <= flat * ALIKE else [round(flat, 2), middle, round(tall, 2)]
