import pytest
from huggingface_hub.errors import StrictDataclassError

from modeling_dcclip import DCCLIPConfig, DCCLIPModel
from tests.tiny import MOBILENET, VIT, make_config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("projection_dim", 0),
        ("image_size", 10**6),
        ("max_text_length", "8"),
        ("truncate_dim", 17),
        ("vision_pooling", "max"),
        ("vision_grid", [0, 4]),
        ("logit_scale_init_value", -100.0),
        ("logit_scale_init_value", float("nan")),
        ("prefixes", [8, 8]),
        ("prefixes", [8, 17]),
        ("fit", [1.0, 2.0]),
    ],
)
def test_values_out_of_range_raise_an_error_with_the_field(field, value):
    with pytest.raises(StrictDataclassError, match=field):
        make_config(**{field: value})


def test_towers_have_a_default_type_without_a_config_and_no_config_without_a_type():
    config = DCCLIPConfig()
    assert (config.vision_config.model_type, config.text_config.model_type) == (
        "vit",
        "xlm-roberta",
    )
    with pytest.raises(ValueError, match="text_config has no 'model_type'"):
        DCCLIPConfig(text_config={"hidden_size": 32})


@pytest.mark.parametrize(
    ("vision", "fields", "message"),
    [
        (MOBILENET, {"vision_pooling": "cls"}, "vision_pooling='cls' needs"),
        (MOBILENET, {"vision_pooling": "tower"}, "vision_pooling='tower', but"),
        (MOBILENET | {"architecture": "hf-hub:a/b"}, {}, "architecture 'hf-hub:a/b' would load"),
        # one patch covers the image
        (VIT | {"patch_size": 64}, {}, "vision_config: 'vit' returns no spatial"),
    ],
)
def test_image_towers_that_do_not_fit_raise_an_error_with_the_field(vision, fields, message):
    with pytest.raises(ValueError, match=message):
        DCCLIPModel(make_config(vision, **fields))
