"""The model of photographs in `model_cards/dcclip-tiny-photo`: complete, small, and with the code of the package."""

import shutil
from pathlib import Path

import pytest
import torch

from modeling_dcclip import DCCLIPModel
from modeling_dcclip.runtime_dcclip import Runtime
from training.hub import changed_code, list_files, write_card

FOLDER = Path(__file__).parents[2] / "model_cards" / "dcclip-tiny-photo"
MAX_BYTES = 45_000_000
REMEDY = "run: python -c \"from training.hub import complete_folder as c; c('model_cards/dcclip-tiny-photo')\""
LABELS = {"en": ["cat", "dog", "rabbit"], "zh": ["猫", "狗", "兔子"]}


def test_its_code_is_that_of_the_package():
    assert changed_code(FOLDER) == [], REMEDY


def test_it_can_be_published_and_is_small():
    files = list_files(FOLDER)
    assert len(files) <= 24
    assert sum((FOLDER / file).stat().st_size for file in files) <= MAX_BYTES
    assert {"onnx/vision_model_quantized.onnx", "onnx/text_model_quantized.onnx"} <= {*files}


def test_its_card_is_rendered_from_its_files(tmp_path):
    copy = shutil.copytree(FOLDER, tmp_path / FOLDER.name)
    write_card(copy)
    assert (copy / "README.md").read_bytes() == (FOLDER / "README.md").read_bytes()


@torch.no_grad()
def test_its_config_states_the_size_of_its_feature_map():
    model = DCCLIPModel.from_pretrained(FOLDER).eval()
    size = model.config.image_size
    feature_map = model.get_image_features(torch.zeros(1, 3, size, size)).feature_map
    assert list(feature_map.shape[2:]) == list(model.config.vision_grid)


@pytest.mark.parametrize("language", LABELS)
def test_the_int8_files_label_the_example(language):
    labels = LABELS[language]
    assert Runtime(FOLDER).zero_shot(FOLDER / "example.jpg", labels)[0][0] == labels[0]
