"""One file per published architecture, and the table of their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from perpixel.classical import PixelForest, TextonForest
from perpixel.models.deeplab_v1 import DeepLabV1
from perpixel.models.deeplab_v2 import DeepLabV2
from perpixel.models.deeplab_v3 import DeepLabV3
from perpixel.models.deeplab_v3_plus import DeepLabV3Plus
from perpixel.models.dilated import DilatedNet
from perpixel.models.fc_densenet import FCDenseNet, fc_densenet56, fc_densenet67, fc_densenet103
from perpixel.models.fcn import FCN, fcn8s, fcn8s_atonce, fcn16s, fcn32s
from perpixel.models.fcn_resnet import FCNResNet
from perpixel.models.fpn import FPN
from perpixel.models.gcn import GCN
from perpixel.models.liteseg import LiteSeg
from perpixel.models.lraspp import LRASPP
from perpixel.models.mask_rcnn import MaskRCNN
from perpixel.models.patch_cnn import PatchCNN, patch_cnn
from perpixel.models.pspnet import PSPNet
from perpixel.models.pspnet_shallow import ShallowPSPNet
from perpixel.models.refinenet import RefineNet
from perpixel.models.refinenet_lw import LightWeightRefineNet
from perpixel.models.segnet import SegNet, bayesian_segnet, segnet, segnet_basic
from perpixel.models.table import build, option_names, spatial_dims
from perpixel.models.unet import UNet, unet_valid
from perpixel.models.unet3d import UNet3D, unet3d_valid
from perpixel.models.unet_3plus import UNet3Plus
from perpixel.models.unet_plus_plus import UNetPlusPlus
from perpixel.models.unet_watershed import UNetWatershed
from perpixel.models.vnet import VNet, vnet, vnet_monai, vnet_release
from perpixel.models.vnet_weights import from_monai
from perpixel.models.weights import load_weights, save_weights

__all__ = [
    "DETECTORS",
    "FCN",
    "FORESTS",
    "FPN",
    "GCN",
    "LRASPP",
    "MODELS",
    "NETS",
    "DeepLabV1",
    "DeepLabV2",
    "DeepLabV3",
    "DeepLabV3Plus",
    "DilatedNet",
    "FCDenseNet",
    "FCNResNet",
    "LightWeightRefineNet",
    "LiteSeg",
    "MaskRCNN",
    "PSPNet",
    "PatchCNN",
    "RefineNet",
    "SegNet",
    "ShallowPSPNet",
    "UNet",
    "UNet3D",
    "UNet3Plus",
    "UNetPlusPlus",
    "UNetWatershed",
    "VNet",
    "bayesian_segnet",
    "create_model",
    "fc_densenet56",
    "fc_densenet67",
    "fc_densenet103",
    "fcn8s",
    "fcn8s_atonce",
    "fcn16s",
    "fcn32s",
    "from_monai",
    "load_weights",
    "option_names",
    "patch_cnn",
    "save_weights",
    "segnet",
    "segnet_basic",
    "spatial_dims",
    "unet3d_valid",
    "unet_valid",
    "vnet",
    "vnet_monai",
    "vnet_release",
]

# Trained by gradients, step by step.
NETS: dict[str, Callable[..., nn.Module]] = {
    "fcn32s": fcn32s,
    "fcn16s": fcn16s,
    "fcn8s": fcn8s,
    "fcn8s_atonce": fcn8s_atonce,
    "unet": UNet,
    "unet_valid": unet_valid,
    "unet_plus_plus": UNetPlusPlus,
    "unet_3plus": UNet3Plus,
    "segnet": segnet,
    "segnet_basic": segnet_basic,
    "bayesian_segnet": bayesian_segnet,
    "fc_densenet56": fc_densenet56,
    "fc_densenet67": fc_densenet67,
    "fc_densenet103": fc_densenet103,
    "patch_cnn": patch_cnn,
    "dilated": DilatedNet,
    "deeplab_v1": DeepLabV1,
    "deeplab_v2": DeepLabV2,
    "deeplab_v3": DeepLabV3,
    "deeplab_v3_plus": DeepLabV3Plus,
    "fpn": FPN,
    "fcn_resnet": FCNResNet,
    "lraspp": LRASPP,
    "refinenet": RefineNet,
    "refinenet_lw": LightWeightRefineNet,
    "pspnet": PSPNet,
    "pspnet_shallow": ShallowPSPNet,
    "gcn": GCN,
    "liteseg": LiteSeg,
    "vnet": vnet,
    "vnet_release": vnet_release,
    "vnet_monai": vnet_monai,
    "unet3d": UNet3D,
    "unet3d_valid": unet3d_valid,
}
# Grown in one go: their `grow` takes the place of steps.
FORESTS: dict[str, Callable[..., nn.Module]] = {
    "pixel_forest": PixelForest,
    "texton_forest": TextonForest,
}
# Objects one by one: in training losses by name or dense maps, and `detect` for their objects.
DETECTORS: dict[str, Callable[..., nn.Module]] = {
    "mask_rcnn": MaskRCNN,
    "unet_watershed": UNetWatershed,
}
MODELS = NETS | DETECTORS | FORESTS


def create_model(name: str, *, in_channels: int = 3, num_classes: int = 21, **options: Any) -> nn.Module:
    """Build the model `name` of MODELS: image (B, in_channels, H, W) -> logits (B, num_classes, H, W).

    A model of three `spatial_dims` takes volumes: (B, in_channels, D, H, W) -> (B, num_classes, D, H, W).

    Args:
        in_channels: channels of the image, any count.
        num_classes: classes, the background included.
        options: those of the model's own signature; `option_names(MODELS[name])` lists them with their defaults.
    Raises:
        InputError: unknown name or option (with the nearest one), or a value the model refuses.
    """
    return build(MODELS, name, in_channels, num_classes, options)
