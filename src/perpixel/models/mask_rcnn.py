"""Mask R-CNN: a pyramid of features, boxes that may hold an object, and for each a class, a finer box and a mask.

He, Gkioxari, Dollar, Girshick, "Mask R-CNN", ICCV 2017; the pyramid is that of Lin et al., "Feature pyramid networks
for object detection", CVPR 2017, the proposals those of Ren et al., "Faster R-CNN", NIPS 2015.

    image -- encoder -- strides 4, 8, 16, 32 -- FPN -- levels at strides 4, 8, 16, 32, 64
                                                         |
        levels -- 3x3 -- 1x1 objectness, offsets of the anchors -- best 1000 boxes
                                                         |
        levels, boxes -- RoIAlign 7x7 -- fc 1024 -- fc 1024 -- class, offsets -- best 100 boxes
                                                         |
        levels, boxes -- RoIAlign 14x14 -- 4 times 3x3 256 -- x2 -- 1x1 -- mask 28x28, pasted into the image
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.encoders import create_encoder
from perpixel.errors import InputError
from perpixel.labels import Instances
from perpixel.layers import FrozenBatchNorm2d, pad_to_least, pad_to_multiple, replace_batch_norm
from perpixel.layers.replace_norm import NORMS
from perpixel.models.card import Card, Count
from perpixel.models.dilated_encoder import is_own_resnet
from perpixel.models.mask_rcnn_heads import BoxHead, MaskHead
from perpixel.models.paste_masks import paste_masks
from perpixel.models.roi_align import PyramidRoIAlign, prepare_levels

HEAD_NORMS = ("none", "batch", "group")
# An anchor of level i is so many times its stride large: 32 at stride 4.
ANCHOR_STRIDES = 8
BOX_SIDE = 7
MULTIPLE = 32

CARD = Card(
    title="Mask R-CNN",
    paper='He, Gkioxari, Dollar, Girshick, "Mask R-CNN", ICCV 2017, arXiv 1703.06870',
    counts=(
        Count("ResNet-50-FPN, 91 classes, norm frozen", 44_401_393, num_classes=91, printed="44.4 M"),
        Count("ResNet-101-FPN", 63_341_297, num_classes=91, options={"encoder": "resnet101"}),
        Count("ResNet-50-FPN, norms trained", 44_454_513, num_classes=91, options={"norm": "batch"}),
        Count(
            "torchvision's v2",
            46_359_409,
            num_classes=91,
            options={"norm": "batch", "head_norm": "batch", "rpn_convs": 2, "box_convs": 4},
        ),
    ),
    scores=(
        "COCO minival, ResNet-50-FPN: mask AP 33.9 (Detectron, 1x), 35.2 (detectron2, 1x), 34.6 (torchvision)",
        "COCO test-dev, ResNet-101-FPN: mask AP 35.7",
    ),
    training="COCO: SGD 0.9, 16 images a step, shorter side 800, lr 0.02 for 90k steps, lowered after 60k and 80k; "
    "batch normalisation frozen at ImageNet's statistics.",
    deviations=(
        "RoIAlign samples where the pixels are and masks are pasted without rounding (detectron2); aligned=False is "
        "half a pixel off and rounds boxes, as torchvision's weights were trained. The true masks of small objects, "
        "taken to 28x28 and back, score a mask AP of 1.0 with the first and of 0.6 with the second.",
        "Other defaults are torchvision's: 2000 proposals an image in training, 1000 in prediction, smooth L1 with "
        "beta 1/9.",
        "Only the mask of the class asked for is computed, which changes no number.",
        "Boxes that lie by more than half in a crowd are no background: neither anchors nor proposals there are learnt "
        "from.",
        "Image sizes are left as they are: who calls resizes; the model pads to a multiple of 32.",
    ),
)


class Detections(NamedTuple):
    """What the net found in one image, best first.

    Attributes:
        boxes: (N, 4) float32 x0 y0 x1 y1 in pixels of the image given to the net.
        scores: (N,) float32.
        classes: (N,) int64, 1..K-1.
        masks: (N, m, m) float32 probabilities over the box.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    masks: Tensor


