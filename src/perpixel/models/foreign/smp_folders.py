"""Folders that segmentation-models-pytorch leaves with `model.save_pretrained(folder)`: config.json and weights.

Each of its classes that we have is turned into our model of the same network: U-Net, FPN, DeepLabV3, DeepLabV3Plus,
UnetPlusPlus and PSPNet. Settings that change the network in a way that ours does not know are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perpixel.encoders import Encoder, create_encoder, read_state_dict
from perpixel.errors import InputError, did_you_mean
from perpixel.files import read_json
from perpixel.models.foreign.foreign import Foreign, kernel, renamed
from perpixel.models.foreign.smp_settings import RESNEXTS, Settings
from perpixel.models.foreign.torchvision_files import Names, aspp

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
DEFAULT_CHANNELS = (256, 128, 64, 32, 16)

State = dict[str, Tensor]
Plan = tuple[str, dict[str, Any], Names, str]  # model, options, names of tensors, the last convolution's name here


def read_smp(folder: str | Path) -> Foreign:
    """Read a folder of `save_pretrained` and convert it.

    One class with a sigmoid becomes two, background and foreground: the first logit is 0, the second is smp's.

    Raises:
        InputError: no such folder, damaged, another class, encoder or setting than those that can be converted.
    """
    root = Path(folder)
    config = _config(root)
    name = config["_model_class"]
    if name not in CLASSES:
        raise InputError(f"{root / 'config.json'}: smp class '{name}' cannot be converted{did_you_mean(name, CLASSES)}")
    plan = Settings(config, root / "config.json")
    model, options, table, last = CLASSES[name](plan)
    plan.check_all_read()
    what, where = f"smp {name} over {plan.encoder_name}", str(_weights_file(root))
    state = renamed(_without_unused(read_state_dict(where), plan), [*plan.encoder_names(), *table, DROPPED],
                    where, what)  # fmt: skip
    if model in REORDERED:
        state = REORDERED[model](state, options, where, what)
    notes = list(plan.notes)
    if plan.classes == 1:
        state = _with_background(state, last, where, what)
        notes.append("Its one class became two: background, whose logit is 0, and foreground, whose logit is smp's.")
    mean, std, more = plan.statistics()
    return Foreign(
        what=what, where=where, model=model, options=options, in_channels=plan.in_channels,
        num_classes=max(2, plan.classes), state=state, mean=mean, std=std, notes=(*notes, *more),
    )  # fmt: skip


DROPPED = ("classification_head.", "")


def _config(root: Path) -> dict[str, Any]:
    if not root.is_dir():
        raise InputError(f"{root}: no such folder: give the folder that smp's model.save_pretrained(folder) wrote")
    config = read_json(root / "config.json")
    if not isinstance(config, dict) or not isinstance(config.get("_model_class"), str):
        raise InputError(
            f"{root / 'config.json'}: names no '_model_class': save the model again with segmentation-models-pytorch "
            "0.4 or newer, by model.save_pretrained(folder)"
        )
    return config


def _weights_file(root: Path) -> Path:
    found = [root / name for name in WEIGHTS if (root / name).is_file()]
    if not found:
        raise InputError(f"{root}: holds no {WEIGHTS[0]}: give the whole folder that save_pretrained wrote")
    return found[0]


def _unet(plan: Settings) -> Plan:
    options = _unet_options(plan)
    table: Names = [("segmentation_head.0.", "head.")]
    for number in range(plan.depth):
        table += _double_conv(f"decoder.blocks.{number}.", f"decoder.{number}.convs.")
    return "unet", options | {"depth": plan.depth}, table, "head"


def _unet_options(plan: Settings) -> dict[str, Any]:
    """What U-Net and U-Net++ have in common."""
    norm = plan.take("decoder_use_norm", True, (True, "batchnorm", False, "identity"))
    norm = plan.take("decoder_use_batchnorm", norm, (True, "batchnorm", False, "identity")) in (True, "batchnorm")
    plan.take("decoder_attention_type", None, (None,))
    return plan.encoder() | {
        "up": plan.take("decoder_interpolation", "nearest", ("nearest", "bilinear")),
        "decoder_channels": plan.take_numbers("decoder_channels", DEFAULT_CHANNELS, plan.depth),
        "norm": norm,
        "head_kernel": 3,
    }


def _double_conv(theirs: str, ours: str) -> Names:
    """Two 3x3 convolutions, each with normalisation."""
    names = []
    for number in (0, 1):
        names += [(f"{theirs}conv{number + 1}.0.", f"{ours}{number}.conv."),
                  (f"{theirs}conv{number + 1}.1.", f"{ours}{number}.norm.")]  # fmt: skip
    return names


def _fpn(plan: Settings) -> Plan:
    plan.take_depth(5)
    plan.take("upsampling", 4, (4,))
    plan.take("decoder_interpolation", "nearest", ("nearest",))
    options = plan.encoder() | {
        "channels": plan.take_count("decoder_pyramid_channels", 256),
        "head_channels": plan.take_count("decoder_segmentation_channels", 128),
        "merge": plan.take("decoder_merge_policy", "add", ("add", "cat")),
        "dropout": plan.take_share("decoder_dropout", 0.2),
        "smooth": False,
        "align_corners": True,
    }
    table: Names = [("decoder.p5.", "pyramid.lateral.3."), ("segmentation_head.0.", "classifier.")]
    for level in range(4):  # smp counts from the coarsest, here the finest is the first
        table += [(f"decoder.p{level + 2}.skip_conv.", f"pyramid.lateral.{level}.")]
        for number in range(max(1, level)):
            table += [(f"decoder.seg_blocks.{3 - level}.block.{number}.block.", f"levels.{level}.convs.{number}.")]
    return "fpn", options, table, "classifier"


def _deeplab_v3(plan: Settings) -> Plan:
    options = _deeplab_options(plan, output_stride=8, separable=False) | {"head": "torchvision"}
    if options["variant"]:
        options["keep_first"] = False
    plan.take("upsampling", None, (None, options["output_stride"]))
    table = [*_aspp("decoder.aspp.", options["separable"]), ("decoder.conv.", "neck.refine.conv."),
             ("decoder.bn.", "neck.refine.norm."), ("segmentation_head.0.", "classifier.")]  # fmt: skip
    # The names of older versions.
    table += [*_aspp("decoder.0.", options["separable"]), ("decoder.1.", "neck.refine.conv."),
              ("decoder.2.", "neck.refine.norm.")]  # fmt: skip
    return "deeplab_v3", options | {"align_corners": True}, table, "classifier"


def _deeplab_v3_plus(plan: Settings) -> Plan:
    options = _deeplab_options(plan, output_stride=16, separable=True) | {"head": "smp"}
    plan.take("upsampling", 4, (4,))
    table: Names = [
        *_aspp("decoder.aspp.0.", options["separable"]),
        ("decoder.aspp.1.0.", "neck.refine.depthwise."),
        ("decoder.aspp.1.1.", "neck.refine.pointwise.conv."),
        ("decoder.aspp.2.", "neck.refine.pointwise.norm."),
        ("decoder.block1.0.", "low.conv."),
        ("decoder.block1.1.", "low.norm."),
        ("decoder.block2.0.0.", "decoder.conv1.depthwise."),
        ("decoder.block2.0.1.", "decoder.conv1.pointwise.conv."),
        ("decoder.block2.1.", "decoder.conv1.pointwise.norm."),
        ("segmentation_head.0.", "classifier."),
    ]
    return "deeplab_v3_plus", options, table, "classifier"


def _deeplab_options(plan: Settings, *, output_stride: int, separable: bool) -> dict[str, Any]:
    plan.take_depth(5)
    if plan.encoder_name in RESNEXTS:
        raise plan.refusal(
            "encoder_name",
            plan.encoder_name,
            "smp dilates the first block of a ResNeXt's stages as well, which timm's network here does not; its other "
            "models over ResNeXts can be converted",
        )
    return plan.encoder() | {
        "output_stride": plan.take("encoder_output_stride", output_stride, (8, 16)),
        "rates": plan.take_numbers("decoder_atrous_rates", (12, 24, 36), 3),
        "channels": plan.take_count("decoder_channels", 256),
        "separable": plan.take("decoder_aspp_separable", separable, (True, False)),
        "dropout": plan.take_share("decoder_aspp_dropout", 0.5),
    }


def _aspp(theirs: str, is_separable: bool) -> Names:
    """torchvision's names; separable 3x3 branches have two convolutions where dense ones have one."""
    names: Names = []
    for branch in (1, 2, 3) if is_separable else ():
        names += [(f"{theirs}convs.{branch}.0.0.", f"neck.aspp.branches.{branch}.depthwise."),
                  (f"{theirs}convs.{branch}.0.1.", f"neck.aspp.branches.{branch}.pointwise.conv."),
                  (f"{theirs}convs.{branch}.1.", f"neck.aspp.branches.{branch}.pointwise.norm.")]  # fmt: skip
    return names + aspp(theirs, "neck.aspp.")


