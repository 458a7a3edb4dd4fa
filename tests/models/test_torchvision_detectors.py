"""torchvision's Mask R-CNNs as twins: with their weights ours finds the same boxes, scores, classes and masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.models.foreign import load_foreign, read_torchvision
from perpixel.models.mask_rcnn import MaskRCNN
from perpixel.models.paste_masks import paste_masks

TOLERANCE = 1e-4
SIZES = {"min_size": 96, "max_size": 144}
PHOTO = (75, 101)
TRUNK = {"weights": None, "weights_backbone": None}


def lively(model: nn.Module) -> nn.Module:
    """In eval mode with statistics as training leaves them, and sure of a few classes, so that scores differ."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, part in model.named_modules():
            if hasattr(part, "running_var"):
                part.running_mean.normal_(0, 0.1, generator=generator)
                part.running_var.uniform_(0.5, 1.5, generator=generator)
                part.weight.uniform_(0.5, 1.5, generator=generator)
                part.bias.normal_(0, 0.1, generator=generator)
            if name.endswith("bn3"):
                part.weight.mul_(0.2)
        model.roi_heads.box_predictor.cls_score.weight.mul_(8)
        model.roi_heads.box_predictor.bbox_pred.weight.mul_(3)
    return model.eval()


def their_model(name: str, **options: Any) -> nn.Module:
    """ "frozen": as the COCO weights are built, whose normalisation has no eps; "v1" and "v2": from nothing."""
    from torchvision.models import detection
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops import FrozenBatchNorm2d

    torch.manual_seed(0)
    if name != "frozen":
        build = detection.maskrcnn_resnet50_fpn if name == "v1" else detection.maskrcnn_resnet50_fpn_v2
        return lively(build(**TRUNK, num_classes=5, **SIZES, **options))
    trunk = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=FrozenBatchNorm2d)
    model = lively(detection.MaskRCNN(trunk, 5, **SIZES, **options))
    for part in model.modules():
        if isinstance(part, FrozenBatchNorm2d):
            part.eps = 0.0
    return model


def with_old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As torchvision before 0.13 saved them, the COCO weights among them."""
    made = {}
    for name, value in state.items():
        for block in ("inner_blocks", "layer_blocks"):
            for level in range(4):
                name = name.replace(f"{block}.{level}.0.", f"{block}.{level}.")
        for index in range(4):
            name = name.replace(f"mask_head.{index}.0.", f"mask_head.mask_fcn{index + 1}.")
        made[name.replace("head.conv.0.0.", "head.conv.")] = value
    return made


@torch.no_grad()
def assert_twins(theirs: nn.Module, mine: MaskRCNN) -> None:
    """On a photo that torchvision resizes; ours takes it resized, and gives objects on the photo's own grid."""
    photo = torch.rand(3, *PHOTO, generator=torch.Generator().manual_seed(1))
    expected = theirs([photo])[0]
    resized, _ = theirs.transform([photo])
    height, width = resized.image_sizes[0]
    image = resized.tensors[..., :height, :width]
    found = mine(image)[0]
    assert len(found.scores) == len(expected["scores"]) > 20
    boxes = found.boxes * torch.tensor([PHOTO[1] / width, PHOTO[0] / height]).repeat(2)
    assert (boxes - expected["boxes"]).abs().max() < TOLERANCE * max(PHOTO)
    assert (found.scores - expected["scores"]).abs().max() < TOLERANCE
    assert torch.equal(found.classes, expected["labels"])
    runs = paste_masks(found.masks.numpy(), boxes.numpy(), PHOTO, aligned=mine.aligned)
    soft = expected["masks"][:, 0].numpy()
    for index, each in enumerate(soft):
        differs = runs.mask(index) != (each >= 0.5)
        assert (np.abs(each[differs] - 0.5) < TOLERANCE).all()
    detected = mine.detect(image, size=PHOTO)
    kept = runs.areas > 0
    assert np.array_equal(detected.masks.spans, runs.spans) and np.array_equal(detected.scores, found.scores[kept])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("frozen", {"encoder": "resnet18", "norm": "frozen", "norm_eps": 0.0, "aligned": False}),
        pytest.param("v1", {"encoder": "resnet50", "norm": "batch", "aligned": False}, marks=pytest.mark.slow),
        pytest.param(
            "v2",
            {"encoder": "resnet50", "norm": "batch", "aligned": False, "head_norm": "batch", "rpn_convs": 2,
             "box_convs": 4},
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_torchvision_s_detections(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    limits = {"rpn_pre_nms_top_n_test": 200, "rpn_post_nms_top_n_test": 200, "box_detections_per_img": 30}
    theirs = their_model(name, **limits)
    torch.save(theirs.state_dict(), tmp_path / "m.pth")
    foreign = read_torchvision(tmp_path / "m.pth")
    assert (foreign.model, foreign.options, foreign.num_classes, foreign.in_channels) == ("mask_rcnn", options, 5, 3)
    assert foreign.what == f"torchvision maskrcnn_{options['encoder']}_fpn" + "_v2" * (name == "v2")
    assert any("shorter side is 800" in note for note in foreign.notes)
    assert any("frozen" in note for note in foreign.notes) == (name == "frozen")
    mine = MaskRCNN(3, foreign.num_classes, **foreign.options, test_proposals=200, max_objects=30)
    load_foreign(mine, foreign)
    assert_twins(theirs, mine)


def test_files_with_the_names_before_0_13(tmp_path: Path) -> None:
    state = their_model("frozen").state_dict()
    old = with_old_names(state)
    assert len(old) == len(state) and len(old.keys() - state.keys()) == 2 * (8 + 1 + 4)
    torch.save(old, tmp_path / "old.pth")
    torch.save(state, tmp_path / "new.pth")
    one, other = (read_torchvision(tmp_path / name) for name in ("old.pth", "new.pth"))
    assert one.options == other.options and one.state.keys() == other.state.keys()
    assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)


def test_what_is_no_mask_rcnn_is_refused(tmp_path: Path) -> None:
    state = {name: torch.zeros(1) for name in ("rpn.head.cls_logits.weight", "roi_heads.box_head.fc6.weight")}
    masked = state | {"roi_heads.mask_head.0.0.weight": torch.zeros(1)}
    full = their_model("frozen").state_dict()
    cases = {
        "a detector without masks: of torchvision's only maskrcnn_resnet50_fpn and": state,
        "a Mask R-CNN whose backbone is no ResNet": masked,
        "with 15 anchors at each place: their sizes are not in the file": full
        | {"rpn.head.cls_logits.weight": torch.zeros(15, 256, 1, 1)},
        "tensor 'roi_heads.keypoint_head.0.weight' has no place in it": full
        | {"roi_heads.keypoint_head.0.weight": torch.zeros(1)},
    }
    for message, each in cases.items():
        torch.save(each, tmp_path / "m.pth")
        with pytest.raises(InputError, match=message):
            read_torchvision(tmp_path / "m.pth")


def test_a_file_that_lacks_a_tensor_is_refused() -> None:
    from perpixel.models.foreign.torchvision_detectors import read_detector

    state = their_model("frozen").state_dict()
    del state["roi_heads.mask_predictor.conv5_mask.bias"]
    foreign = read_detector(state, "w.pth")
    with pytest.raises(InputError, match=r"w\.pth: recognised as torchvision maskrcnn_resnet18_fpn, but lacks"):
        load_foreign(MaskRCNN(3, 5, **foreign.options), foreign)
