"""Image -> features, fine to coarse, each with its `channels` and `strides`."""

from perpixel.encoders.create import create_encoder
from perpixel.encoders.encoder import Encoder
from perpixel.encoders.resnet import resnet_encoder
from perpixel.encoders.weights import adapt_stem_weight, download_torchvision, read_state_dict

__all__ = [
    "Encoder",
    "adapt_stem_weight",
    "create_encoder",
    "download_torchvision",
    "read_state_dict",
    "resnet_encoder",
]