class MaskRCNN(nn.Module):
    """Mask R-CNN over any encoder.

    In eval mode image (B, C, H, W) of any size -> B `Detections`; in train mode, with the objects of each image, the
    losses by name.

    Args:
        encoder: "resnet18" ... "resnet152", or any name for `create_encoder`.
        weights: of the encoder: None, "imagenet" or a file.
        variant: of the ResNet, "a", "b" or "c"; None takes timm's.
        norm: what the encoder's batch normalisations become: "frozen" keeps those of `weights` as they are (of random
            weights they cannot be trained), "group", or "batch", which leaves them.
        head_norm: normalisation in pyramid and heads: "none", "batch" or "group".
        norm_eps: of the encoder's normalisations; None keeps its own.
        finest: stride of the finest level, 4, or 2 for objects of a few pixels.
        anchor_sizes: sides in pixels of the anchors of each level, fine to coarse, as many on each; None takes one a
            level, eight times the stride.
        aspect_ratios: height over width of the anchors.
        channels: of the pyramid.
        rpn_convs: 3x3 convolutions of the proposal network.
        box_convs: 3x3 convolutions before the box head's linear layers, of which there is one less then.
        mask_convs: 3x3 convolutions of the mask head.
        mask_size: side of the masks; even.
        aligned: sample features and masks where their pixels are, and paste masks without rounding; False is half a
            pixel off and rounds, as torchvision's weights were trained.
        rpn_samples, box_samples: anchors and proposals of an image that are learnt from in each step.
        train_proposals, test_proposals: boxes that the proposal network passes on.
        min_score, nms, max_objects: detections below that score, those that overlap a better one of their class by
            more than that IoU, and those after so many are dropped.
    Raises:
        InputError: an option out of range, or an encoder without features at strides `finest`, ..., 32.
    """

    aux_weights: tuple[float, ...] = ()
    margin = 0

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 91,
        *,
        encoder: str = "resnet50",
        weights: str | Path | None = None,
        variant: str | None = "b",
        norm: str = "frozen",
        head_norm: str = "none",
        norm_eps: float | None = None,
        finest: int = 4,
        anchor_sizes: Sequence[Sequence[int]] | None = None,
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        channels: int = 256,
        rpn_convs: int = 1,
        box_convs: int = 0,
        box_width: int = 1024,
        mask_convs: int = 4,
        mask_size: int = 28,
        aligned: bool = True,
        rpn_samples: int = 256,
        box_samples: int = 512,
        train_proposals: int = 2000,
        test_proposals: int = 1000,
        min_score: float = 0.05,
        nms: float = 0.5,
        max_objects: int = 100,
    ) -> None:
        # torchvision takes longer to import than torch; other models do without.
        from perpixel.models.mask_rcnn_regions import ProposalNetwork, Regions, build_pyramid

        super().__init__()
        counts = {
            "channels": channels, "rpn_convs": rpn_convs, "box_width": box_width, "rpn_samples": rpn_samples,
            "box_samples": box_samples, "train_proposals": train_proposals, "test_proposals": test_proposals,
            "max_objects": max_objects,
        }  # fmt: skip
        convs = {"box_convs": box_convs, "mask_convs": mask_convs}
        _check(counts, convs, norm, head_norm, finest, mask_size, {"min_score": min_score, "nms": nms})
        _check_classes(num_classes)
        self.norm, self.aligned, self.is_trainable = norm, aligned, False
        self.encoder = create_encoder(
            encoder,
            in_channels=in_channels,
            weights=weights,
            variant=variant if is_own_resnet(encoder, variant) else None,
        )
        _check_group(norm, weights, self.encoder)
        replace_batch_norm(self.encoder, norm, eps=norm_eps)
        self.encoder.has_batch_norm = self.encoder.has_batch_norm and norm == "batch"
        self.indices = level_indices(self.encoder.name, self.encoder.strides, finest)
        strides = [self.encoder.strides[index] for index in self.indices]
        sizes = _anchor_sizes(anchor_sizes, aspect_ratios, [*strides, 2 * strides[-1]])
        is_normed = head_norm != "none"
        self.pyramid = build_pyramid([self.encoder.channels[index] for index in self.indices], channels, norm=is_normed)
        self.rpn = ProposalNetwork(
            channels, sizes, aspect_ratios, convs=rpn_convs, samples=rpn_samples,
            proposals=(train_proposals, test_proposals),
        )  # fmt: skip
        self.regions = Regions(samples=box_samples, min_score=min_score, nms=nms, most=max_objects)
        self.box_align = PyramidRoIAlign(strides, BOX_SIDE, aligned=aligned)
        self.box_head = BoxHead(channels, BOX_SIDE, box_width, num_classes, convs=box_convs, norm=is_normed)
        self.mask_align = PyramidRoIAlign(strides, mask_size // 2, aligned=aligned)
        self.mask_head = MaskHead(channels, num_classes, convs=mask_convs, norm=is_normed)
        if head_norm == "group":
            for part in (self.pyramid, self.box_head, self.mask_head):
                replace_batch_norm(part, "group")

    def forward(self, image: Tensor, targets: Sequence[object] | None = None) -> list[Detections] | dict[str, Tensor]:
        """image (B, C, H, W) float -> B `Detections`; in train mode the losses, whose sum is to be made small.

        Args:
            targets: the objects of each image (`data.instance_crops.DrawnObjects`); an image without any is legal.
        """
        size = (image.shape[-2], image.shape[-1])
        padded = pad_to_least(pad_to_multiple(image, max(MULTIPLE, self.encoder.multiple)), self.encoder.least)
        levels = self._levels(padded)
        if self.training:
            return self._losses(padded, size, levels, targets)
        proposals, _ = self.rpn.propose(padded, size, levels, None)
        levels = prepare_levels(levels[:-1])
        boxes, scores, classes = self.regions.detect(*self._boxes(levels, proposals), proposals, size)
        masks = self._masks(levels, boxes, torch.cat(classes)).sigmoid()
        split = masks.split([len(each) for each in boxes])
        return [Detections(*each) for each in zip(boxes, scores, classes, split)]

    def _levels(self, padded: Tensor) -> list[Tensor]:
        """The pyramid, fine to coarse; the encoder's features are gone when it returns."""
        features = self.encoder(padded)
        named = {str(level): features[index] for level, index in enumerate(self.indices)}
        return list(self.pyramid(named).values())

    def _boxes(self, levels: list[Tensor], proposals: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits (N, K) and offsets (N, 4 K) of the proposals of all images."""
        logits, offsets = self.box_head(self.box_align(levels, proposals))
        return logits, offsets

    def _masks(self, levels: list[Tensor], boxes: list[Tensor], classes: Tensor) -> Tensor:
        """Mask logits (N, m, m) of the boxes of all images, each of its class."""
        masks: Tensor = self.mask_head(self.mask_align(levels, boxes), classes)
        return masks

    def _losses(
        self, padded: Tensor, size: tuple[int, int], levels: list[Tensor], targets: Sequence[object] | None
    ) -> dict[str, Tensor]:
        """Losses of the proposal network ("rpn_objectness", "rpn_box") and of the heads ("class", "box", "mask")."""
        from perpixel.models.mask_rcnn_targets import Truth

        if targets is None or len(targets) != len(padded):
            raise InputError(
                f"mask_rcnn in training got {len(padded)} images and the objects of {len(targets or ())}: give those "
                "of each image, or use model.eval() to predict"
            )
        self._check_trainable()
        truths = [Truth.of(each, padded.device) for each in targets]  # type: ignore[arg-type]
        proposals, losses = self.rpn.propose(padded, size, levels, truths)
        levels = prepare_levels(levels[:-1])
        samples = self.regions.sample(proposals, truths)
        losses |= self.regions.losses(*self._boxes(levels, samples.boxes), samples)
        boxes, objects, classes = samples.on_objects()
        if not len(classes):  # no object in any image: batch normalisation could not pass through
            return losses | {"mask": torch.stack([each.sum() for each in self.mask_head.parameters()]).sum() * 0}
        masks = self._masks(levels, boxes, classes)
        wanted = [
            truth.masks_in(box, index, masks.shape[-1], aligned=self.aligned)
            for truth, box, index in zip(truths, boxes, objects)
        ]
        return losses | {"mask": F.binary_cross_entropy_with_logits(masks, torch.cat(wanted))}

    @torch.no_grad()
    def detect(self, image: Tensor, *, size: tuple[int, int] | None = None) -> Instances:
        """The objects of one image, best first; those whose mask covers no pixel are left out.

        Args:
            image: (1, C, h, w) float32, normalised.
            size: (H, W) of the grid on which the objects are wanted; None is that of the image.
        Raises:
            InputError: in train mode, or not one image.
        """
        if self.training or len(image) != 1:
            raise InputError(f"detect takes one image in eval mode, not {len(image)}: call model.eval() and give one")
        found = self(image)[0]
        height, width = size or image.shape[-2:]
        scale = found.boxes.new_tensor([width / image.shape[-1], height / image.shape[-2]])
        boxes = (found.boxes * scale.repeat(2)).cpu().numpy()
        masks = paste_masks(found.masks.float().cpu().numpy(), boxes, (height, width), aligned=self.aligned)
        classes, scores = found.classes.cpu().numpy(), found.scores.double().cpu().numpy()
        return Instances.of(masks, classes, boxes=boxes, scores=scores).take(masks.areas > 0)

    def _check_trainable(self) -> None:
        """Refuse to train what cannot learn: a random encoder whose normalisations do nothing."""
        if self.is_trainable:
            return
        frozen = [part for part in self.encoder.modules() if isinstance(part, FrozenBatchNorm2d)]
        if frozen and all(part.is_new() for part in frozen):
            raise InputError(
                "norm='frozen' of mask_rcnn with an encoder of random weights: nothing would be normalised and nothing "
                "learnt: give weights, or norm='group'"
            )
        self.is_trainable = True

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists, in order."""
        names = ("encoder", "pyramid", "rpn", "box_align", "box_head", "mask_align", "mask_head")
        return {name.replace("_", " "): self.get_submodule(name) for name in names}


def level_indices(name: str, strides: Sequence[int], finest: int) -> list[int]:
    """Indices of an encoder's deepest features at strides `finest`, twice that, ... to its last one.

    Raises:
        InputError: one of them is missing.
    """
    last = {stride: index for index, stride in enumerate(strides) if stride >= finest}
    wanted = [finest * 2**step for step in range(len(last))]
    if sorted(last) != wanted or len(wanted) < 2:
        following = f"{finest}, {2 * finest}, ..."
        raise InputError(
            f"mask_rcnn needs features at strides {following}, encoder '{name}' gives strides {list(strides)}: choose "
            "another encoder" + (", or finest=4" if finest < 4 else "")
        )
    return [last[stride] for stride in wanted]


def _anchor_sizes(
    given: Sequence[Sequence[int]] | None, ratios: Sequence[float], strides: Sequence[int]
) -> list[list[int]]:
    sizes = [[ANCHOR_STRIDES * stride] for stride in strides] if given is None else [list(each) for each in given]
    if len(sizes) != len(strides) or len({len(each) for each in sizes}) != 1 or not sizes[0]:
        raise InputError(
            f"option anchor_sizes={sizes} of mask_rcnn: give {len(strides)} lists of the same length, one for each "
            f"stride {list(strides)}"
        )
    if min(map(min, sizes)) < 1 or not ratios or min(ratios) <= 0:
        raise InputError(
            f"options anchor_sizes={sizes}, aspect_ratios={list(ratios)} of mask_rcnn: give sizes from 1 pixel on and "
            "ratios above 0"
        )
    return sizes


def _check(
    counts: dict[str, int],
    more: dict[str, int],
    norm: str,
    head_norm: str,
    finest: int,
    mask_size: int,
    shares: dict[str, float],
) -> None:
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"option {name}={count} of mask_rcnn: it must be at least 1")
    for name, convs in more.items():
        if convs < 0:
            raise InputError(f"option {name}={convs} of mask_rcnn: it must be at least 0")
    for name, value, known in (("norm", norm, NORMS), ("head_norm", head_norm, HEAD_NORMS)):
        if value not in known:
            raise InputError(f"option {name}={value!r} of mask_rcnn: choose one of {', '.join(known)}")
    if finest not in (2, 4):
        raise InputError(f"option finest={finest} of mask_rcnn: choose 2 or 4")
    if mask_size < 2 or mask_size % 2:
        raise InputError(f"option mask_size={mask_size} of mask_rcnn: give an even number, such as 28")
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise InputError(f"option {name}={share} of mask_rcnn: give 0 to 1")


def _check_classes(num_classes: int) -> None:
    if num_classes < 2:
        raise InputError(f"num_classes={num_classes} of mask_rcnn: give 2 or more, background included")


def _check_group(norm: str, weights: str | Path | None, encoder: nn.Module) -> None:
    if norm == "group" and weights is not None and any(isinstance(each, nn.BatchNorm2d) for each in encoder.modules()):
        raise InputError(
            f"norm='group' of mask_rcnn with weights={str(weights)!r}: they were trained with batch normalisation, "
            "whose statistics would be lost: use norm='frozen', or weights=None"
        )
