"""create_model: names, options and counts, and how mistakes are worded."""

from __future__ import annotations

import inspect

import pytest

from perpixel.errors import InputError
from perpixel.models import MODELS, UNet, create_model, option_names
from perpixel.models.table import KINDS


def test_defaults_are_3_channels_and_21_classes():
    model = create_model("unet", width=2, depth=2)
    assert isinstance(model, UNet)
    assert model.encoder.stages[0][0].conv.in_channels == 3
    assert model.head.out_channels == 21


def test_options_come_from_the_signatures():
    assert option_names(MODELS["unet_valid"]) == {"width": 64, "depth": 5, "norm": False, "dropout": 0.5}
    assert option_names(MODELS["fcn32s"])["fc_channels"] == 4096
    assert "stride" not in option_names(MODELS["fcn8s"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "UNet-valid"}, "unknown model 'UNet-valid'; did you mean 'unet_valid'"),
        ({"name": "unet++"}, "unknown model 'unet.*'; did you mean 'unet_plus_plus'.* known: .*fcn32s"),
        ({"name": "unet", "widht": 3}, "unknown option 'widht' of model 'unet'; did you mean 'width'.* known: .*depth"),
        ({"name": "unet", "in_channels": 0}, "in_channels=0 of model 'unet': it must be a whole number from 1 on"),
        ({"name": "unet", "num_classes": "two"}, "num_classes='two' of model 'unet'"),
        ({"name": "unet", "width": "64"}, "option width='64' of model 'unet': give a whole number, such as 64"),
        ({"name": "unet", "width": True}, "option width=True of model 'unet': give a whole number"),
        ({"name": "unet", "norm": "batch"}, "option norm='batch' of model 'unet': give true or false, such as True"),
        ({"name": "unet", "norm": 1}, "option norm=1 of model 'unet': give true or false"),
        ({"name": "unet", "dropout": "half"}, "option dropout='half' of model 'unet': give a number"),
        ({"name": "unet", "up": 2}, "option up=2 of model 'unet': give a name, such as 'transposed'"),
        ({"name": "unet", "encoder": 5}, "option encoder=5 of model 'unet': give a name, or none"),
        ({"name": "unet", "decoder_channels": ["a"]}, r"decoder_channels=\['a'\] .*: give a list of whole numbers, or"),
        ({"name": "pspnet", "bins": 6}, r"option bins=6 of model 'pspnet': give a list of .*, such as \[1, 2, 3, 6\]$"),
        ({"name": "pspnet", "bins": [1.5]}, r"option bins=\[1\.5\] of model 'pspnet': give a list of whole numbers"),
        ({"name": "pspnet", "variant": 1}, "option variant=1 of model 'pspnet': give a name, such as 'c', or none"),
        (
            {"name": "deeplab_v2", "rates": None},
            "option rates=None of model 'deeplab_v2': give a list of whole numbers",
        ),
        ({"name": "deeplab_v2", "scales": [1, "a"]}, r"option scales=\[1, 'a'\] .*: give a list of numbers"),
        ({"name": "deeplab_v3", "dropout": "x"}, "option dropout='x' of model 'deeplab_v3': give a number, or none"),
        ({"name": "deeplab_v3", "multi_grid": [1.0]}, r"option multi_grid=\[1\.0\] of model 'deeplab_v3'"),
        ({"name": "deeplab_v3", "keep_first": 1}, "option keep_first=1 .*: give true or false, or none"),
        ({"name": "unet_plus_plus", "prune_level": 1.0}, r"option prune_level=1\.0 .*: give a whole number, or none"),
        ({"name": 5}, "unknown model '5'"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        create_model(**arguments)


def test_every_annotation_of_an_option_can_be_checked():
    kinds = {str(each.annotation) for builder in MODELS.values() for each in options_of(builder)}
    assert {kind for annotation in kinds for kind in annotation.split(" | ")} <= set(KINDS)


def options_of(builder) -> list[inspect.Parameter]:
    return [each for each in inspect.signature(builder).parameters.values() if each.kind is each.KEYWORD_ONLY]


def test_a_whole_number_is_a_number():
    assert create_model("unet", width=2, depth=2, dropout=0).dropout.p == 0
