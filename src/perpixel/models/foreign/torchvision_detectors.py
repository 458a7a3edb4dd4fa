"""torchvision's Mask R-CNN checkpoints, recognised by the names and shapes of their tensors.

roi_heads.box_head.fc6       maskrcnn_resnet50_fpn: normalisation frozen, or trained where nothing was pretrained
roi_heads.box_head.0.0       maskrcnn_resnet50_fpn_v2: normalisation in pyramid and heads, four convolutions per box

Files from before torchvision 0.13, that of its COCO weights among them, call some tensors otherwise.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from perpixel.encoders.resnet import UNITS
from perpixel.errors import InputError
from perpixel.models.foreign.foreign import Foreign, count_units, imagenet_statistics, kernel, renamed

KNOWN = "maskrcnn_resnet50_fpn and maskrcnn_resnet50_fpn_v2"
BODY = "backbone.body."
# Before 0.13 -> since; the layers then stood alone and now stand in blocks.
OLD_NAMES = (
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"^(rpn\.head\.conv)\.(weight|bias)$"), r"\1.0.0.\2"),
    (re.compile(r"^roi_heads\.mask_head\.mask_fcn(\d+)\.(weight|bias)$"), r"roi_heads.mask_head.\1.0.\2"),
)
# The size of the anchors is not in the file; this many at each place are torchvision's own.
ANCHORS = 3
FROZEN_NOTE = (
    "The file's batch normalisation is frozen; it is computed without the small number that usually keeps its divisor "
    "above 0, as torchvision does for its COCO weights (norm_eps 0; nets frozen at ImageNet's statistics have 1e-5)."
)
SIZE_NOTE = (
    "torchvision trained on images whose shorter side is 800 pixels and whose longer one is at most 1333: resize to "
    "about that."
)


def is_detector(state: dict[str, Tensor]) -> bool:
    """Whether the file holds one of torchvision's detectors."""
    return any(name.startswith(("rpn.", "roi_heads.")) for name in state)


def read_detector(state: dict[str, Tensor], where: str) -> Foreign:
    """Convert the tensors of one of torchvision's Mask R-CNNs.

    Raises:
        InputError: another detector, or another backbone or anchors than torchvision's own.
    """
    encoder = _encoder(state, where)
    state = _with_new_names(state)
    is_v2 = "roi_heads.box_head.0.0.weight" in state
    what = f"torchvision maskrcnn_{encoder}_fpn" + "_v2" * is_v2
    table = [(BODY, "encoder.net."), ("backbone.fpn.", "pyramid."), ("rpn.head.", "rpn.head.")]
    table += _box_head(is_v2) + _mask_head()
    is_trained = is_v2 or f"{BODY}bn1.num_batches_tracked" in state
    options: dict[str, Any] = {"encoder": encoder, "norm": "batch" if is_trained else "frozen", "aligned": False}
    if is_v2:
        options |= {"head_norm": "batch", "rpn_convs": 2, "box_convs": 4}
    if not is_trained:
        options["norm_eps"] = 0.0
    anchors = kernel(state, "rpn.head.cls_logits.weight", where, what).shape[0]
    if anchors != ANCHORS:
        raise InputError(
            f"{where}: {what} with {anchors} anchors at each place: their sizes are not in the file, only "
            f"torchvision's own {ANCHORS} are known"
        )
    in_channels = kernel(state, f"{BODY}conv1.weight", where, what).shape[1]
    mean, std, notes = imagenet_statistics(in_channels)
    return Foreign(
        what=what, where=where, model="mask_rcnn", options=options, in_channels=in_channels,
        num_classes=kernel(state, "roi_heads.box_predictor.cls_score.weight", where, what, 2).shape[0],
        state=renamed(state, table, where, what), mean=mean, std=std,
        notes=(*notes, SIZE_NOTE, *(() if is_trained else (FROZEN_NOTE,))),
    )  # fmt: skip


def _encoder(state: dict[str, Tensor], where: str) -> str:
    if not any(name.startswith("roi_heads.mask_head.") for name in state):
        raise InputError(f"{where}: a detector without masks: of torchvision's only {KNOWN} are known")
    units = count_units(state, BODY)
    is_deep = f"{BODY}layer1.0.conv3.weight" in state
    for name, each in UNITS.items():
        if each == units and is_deep == (name not in ("resnet18", "resnet34")):
            return name
    raise InputError(f"{where}: a Mask R-CNN whose backbone is no ResNet: of torchvision's only {KNOWN} are known")


def _with_new_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    made = {}
    for name, value in state.items():
        for pattern, new in OLD_NAMES:
            if match := pattern.match(name):
                name = match.expand(new)
                if "mask_head" in name:  # counted from 1 then
                    name = name.replace(f"mask_head.{match[1]}.", f"mask_head.{int(match[1]) - 1}.")
                break
        made[name] = value
    return made


def _box_head(is_v2: bool) -> list[tuple[str, str]]:
    theirs = "roi_heads.box_head."
    names = [("roi_heads.box_predictor.cls_score.", "box_head.classifier."),
             ("roi_heads.box_predictor.bbox_pred.", "box_head.offsets.")]  # fmt: skip
    if not is_v2:
        return [*names, (f"{theirs}fc6.", "box_head.fc1."), (f"{theirs}fc7.", "box_head.fc2.")]
    return [*names, *_blocks(theirs, "box_head.convs."), (f"{theirs}5.", "box_head.fc1.")]


def _mask_head() -> list[tuple[str, str]]:
    return [
        *_blocks("roi_heads.mask_head.", "mask_head.convs."),
        ("roi_heads.mask_predictor.conv5_mask.", "mask_head.up."),
        ("roi_heads.mask_predictor.mask_fcn_logits.", "mask_head.classifier."),
    ]


def _blocks(theirs: str, ours: str) -> list[tuple[str, str]]:
    """Four convolutions with what may stand behind them."""
    return [
        (f"{theirs}{i}.{place}.", f"{ours}{i}.{name}.") for i in range(4) for place, name in ((0, "conv"), (1, "norm"))
    ]
