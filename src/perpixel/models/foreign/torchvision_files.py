"""torchvision's semantic segmentation checkpoints, recognised by the names and shapes of their tensors.

backbone.layer4...  classifier.4                fcn_resnet50, fcn_resnet101
backbone.layer4...  classifier.0.convs...       deeplabv3_resnet50, deeplabv3_resnet101
backbone.0...       classifier.0.convs...       deeplabv3_mobilenet_v3_large
backbone.0...       classifier.cbr...           lraspp_mobilenet_v3_large
rpn...              roi_heads...                Mask R-CNN, see torchvision_detectors.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from perpixel.encoders import read_state_dict
from perpixel.encoders.resnet import UNITS
from perpixel.errors import InputError
from perpixel.models.foreign.foreign import Foreign, count_units, imagenet_statistics, kernel, renamed
from perpixel.models.foreign.torchvision_detectors import is_detector, read_detector

KNOWN = "fcn_resnet50, fcn_resnet101, deeplabv3_resnet50, deeplabv3_resnet101, deeplabv3_mobilenet_v3_large and "\
    "lraspp_mobilenet_v3_large"  # fmt: skip
MOBILENET = "mobilenet_v3_large"
DEEPLAB_RATES = [12, 24, 36]

Names = list[tuple[str, str]]


def read_torchvision(file: str | Path) -> Foreign:
    """Recognise and convert a state dict of one of torchvision's segmentation models or of its Mask R-CNNs.

    Args:
        file: .pth (opened with weights_only=True) or .safetensors.
    Raises:
        InputError: unreadable, or another network.
    """
    state, where = read_state_dict(file), str(file)
    if is_detector(state):
        return read_detector(state, where)
    encoder, head = _backbone(state, where), _head(state, where)
    what = f"torchvision {head}_{encoder}"
    has_aux = any(name.startswith("aux_classifier.") for name in state)
    options: dict[str, Any] = {"encoder": encoder}
    table: Names = [("backbone.", "encoder.net.")]
    if head == "fcn":
        model, last, table = "fcn_resnet", "classifier.4", table + fcn_head("classifier.", "head.")
    elif head == "deeplabv3":
        model, last, table = "deeplab_v3", "classifier.4", table + _deeplab_head()
        options |= {"head": "torchvision", "output_stride": 16 if encoder == MOBILENET else 8, "rates": DEEPLAB_RATES}
    else:
        model, last, table = "lraspp", "classifier.low_classifier", table + _lraspp_head()
    if has_aux:
        options["aux"] = True
        table = table + fcn_head("aux_classifier.", "aux_head.")
    first = "backbone.0.0.weight" if encoder == MOBILENET else "backbone.conv1.weight"
    in_channels = kernel(state, first, where, what).shape[1]
    num_classes = kernel(state, f"{last}.weight", where, what).shape[0]
    mean, std, notes = imagenet_statistics(in_channels)
    return Foreign(
        what=what + (" with its auxiliary head" if has_aux else ""), where=where, model=model, options=options,
        in_channels=in_channels, num_classes=num_classes, state=renamed(state, table, where, what),
        mean=mean, std=std, notes=notes,
    )  # fmt: skip


def _backbone(state: dict[str, Tensor], where: str) -> str:
    """Name of the encoder."""
    if "backbone.0.0.weight" in state:
        return MOBILENET
    units = count_units(state, "backbone.")
    is_deep = "backbone.layer1.0.conv3.weight" in state
    names = [
        name for name, each in UNITS.items() if each == units and is_deep == (name not in ("resnet18", "resnet34"))
    ]
    if "backbone.conv1.weight" not in state or not names:
        raise InputError(f"{where}: {_looks_like(state)}, none of torchvision's segmentation models {KNOWN}: "
                         f"{_advice(state)}")  # fmt: skip
    return names[0]


def _head(state: dict[str, Tensor], where: str) -> str:
    if "classifier.0.convs.0.0.weight" in state:
        return "deeplabv3"
    if "classifier.cbr.0.weight" in state:
        return "lraspp"
    if "classifier.0.weight" in state and state["classifier.0.weight"].ndim == 4:
        return "fcn"
    raise InputError(
        f"{where}: has a backbone, but no classifier of torchvision's segmentation models {KNOWN}: give the state dict "
        "of the whole model"
    )


def fcn_head(theirs: str, ours: str) -> Names:
    """Of torchvision's FCNHead, main or auxiliary."""
    places = (("0.", "conv.conv."), ("1.", "conv.norm."), ("4.", "classifier."))
    return [(theirs + old, ours + new) for old, new in places]


def aspp(theirs: str, ours: str) -> Names:
    """Of torchvision's ASPP, which segmentation-models-pytorch has taken over."""
    names = [(f"{theirs}convs.4.1.", f"{ours}branches.4.project.conv."),
             (f"{theirs}convs.4.2.", f"{ours}branches.4.project.norm.")]  # fmt: skip
    for branch in range(4):
        names += [(f"{theirs}convs.{branch}.0.", f"{ours}branches.{branch}.conv."),
                  (f"{theirs}convs.{branch}.1.", f"{ours}branches.{branch}.norm.")]  # fmt: skip
    return [*names, (f"{theirs}project.0.", f"{ours}project.conv."), (f"{theirs}project.1.", f"{ours}project.norm.")]


def _deeplab_head() -> Names:
    refine = [("classifier.1.", "neck.refine.conv."), ("classifier.2.", "neck.refine.norm.")]
    return [*aspp("classifier.0.", "neck.aspp."), *refine, ("classifier.4.", "classifier.")]


def _lraspp_head() -> Names:
    return [
        ("classifier.cbr.0.", "project.conv."),
        ("classifier.cbr.1.", "project.norm."),
        ("classifier.scale.1.", "weighting.1."),
        ("classifier.low_classifier.", "low_classifier."),
        ("classifier.high_classifier.", "classifier."),
    ]


def _looks_like(state: dict[str, Tensor]) -> str:
    return f"{len(state)} tensors, the first called '{next(iter(state))}'" if state else "no tensor"


def _advice(state: dict[str, Tensor]) -> str:
    if any(name.startswith("segmentation_head.") for name in state):
        return "it looks like segmentation-models-pytorch: use the source 'smp' and the folder of save_pretrained"
    if "fc.weight" in state or "features.0.weight" in state:
        return "it looks like an ImageNet classifier: use the source 'classifier'"
    return "give a state dict of one of them"
