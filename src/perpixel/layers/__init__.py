"""Blocks that two or more models share."""

from perpixel.layers.conv2d import guard_convolutions
from perpixel.layers.conv3d import Conv3d, ConvTranspose3d
from perpixel.layers.conv_norm_act import ConvNormAct
from perpixel.layers.convolutionalise import conv_weight, convolutionalise, linear_to_conv
from perpixel.layers.fit import crop_like, fit_like, mirror_to, pad_to_least, pad_to_like, pad_to_multiple
from perpixel.layers.initialise import classifier_normal_, he_normal_
from perpixel.layers.norm import BatchNorm2d
from perpixel.layers.replace_norm import FrozenBatchNorm2d, replace_batch_norm
from perpixel.layers.resize import resize_like, resize_to
from perpixel.layers.separable import SeparableConv
from perpixel.layers.sizes import conv_centre, conv_size, pool_size, transposed_centre, transposed_size
from perpixel.layers.unpool import max_pool_places, unpool_places
from perpixel.layers.upsample import BilinearUpsample, bilinear_kernel
from perpixel.layers.volumes import cut_middle, cut_volume, enlarge, make_norm3d, pad_for_pools

__all__ = [
    "BatchNorm2d",
    "BilinearUpsample",
    "Conv3d",
    "ConvNormAct",
    "ConvTranspose3d",
    "FrozenBatchNorm2d",
    "SeparableConv",
    "bilinear_kernel",
    "classifier_normal_",
    "conv_centre",
    "conv_size",
    "conv_weight",
    "convolutionalise",
    "crop_like",
    "cut_middle",
    "cut_volume",
    "enlarge",
    "fit_like",
    "guard_convolutions",
    "he_normal_",
    "linear_to_conv",
    "make_norm3d",
    "max_pool_places",
    "mirror_to",
    "pad_for_pools",
    "pad_to_least",
    "pad_to_like",
    "pad_to_multiple",
    "pool_size",
    "replace_batch_norm",
    "resize_like",
    "resize_to",
    "transposed_centre",
    "transposed_size",
    "unpool_places",
]
