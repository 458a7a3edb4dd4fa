"""Regions of Mask R-CNN: what the proposal network offers, which of it trains the heads, and what they make of it.

torchvision's region proposal network and box sampling, with crowds that are no background, and with boxes that stay
in fp32 where the features are bf16: that has 8 bits, so that a coordinate of 700 would be off by up to 2 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import box_iou

from perpixel.models.mask_rcnn_targets import Truth

# Detectron's, and torchvision's.
RPN_OVERLAPS = {"fg_iou_thresh": 0.7, "bg_iou_thresh": 0.3}
BOX_OVERLAPS = {"fg_iou_thresh": 0.5, "bg_iou_thresh": 0.5}
RPN_POSITIVE, BOX_POSITIVE = 0.5, 0.25
RPN_NMS = 0.7
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
SMOOTH = 1 / 9  # error at which the loss of an offset turns from square to linear


class Fp32Anchors(AnchorGenerator):
    """Anchors of each level, fine to coarse, in fp32 whatever the features are."""

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """One (A, 4) for each image."""
        shapes = [maps.new_empty((), dtype=torch.float32).expand(maps.shape) for maps in feature_maps]
        return super().forward(image_list, shapes)


class Fp32Head(RPNHead):
    """3x3 convolutions, then objectness and offsets of each anchor, shared by the levels; its answers are fp32."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """[(B, C, H, W)] -> [(B, A, H, W)] and [(B, 4 A, H, W)]."""
        objectness, offsets = super().forward(x)
        return [each.float() for each in objectness], [each.float() for each in offsets]


class ProposalNetwork(RegionProposalNetwork):
    """Levels of a pyramid -> boxes that may hold an object, without a class, and in training the losses.

    Args:
        sizes: of the anchors of each level, fine to coarse; as many on each.
        ratios: their height over width.
        convs: 3x3 convolutions before the answers.
        samples: anchors of an image that are learnt from, up to half of them on objects.
        proposals: kept in training and in prediction, of each level before and of all after overlaps are dropped.
    """

    def __init__(
        self,
        channels: int,
        sizes: Sequence[Sequence[int]],
        ratios: Sequence[float],
        *,
        convs: int,
        samples: int,
        proposals: tuple[int, int],
    ) -> None:
        anchors = Fp32Anchors(tuple(tuple(each) for each in sizes), (tuple(ratios),) * len(sizes))
        head = Fp32Head(channels, anchors.num_anchors_per_location()[0], conv_depth=convs)
        kept = {"training": proposals[0], "testing": proposals[1]}
        super().__init__(
            anchors, head, **RPN_OVERLAPS, batch_size_per_image=samples, positive_fraction=RPN_POSITIVE,
            pre_nms_top_n=kept, post_nms_top_n=dict(kept), nms_thresh=RPN_NMS,
        )  # fmt: skip
        self._truths: Sequence[Truth] = ()

    def propose(
        self, padded: Tensor, size: tuple[int, int], levels: Sequence[Tensor], truths: Sequence[Truth] | None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals (N, 4) of each image, best first, and the losses by name (none without truths).

        Args:
            padded: (B, C, H, W) image; proposals stay within its first rows and columns, `size`.
        """
        images = ImageList(padded, [size] * len(padded))
        self._truths = truths or ()
        targets = None if truths is None else [truth.as_dict() for truth in truths]
        boxes, losses = self(images, {str(index): maps for index, maps in enumerate(levels)}, targets)
        self._truths = ()
        names = {"loss_objectness": "rpn_objectness", "loss_rpn_box_reg": "rpn_box"}
        return boxes, {names[name]: value for name, value in losses.items()}

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Labels 1, 0 and -1 (left out) of the anchors, and the box that each is to become."""
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        for label, anchor, truth in zip(labels, anchors, self._truths, strict=True):
            if truth.crowd_sums is not None:
                label[(label == 0) & truth.in_crowd(anchor)] = -1.0
        return labels, boxes

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Of objectness, and of offsets; 0 where crowds leave no anchor to learn from."""
        if not any((each >= 0).any() for each in labels):
            return objectness.sum() * 0, pred_bbox_deltas.sum() * 0
        return super().compute_loss(objectness, pred_bbox_deltas, labels, regression_targets)


