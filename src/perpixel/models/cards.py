"""The card of every model: its paper, published numbers, and where we differ."""

from __future__ import annotations

from perpixel.models import (
    deeplab_v1,
    deeplab_v2,
    deeplab_v3,
    deeplab_v3_plus,
    dilated,
    fc_densenet,
    fcn_resnet,
    fpn,
    gcn,
    liteseg,
    lraspp,
    mask_rcnn,
    pspnet,
    pspnet_shallow,
    refinenet,
    refinenet_lw,
    unet,
    unet3d,
    unet_3plus,
    unet_plus_plus,
    unet_watershed,
)
from perpixel.models.card import Card
from perpixel.models.fcn import FCN8S_ATONCE_CARD, FCN8S_CARD, FCN16S_CARD, FCN32S_CARD
from perpixel.models.patch_cnn import CARD as PATCH_CNN_CARD
from perpixel.models.segnet import BASIC_CARD as SEGNET_BASIC_CARD
from perpixel.models.segnet import BAYESIAN_CARD as BAYESIAN_SEGNET_CARD
from perpixel.models.segnet import CARD as SEGNET_CARD
from perpixel.models.vnet import CARD as VNET_CARD
from perpixel.models.vnet import PORT_CARD as VNET_MONAI_CARD
from perpixel.models.vnet import RELEASE_CARD as VNET_RELEASE_CARD

CARDS: dict[str, Card] = {
    "fcn32s": FCN32S_CARD,
    "fcn16s": FCN16S_CARD,
    "fcn8s": FCN8S_CARD,
    "fcn8s_atonce": FCN8S_ATONCE_CARD,
    "segnet": SEGNET_CARD,
    "segnet_basic": SEGNET_BASIC_CARD,
    "bayesian_segnet": BAYESIAN_SEGNET_CARD,
    "fc_densenet56": fc_densenet.CARD56,
    "fc_densenet67": fc_densenet.CARD67,
    "fc_densenet103": fc_densenet.CARD103,
    "patch_cnn": PATCH_CNN_CARD,
    "dilated": dilated.CARD,
    "deeplab_v1": deeplab_v1.CARD,
    "deeplab_v2": deeplab_v2.CARD,
    "deeplab_v3": deeplab_v3.CARD,
    "deeplab_v3_plus": deeplab_v3_plus.CARD,
    "fpn": fpn.CARD,
    "fcn_resnet": fcn_resnet.CARD,
    "lraspp": lraspp.CARD,
    "refinenet": refinenet.CARD,
    "refinenet_lw": refinenet_lw.CARD,
    "pspnet": pspnet.CARD,
    "pspnet_shallow": pspnet_shallow.CARD,
    "gcn": gcn.CARD,
    "liteseg": liteseg.CARD,
    "unet": unet.CARD,
    "unet_valid": unet.VALID_CARD,
    "unet_plus_plus": unet_plus_plus.CARD,
    "unet_3plus": unet_3plus.CARD,
    "vnet": VNET_CARD,
    "vnet_release": VNET_RELEASE_CARD,
    "vnet_monai": VNET_MONAI_CARD,
    "mask_rcnn": mask_rcnn.CARD,
    "unet_watershed": unet_watershed.CARD,
    "unet3d": unet3d.CARD,
    "unet3d_valid": unet3d.VALID_CARD,
}
