import pytest
from huggingface_hub.errors import StrictDataclassError

from modeling_dcclip import DCCLIPConfig, DCCLIPModel
from tests.tiny import BERT, MOBILENET, VIT, make_config


def test_saved_config_loads_equal(tmp_path):
    config = make_config(MOBILENET, BERT, vision_pooling="mean", text_pooling="cls", teacher="some/teacher")
    config.save_pretrained(tmp_path)
    assert DCCLIPConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize("field", ["projection_dim", "image_size", "max_text_length"])
def test_sizes_below_one_raise_an_error_with_the_field(field):
    with pytest.raises(StrictDataclassError, match=rf"{field} must be at least 1, got 0"):
        make_config(**{field: 0})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"truncate_dim": 17}, r"truncate_dim must be in 1\.\.16 \(projection_dim\), got 17"),
        ({"truncate_dim": 0}, r"truncate_dim must be in 1\.\.16"),
        ({"prefixes": [8, 4]}, r"prefixes: must ascend without repetition, got \[8, 4\]"),
        ({"prefixes": [8, 8]}, r"prefixes: must ascend without repetition"),
        ({"prefixes": [8, 17]}, r"prefixes: must be in 1\.\.16"),
    ],
)
def test_widths_that_do_not_fit_raise_an_error(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        make_config(**fields)


@pytest.mark.parametrize("field", ["vision_config", "text_config"])
def test_tower_without_model_type_raises_an_error_with_the_field(field):
    with pytest.raises(ValueError, match=rf"{field} has no 'model_type'"):
        DCCLIPConfig(**{field: {"hidden_size": 32}})


@pytest.mark.parametrize("field", ["vision_pooling", "text_pooling"])
def test_unknown_pooling_raises_an_error_with_the_field(field):
    with pytest.raises(StrictDataclassError, match=field):
        make_config(**{field: "max"})


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