class Samples:
    """Proposals of all images that train the heads, N in all.

    Attributes:
        boxes: [(N_b, 4)] of each image; those on objects among them are marked by classes above 0.
        objects: [(N_b,)] which object of its image each was matched with.
        classes: [(N_b,)] int64, 0 is background.
        offsets: (N, 4) what the box head is to answer.
    """

    def __init__(
        self, boxes: list[Tensor], objects: list[Tensor], classes: list[Tensor], offsets: Sequence[Tensor]
    ) -> None:
        self.boxes, self.objects, self.classes, self.offsets = boxes, objects, classes, torch.cat(list(offsets))

    def on_objects(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Boxes and objects of each image that are no background, and the classes of all of them."""
        chosen = [each > 0 for each in self.classes]
        boxes = [box[hit] for box, hit in zip(self.boxes, chosen)]
        objects = [each[hit] for each, hit in zip(self.objects, chosen)]
        return boxes, objects, torch.cat([each[hit] for each, hit in zip(self.classes, chosen)])


class Regions(RoIHeads):
    """Draws the proposals that train the heads, and turns the box head's answers into detections.

    Args:
        samples: proposals of an image that are learnt from, up to a quarter of them on objects.
        min_score, nms, most: detections below that score, those that overlap a better one of their class by more
            than that IoU, and those after so many are dropped.
    """

    def __init__(self, *, samples: int, min_score: float, nms: float, most: int) -> None:
        super().__init__(
            None, None, None, **BOX_OVERLAPS, batch_size_per_image=samples, positive_fraction=BOX_POSITIVE,
            bbox_reg_weights=BOX_WEIGHTS, score_thresh=min_score, nms_thresh=nms, detections_per_img=most,
        )  # fmt: skip

    def sample(self, proposals: list[Tensor], truths: Sequence[Truth]) -> Samples:
        """Proposals to learn from, the objects' own boxes among them; crowds are left out."""
        proposals = [self._outside_crowds(boxes, truth) for boxes, truth in zip(proposals, truths, strict=True)]
        return Samples(*self.select_training_samples(proposals, [truth.as_dict() for truth in truths]))

    def _outside_crowds(self, boxes: Tensor, truth: Truth) -> Tensor:
        if truth.crowd_sums is None:
            return boxes
        kept = ~truth.in_crowd(boxes)
        if len(truth.boxes):
            kept |= box_iou(boxes, truth.boxes).amax(1) >= BOX_OVERLAPS["fg_iou_thresh"]
        return boxes[kept]

    def losses(self, logits: Tensor, offsets: Tensor, samples: Samples) -> dict[str, Tensor]:
        """Cross-entropy ("class"), and smooth L1 of the offsets of the true class, over all samples ("box")."""
        classes = torch.cat(samples.classes)
        if not len(classes):  # every proposal lies in a crowd
            return {"class": logits.sum() * 0, "box": offsets.sum() * 0}
        hits = torch.nonzero(classes > 0)[:, 0]
        answers = offsets.unflatten(1, (-1, 4))[hits, classes[hits]]
        box = F.smooth_l1_loss(answers, samples.offsets[hits], beta=SMOOTH, reduction="sum") / len(classes)
        return {"class": F.cross_entropy(logits, classes), "box": box}

    def detect(
        self, logits: Tensor, offsets: Tensor, proposals: list[Tensor], size: tuple[int, int]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Boxes (N, 4), scores (N,) and classes (N,) of each image, best first."""
        return self.postprocess_detections(logits, offsets, proposals, [size] * len(proposals))


def build_pyramid(in_channels: Sequence[int], channels: int, *, norm: bool) -> nn.Module:
    """FPN with a level more, every second cell of the coarsest: {"0": finest, ...} -> one map more, all of `channels`.

    Args:
        norm: batch normalisation behind each convolution.
    """
    from torchvision.ops import FeaturePyramidNetwork
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    layer = nn.BatchNorm2d if norm else None
    return FeaturePyramidNetwork(list(in_channels), channels, LastLevelMaxPool(), layer)
