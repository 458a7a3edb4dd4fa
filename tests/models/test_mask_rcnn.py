"""Mask R-CNN: counts, targets by hand, crowds, losses against torchvision's, tiny learning, bf16."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.labels import Instances
from perpixel.layers.replace_norm import FrozenBatchNorm2d
from perpixel.models.mask_rcnn import CARD, MaskRCNN, level_indices
from perpixel.models.mask_rcnn_heads import MaskHead
from perpixel.models.mask_rcnn_targets import Truth

SMALL = {
    "encoder": "resnet18", "norm": "group", "head_norm": "group", "channels": 32, "box_width": 64, "rpn_samples": 32,
    "box_samples": 32, "train_proposals": 100, "test_proposals": 100,
}  # fmt: skip


@dataclass
class Objects:
    """Objects of one crop, as training batches have them."""

    layers: Tensor
    classes: Tensor
    is_crowd: Tensor

    def boxes(self) -> Tensor:
        boxes = torch.zeros(len(self.classes), 4)
        for index in range(len(self.classes)):
            _, rows, cols = torch.nonzero(self.layers == index + 1, as_tuple=True)
            boxes[index] = torch.stack([cols.min(), rows.min(), cols.max() + 1, rows.max() + 1])
        return boxes


def squares(*corners: tuple[int, int, int, int], size: tuple[int, int] = (64, 96), crowds: int = 0) -> Objects:
    """Rectangles (x0, y0, x1, y1) in a layer each, of class 1, 2, 1, 2, ...; the last `crowds` are crowds."""
    layers = torch.zeros((max(1, len(corners)), *size), dtype=torch.int32)
    for index, (x0, y0, x1, y1) in enumerate(corners):
        layers[index, y0:y1, x0:x1] = index + 1
    count = len(corners)
    return Objects(layers, torch.arange(count) % 2 + 1, torch.arange(count) >= count - crowds)


def image_of(*objects: Objects) -> Tensor:
    """(B, 3, h, w) in which class 1 is bright and class 2 dark."""
    images = torch.randn(len(objects), 3, *objects[0].layers.shape[1:], generator=torch.Generator().manual_seed(0)) / 9
    for image, each in zip(images, objects):
        for layer in each.layers:
            kind = torch.cat([torch.zeros(1, dtype=torch.int64), each.classes])[layer.long()]
            image += torch.tensor([0.0, 2.0, -2.0])[kind]
    return images


# ---- the net


@pytest.mark.parametrize("counted", CARD.counts, ids=lambda each: each.label)
def test_counts_of_the_card(counted):
    with torch.device("meta"):
        model = MaskRCNN(counted.in_channels, counted.num_classes, **counted.options)
    assert sum(parameter.numel() for parameter in model.parameters()) == counted.expected


def test_the_count_is_the_arithmetic_of_the_paper():
    trunk = 23_508_032 - 53_120  # ResNet-50 without its normalisations
    laterals, smooth = (256 + 512 + 1024 + 2048) * 256 + 4 * 256, 4 * (9 * 256 * 256 + 256)
    rpn = 9 * 256 * 256 + 256 + 3 * 257 + 12 * 257
    box = 49 * 256 * 1024 + 1024 + 1024 * 1024 + 1024 + 1025 * 91 * 5
    mask = 4 * (9 * 256 * 256 + 256) + 4 * 256 * 256 + 256 + 257 * 91
    assert CARD.counts[0].expected == trunk + laterals + smooth + rpn + box + mask


def test_importing_it_does_not_import_torchvision():
    code = "import sys, perpixel.models.mask_rcnn; print('torchvision' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 96), (75, 50), (3, 7)])
def test_detections_of_any_size_and_channels(size):
    model = MaskRCNN(5, 4, **SMALL, min_score=0.0, max_objects=20).eval()
    found = model(torch.randn(2, 5, *size))
    assert len(found) == 2
    for each in found:
        assert 0 < len(each.scores) <= 20 and each.masks.shape == (len(each.scores), 28, 28)
        assert (each.scores.diff() <= 0).all() and set(each.classes.tolist()) <= {1, 2, 3}
        assert (each.boxes >= 0).all() and (each.boxes[:, 2:] <= torch.tensor(size[::-1])).all()


@pytest.mark.parametrize(
    ("options", "strides"),
    [
        ({"encoder": "resnet18"}, (4, 8, 16, 32)),
        ({"encoder": "resnet18", "finest": 2}, (2, 4, 8, 16, 32)),
        ({"encoder": "convnext_atto"}, (4, 8, 16, 32)),
        ({"encoder": "mobilenetv3_small_050"}, (4, 8, 16, 32)),
    ],
)
@torch.no_grad()
def test_encoders_and_a_finer_level(options, strides):
    model = MaskRCNN(3, 2, **SMALL | options).eval()
    assert model.box_align.strides == model.mask_align.strides == strides
    anchors = model.rpn.anchor_generator
    assert anchors.sizes == tuple((8 * stride,) for stride in (*strides, 64))
    shapes = []
    model.rpn.head.register_forward_pre_hook(lambda part, args: shapes.extend(maps.shape[2:] for maps in args[0]))
    model(torch.randn(1, 3, 70, 90))
    assert [96 // shape[0] for shape in shapes] == [*strides, 48 if strides[-1] == 32 else 64]


def test_levels_are_asked_for_by_stride():
    assert level_indices("x", [2, 4, 8, 16, 32], 4) == [1, 2, 3, 4]
    assert level_indices("x", [2, 4, 8, 16, 32], 2) == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match=r"features at strides 2, 4, \.\.\., encoder 'x' .*, or finest=4"):
        level_indices("x", [4, 8, 16, 32], 2)


def test_what_norm_does_to_the_encoder():
    kinds = {norm: MaskRCNN(3, 2, **SMALL | {"norm": norm}).encoder for norm in ("frozen", "batch", "group")}
    count = sum(isinstance(part, nn.BatchNorm2d) for part in kinds["batch"].modules())
    assert count == sum(isinstance(part, FrozenBatchNorm2d) for part in kinds["frozen"].modules()) == 20
    assert sum(isinstance(part, nn.GroupNorm) for part in kinds["group"].modules()) == 20


def test_a_frozen_random_encoder_cannot_be_trained():
    model = MaskRCNN(3, 3, **SMALL | {"norm": "frozen"}).train()
    batch = squares((10, 10, 40, 40))
    with pytest.raises(InputError, match=r"encoder of random weights: .*: give weights, or norm='group'"):
        model(image_of(batch), [batch])
    model.encoder.net.bn1.running_mean.fill_(0.1)  # as any loaded weights do
    assert set(model(image_of(batch), [batch])) == {"rpn_objectness", "rpn_box", "class", "box", "mask"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "option channels=0 of mask_rcnn: it must be at least 1"),
        ({"box_convs": -1}, "option box_convs=-1 of mask_rcnn: it must be at least 0"),
        ({"norm": "layer"}, "option norm='layer' of mask_rcnn: choose one of frozen, batch, group"),
        ({"head_norm": "frozen"}, "option head_norm='frozen' of mask_rcnn: choose one of none, batch, group"),
        ({"finest": 8}, "option finest=8 of mask_rcnn: choose 2 or 4"),
        ({"mask_size": 27}, "option mask_size=27 of mask_rcnn: give an even number"),
        ({"nms": 1.5}, r"option nms=1\.5 of mask_rcnn: give 0 to 1"),
        ({"anchor_sizes": [[8], [16]]}, r"give 5 lists of the same length, one for each stride \[4, 8, 16, 32, 64\]"),
        ({"anchor_sizes": [[8], [16], [32], [64], []]}, "5 lists of the same length"),
        ({"anchor_sizes": [[0], [16], [32], [64], [128]]}, "give sizes from 1 pixel on and ratios above 0"),
        ({"aspect_ratios": [0.0]}, "ratios above 0"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        MaskRCNN(3, 2, **SMALL | options)


def test_one_class_and_lost_statistics_are_refused(tmp_path):
    with pytest.raises(InputError, match="num_classes=1 of mask_rcnn: give 2 or more, background included"):
        MaskRCNN(3, 1, **SMALL)
    torch.save(MaskRCNN(3, 2, **SMALL | {"norm": "batch"}).encoder.net.state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"norm='group' .*w\.pth.*: they were trained with batch normalisation"):
        MaskRCNN(3, 2, **SMALL | {"weights": str(tmp_path / "w.pth")})


# ---- heads


def test_the_mask_head_computes_one_class_of_all():
    torch.manual_seed(0)
    head = MaskHead(8, 5)
    cells, classes = torch.randn(3, 8, 14, 14), torch.tensor([4, 0, 2])
    every = head.classifier(torch.relu(head.up(head.convs(cells))))
    for layout in (torch.contiguous_format, torch.channels_last):
        mine = head(cells.contiguous(memory_format=layout), classes)
        assert torch.allclose(mine, every[torch.arange(3), classes], atol=1e-6)
    assert head(cells[:0], classes[:0]).shape == (0, 28, 28)


# ---- targets


def test_truth_parts_crowds_from_objects():
    objects = squares((2, 3, 6, 5), (10, 10, 20, 20), (30, 0, 60, 32), crowds=1)
    truth = Truth.of(objects, torch.device("cpu"))
    assert truth.boxes.tolist() == [[2, 3, 6, 5], [10, 10, 20, 20]] and truth.classes.tolist() == [1, 2]
    # Wholly in, just more than half, just half, and none of the pixels in the crowd; one beyond the image.
    boxes = [[30, 0, 40, 10], [24.0, 0, 44, 10], [20, 0, 40, 10], [0, 40, 30, 60], [-9, -9, 0, 0]]
    assert truth.in_crowd(torch.tensor(boxes)).tolist() == [True, True, False, False, False]
    assert not Truth.of(squares((2, 3, 6, 5)), torch.device("cpu")).in_crowd(torch.tensor(boxes)).any()


def test_mask_targets_are_the_shares_of_the_cells():
    # Object 2 lies over object 1 in another layer; the box of both is 8x8 pixels, cells of 2x2.
    objects = squares((0, 0, 8, 8), (3, 0, 8, 4), size=(8, 8))
    truth = Truth.of(objects, torch.device("cpu"))
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 8.0]])
    found = truth.masks_in(boxes, torch.tensor([1, 0]), 4, aligned=True)
    # Four bilinear samples a cell, a quarter and three quarters into it: the border at x = 3 lies in cell 1.
    assert found[1].min() == 1
    assert found[0, 0, 0] == 0 and found[0, 0, 3] == 1 and found[0, 3].max() == 0
    assert 0.3 < found[0, 0, 1] < 0.7


def test_background_in_crowds_is_not_learnt_from():
    torch.manual_seed(0)
    model = MaskRCNN(3, 3, **SMALL).train()
    plain, crowd = squares((4, 4, 20, 20)), squares((4, 4, 20, 20), (40, 0, 96, 64), crowds=1)
    truths = [Truth.of(each, torch.device("cpu")) for each in (plain, crowd)]
    anchors = torch.tensor([[4.0, 4, 20, 20], [50, 10, 70, 30], [0, 40, 30, 60]])
    model.rpn._truths = truths
    labels, _ = model.rpn.assign_targets_to_anchors([anchors, anchors], [truth.as_dict() for truth in truths])
    assert labels[0].tolist() == [1, 0, 0] and labels[1].tolist() == [1, -1, 0]
    samples = model.regions.sample([anchors, anchors], truths)
    # Each object's own box is a proposal as well.
    assert samples.classes[0].tolist() == [1, 0, 0, 1] and samples.classes[1].tolist() == [1, 0, 1]
    # A proposal on an object is learnt from, crowd or not.
    on = Truth.of(squares((50, 10, 70, 30), (40, 0, 96, 64), crowds=1), torch.device("cpu"))
    assert model.regions.sample([anchors], [on]).classes[0].tolist() == [0, 1, 0, 1]


# ---- training


def gradients(model: nn.Module) -> dict[str, bool]:
    return {name: bool(part.grad is not None and part.grad.any()) for name, part in model.named_parameters()}


@pytest.mark.parametrize("options", [{}, {"box_convs": 1, "rpn_convs": 2, "head_norm": "batch"}])
def test_every_parameter_gets_a_gradient(options):
    torch.manual_seed(0)
    model = MaskRCNN(3, 3, **SMALL | options).train()
    batch = [squares((4, 4, 24, 28), (40, 10, 90, 60)), squares((20, 20, 60, 60))]
    losses = model(image_of(*batch), batch)
    assert all(value.isfinite() and value.ndim == 0 for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    without = [name for name, has in gradients(model).items() if not has]
    # Levels of 2x3 cells and less hold no sampled anchor and no box.
    assert all(name.startswith("encoder.net.layer4") or "pyramid" in name for name in without) and len(without) < 12


@pytest.mark.parametrize("head_norm", ["none", "batch"])
def test_images_without_objects_train_too(head_norm):
    torch.manual_seed(0)
    model = MaskRCNN(3, 3, **SMALL | {"head_norm": head_norm}).train()
    losses = model(torch.randn(2, 3, 64, 96), [squares(), squares()])
    assert losses["box"] == losses["mask"] == losses["rpn_box"] == 0 and losses["class"] > 0
    torch.stack(list(losses.values())).sum().backward()
    assert all(part.grad is not None and part.grad.isfinite().all() for part in model.mask_head.parameters())
    mixed = model(torch.randn(2, 3, 64, 96), [squares(), squares((4, 4, 40, 40))])
    assert mixed["mask"] > 0


def test_a_crowd_over_everything_leaves_nothing_to_learn():
    torch.manual_seed(0)
    model = MaskRCNN(3, 3, **SMALL).train()
    losses = model(torch.randn(1, 3, 64, 96), [squares((0, 0, 96, 64), crowds=1)])
    assert all(value == 0 for value in losses.values()) and len(losses) == 5
    torch.stack(list(losses.values())).sum().backward()
    assert all(part.grad is None or not part.grad.any() for part in model.parameters())


def test_training_needs_the_objects_and_detecting_eval_mode():
    model = MaskRCNN(3, 3, **SMALL).train()
    with pytest.raises(InputError, match="got 1 images and the objects of 0: give those of each image, or use"):
        model(torch.randn(1, 3, 64, 96))
    with pytest.raises(InputError, match=r"in eval mode, not 1: call model\.eval"):
        model.detect(torch.randn(1, 3, 64, 96))
    with pytest.raises(InputError, match="takes one image in eval mode, not 2"):
        model.eval().detect(torch.randn(2, 3, 64, 96))


def test_torchvision_s_losses():
    """Same weights, same image, all anchors and proposals learnt from, so that no chance is left."""
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.models.detection.mask_rcnn import MaskRCNN as Reference
    from torchvision.ops import FrozenBatchNorm2d as TheirFrozen

    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=TheirFrozen, trainable_layers=5)
    for part in backbone.modules():
        if isinstance(part, TheirFrozen):
            part.running_var.fill_(1.5)
    limits = {"rpn_batch_size_per_image": 10**6, "box_batch_size_per_image": 10**6, "box_positive_fraction": 1.0}
    limits |= {"rpn_pre_nms_top_n_train": 60, "rpn_post_nms_top_n_train": 60}
    theirs = Reference(backbone, 3, min_size=64, max_size=96, **limits, image_mean=[0.0] * 3, image_std=[1.0] * 3)
    theirs.rpn.fg_bg_sampler.positive_fraction = 1.0
    from perpixel.models.foreign import load_foreign
    from perpixel.models.foreign.torchvision_detectors import read_detector

    foreign = read_detector(theirs.state_dict(), "memory")
    everything = {"rpn_samples": 10**6, "box_samples": 10**6, "train_proposals": 60, "norm_eps": 1e-5}
    mine = load_foreign(MaskRCNN(3, 3, **foreign.options | everything), foreign)
    mine.rpn.fg_bg_sampler.positive_fraction = mine.regions.fg_bg_sampler.positive_fraction = 1.0
    objects = squares((4, 4, 24, 28), (40, 10, 90, 60), (0, 30, 64, 64))
    image, masks = image_of(objects), torch.stack([objects.layers[i] == i + 1 for i in range(3)]).byte()
    target = {"boxes": objects.boxes(), "labels": objects.classes, "masks": masks}
    theirs.train().transform.training = False
    expected = theirs([image[0]], [target])
    answer = mine.train()(image, [objects])
    names = {
        "loss_classifier": "class",
        "loss_box_reg": "box",
        "loss_mask": "mask",
        "loss_objectness": "rpn_objectness",
        "loss_rpn_box_reg": "rpn_box",
    }
    for name, value in expected.items():
        assert torch.allclose(answer[names[name]], value, rtol=1e-4), name
    torch.stack(list(expected.values())).sum().backward()
    torch.stack(list(answer.values())).sum().backward()
    assert torch.allclose(
        mine.encoder.net.conv1.weight.grad, theirs.backbone.body.conv1.weight.grad, rtol=1e-2, atol=1e-4
    )
    last = theirs.roi_heads.mask_predictor.mask_fcn_logits.weight.grad
    assert torch.allclose(mine.mask_head.classifier.weight.grad, last, rtol=1e-3, atol=1e-6)


def test_ten_steps_in_bf16_lower_the_loss():
    torch.manual_seed(0)
    model = MaskRCNN(3, 3, **SMALL, mask_convs=2).train()
    batch = [squares((6, 8, 24, 28), (40, 10, 84, 56))]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)
    sums = []
    for _ in range(10):
        with torch.autocast("cpu", torch.bfloat16):
            losses = model(image_of(*batch), batch)
        assert all(value.dtype == torch.float32 for value in losses.values())
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        sums.append(float(total.detach()))
    assert sums[-1] < 0.7 * sums[0]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_tiny_net_learns_two_images(precision):
    torch.manual_seed(0)
    model = (
        MaskRCNN(3, 3, **SMALL, mask_convs=2, anchor_sizes=[[8], [16], [32], [48], [64]])
        .to(memory_format=torch.channels_last)
        .train()
    )
    batch = [squares((6, 8, 24, 28), (40, 10, 84, 56)), squares((30, 20, 62, 52))]
    image = image_of(*batch).contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)
    for _ in range(60):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            losses = model(image, batch)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    model.eval()
    for each, objects in zip(image, batch):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            found = model.detect(each[None])
        found = found.take(found.scores > 0.5)
        for index, layer in enumerate(objects.layers[: len(objects.classes)]):
            truth = (layer == index + 1).numpy()
            ratios = [
                (found.masks.mask(i) & truth).sum() / (found.masks.mask(i) | truth).sum() for i in range(len(found))
            ]
            best = int(np.argmax(ratios))
            assert ratios[best] > 0.7 and found.classes[best] == objects.classes[index]


# ---- detecting


@torch.no_grad()
def test_detect_gives_objects_on_the_grid_asked_for():
    torch.manual_seed(0)
    model = MaskRCNN(3, 3, **SMALL, min_score=0.0).eval()
    image = torch.randn(1, 3, 50, 70)
    raw, found = model(image)[0], model.detect(image, size=(100, 210))
    assert isinstance(found, Instances) and found.size == (100, 210) and len(found)
    assert (found.masks.areas > 0).all() and (np.diff(found.scores) <= 0).all()
    rows = [int(np.argmin(np.abs(raw.scores.numpy() - score))) for score in found.scores]
    assert np.allclose(found.boxes, raw.boxes.numpy()[rows] * [3, 2, 3, 2], atol=1e-4)
    assert model.detect(image).size == (50, 70)


@torch.no_grad()
def test_coordinates_stay_fp32_under_bf16():
    torch.manual_seed(0)
    model = MaskRCNN(3, 2, **SMALL, min_score=0.0).eval()
    anchors = []
    model.rpn.anchor_generator.register_forward_hook(lambda part, args, output: anchors.append(output[0]))
    image = torch.randn(1, 3, 32, 1024)
    plain = model(image)[0]
    with torch.autocast("cpu", torch.bfloat16):
        half = model(image)[0]
    assert torch.equal(anchors[0], anchors[1]) and anchors[1].dtype == torch.float32
    assert {value.dtype for value in half} == {torch.float32, torch.int64}
    assert half.boxes.frac().any() and plain.boxes.shape[1] == 4