def _unet_plus_plus(plan: Settings) -> Plan:
    """smp counts rows and levels from the deepest: its x_d_l lies in the row l + 1 from below, column l - d + 1."""
    plan.take_depth(5)
    options = _unet_options(plan)
    rows = len(_encoder(options["encoder"], 5, str(plan.where)).channels)
    del options["variant"]  # timm's ResNets, of the same names
    table: Names = [("segmentation_head.0.", f"heads.{rows - 1}.")]
    for level in range(5):
        for depth in range(level + 1):
            row, column = rows - 2 - level, level - depth + 1
            if row >= 0:
                ours = f"nodes.x{row}_{column}."
            elif depth == 0:
                ours = f"final.{level - rows + 1}."
            else:
                continue  # rows that only exist where the encoder has features
            names = _double_conv(f"decoder.blocks.x_{depth}_{level}.", f"{ours}convs.")
            table += [(theirs, mine.replace("convs.1.", "convs.2.")) for theirs, mine in names]
    return "unet_plus_plus", options, table, f"heads.{rows - 1}"


def _pspnet(plan: Settings) -> Plan:
    plan.take("upsampling", 8, (2**plan.depth,))
    norm = plan.take("decoder_use_norm", True, (True, "batchnorm", False, "identity"))
    norm = plan.take("psp_use_batchnorm", norm, (True, "batchnorm", False, "identity"))
    options = plan.encoder() | {
        "depth": plan.depth,
        "width": plan.take_count("psp_out_channels", 512),
        "norm": norm in (True, "batchnorm"),
        "dropout": plan.take_share("psp_dropout", 0.2),
    }
    table: Names = [("decoder.conv.0.", "project.conv."), ("decoder.conv.1.", "project.norm.")]
    for number in range(4):
        theirs = f"decoder.psp.blocks.{number}.pool.1."
        table += [(f"{theirs}0.", f"branches.{number}.conv."), (f"{theirs}1.", f"branches.{number}.norm.")]
    return "pspnet_shallow", options, [*table, ("segmentation_head.0.", "classifier.")], "classifier"


