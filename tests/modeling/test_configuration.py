import pytest
from huggingface_hub.errors import StrictDataclassError

from modeling_dcclip import DCCLIPConfig, DCCLIPModel
from tests.tiny import BERT, MOBILENET, VIT, make_config


def test_saved_config_loads_equal(tmp_path):
    config = make_config(MOBILENET, BERT, vision_pooling="mean", text_pooling="cls", teacher="some/teacher")
    config.save_pretrained(tmp_path)
    assert DCCLIPConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    "fields",
    [
        *({field: 0} for field in ("projection_dim", "image_size", "max_text_length", "truncate_dim")),
        *({field: "max"} for field in ("vision_pooling", "text_pooling")),
        *({"prefixes": widths} for widths in ([8, 4], [8, 8], [8, 17])),
        {"truncate_dim": 17},
    ],
)
def test_values_out_of_range_raise_an_error_with_the_field(fields):
    with pytest.raises(StrictDataclassError, match=next(iter(fields))):
        make_config(**fields)


@pytest.mark.parametrize("field", ["vision_config", "text_config"])
def test_tower_without_model_type_raises_an_error_with_the_field(field):
    with pytest.raises(ValueError, match=rf"{field} has no 'model_type'"):
        DCCLIPConfig(**{field: {"hidden_size": 32}})


def test_cls_pooling_of_a_tower_without_cls_raises_an_error():
    with pytest.raises(ValueError, match="vision_pooling='cls' needs a tower with a CLS token"):
        DCCLIPModel(make_config(MOBILENET, vision_pooling="cls"))


def test_vision_tower_without_a_spatial_map_raises_an_error():
    # one patch covers the whole image, so there is no spatial grid
    with pytest.raises(ValueError, match=r"vision_config: 'vit' returns no spatial feature map"):
        DCCLIPModel(make_config(VIT | {"patch_size": 64}))


def test_tower_pooling_of_a_tower_without_pooled_output_raises_an_error():
    with pytest.raises(ValueError, match=r"vision_pooling='tower', but 'mobilenetv4_conv_small_050' has no pooled"):
        DCCLIPModel(make_config(MOBILENET, vision_pooling="tower"))
