"""create_model: names, options and counts, and how mistakes are worded."""

from __future__ import annotations

import pytest

from perpixel.errors import InputError
from perpixel.models import MODELS, UNet, create_model, option_names


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
        ({"name": "unet++"}, "unknown model 'unet.*'; did you mean 'unet'.* known: .*fcn32s"),
        ({"name": "unet", "widht": 3}, "unknown option 'widht' of model 'unet'; did you mean 'width'.* known: .*depth"),
        ({"name": "unet", "in_channels": 0}, "in_channels=0 of model 'unet': it must be a whole number from 1 on"),
        ({"name": "unet", "num_classes": "two"}, "num_classes='two' of model 'unet'"),
        ({"name": "unet", "width": "64"}, "option width='64' of model 'unet': give a whole number, such as 64"),
        ({"name": "unet", "width": True}, "option width=True of model 'unet': give a whole number"),
        ({"name": "unet", "norm": "batch"}, "option norm='batch' of model 'unet': give true or false, such as True"),
        ({"name": "unet", "norm": 1}, "option norm=1 of model 'unet': give true or false"),
        ({"name": "unet", "dropout": "half"}, "option dropout='half' of model 'unet': give a number"),
        ({"name": "unet", "up": 2}, "option up=2 of model 'unet': give a name, such as 'transposed'"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        create_model(**arguments)


def test_a_whole_number_is_a_number():
    assert create_model("unet", width=2, depth=2, dropout=0).dropout.p == 0