CLASSES: dict[str, Callable[[Settings], Plan]] = {
    "Unet": _unet,
    "FPN": _fpn,
    "DeepLabV3": _deeplab_v3,
    "DeepLabV3Plus": _deeplab_v3_plus,
    "UnetPlusPlus": _unet_plus_plus,
    "PSPNet": _pspnet,
}


def _without_unused(state: State, plan: Settings) -> State:
    """Without the stages behind encoder_depth, which smp's ResNets keep and never run."""
    if plan.is_timm:
        return state
    unused = tuple(f"encoder.layer{stage}." for stage in range(plan.depth, 5))
    return {name: value for name, value in state.items() if not (unused and name.startswith(unused))}


def _encoder(name: str, depth: int, where: str, variant: str | None = None) -> Encoder:
    """The encoder, for its channels.

    Raises:
        InputError: it has features at stride 1, which smp leaves out.
    """
    encoder = create_encoder(name, depth=depth, variant=variant)
    if encoder.strides[0] == 1:
        raise InputError(
            f"{where}: smp leaves out the features of encoder '{name}' at stride 1, which are used here: only encoders "
            "whose features begin at stride 2 or 4 can be converted"
        )
    return encoder


def _skips_first(state: State, options: dict[str, Any], where: str, what: str) -> State:
    """U-Net's first convolutions of every step with their input channels in our order: the skip's, then the map's.

    smp concatenates the upsampled map first; it has the channels of the step before, or of the encoder's last feature.
    """
    encoder = _encoder(options["encoder"], options["depth"], where, options["variant"])
    made, upsampled = dict(state), encoder.channels[-1]
    for step in range(len(options["decoder_channels"])):
        name = f"decoder.{step}.convs.0.conv.weight"
        weight = kernel(state, name, where, what)
        made[name] = torch.cat([weight[:, upsampled:], weight[:, :upsampled]], dim=1)
        upsampled = weight.shape[0]
    return made


def _rows_forwards(state: State, options: dict[str, Any], where: str, what: str) -> State:
    """U-Net++'s first convolution of every node with its row in our order: from the encoder's feature on.

    smp goes back to it from the node before. All of a row have the channels of the encoder's feature.
    """
    channels = _encoder(options["encoder"], 5, where).channels
    made = dict(state)
    for row in range(len(channels) - 1):
        for column in range(2, len(channels) - row):
            name = f"nodes.x{row}_{column}.convs.0.conv.weight"
            weight = kernel(state, name, where, what)
            upsampled = weight.shape[1] - column * channels[row]
            parts = weight[:, upsampled:].split(channels[row], dim=1)
            made[name] = torch.cat([weight[:, :upsampled], *parts[::-1]], dim=1)
    return made


REORDERED = {"unet": _skips_first, "unet_plus_plus": _rows_forwards}


def _with_background(state: State, last: str, where: str, what: str) -> State:
    """A head of one class with another before it, whose logit is 0."""
    made = dict(state)
    for part, dimensions in (("weight", 4), ("bias", 1)):
        value = kernel(state, f"{last}.{part}", where, what, dimensions)
        made[f"{last}.{part}"] = torch.cat([torch.zeros_like(value), value])
    return made
