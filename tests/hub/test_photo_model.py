"""The models of photographs in `model_cards`: complete, small, and with the code of the package."""

import shutil
from pathlib import Path

import pytest

from modeling_dcclip.runtime_dcclip import Runtime
from training.hub import changed_code, list_files, write_card

CARDS = Path(__file__).parents[2] / "model_cards"
MAX_BYTES = 45_000_000
REMEDY = "run: python -c \"from training.hub import complete_folder as c; c('model_cards/{}')\""
LABELS = {"en": ["cat", "dog", "rabbit"], "zh": ["猫", "狗", "兔子"]}


@pytest.fixture(params=sorted(CARDS.glob("dcclip-*-photo")), ids=lambda path: path.name)
def folder(request) -> Path:
    return request.param


def test_its_code_is_that_of_the_package(folder):
    assert changed_code(folder) == [], REMEDY.format(folder.name)


def test_it_can_be_published_and_is_small(folder):
    files = list_files(folder)
    assert len(files) <= 25
    assert sum((folder / file).stat().st_size for file in files) <= MAX_BYTES
    assert {"onnx/vision_model_quantized.onnx", "onnx/text_model_quantized.onnx"} <= {*files}


def test_its_card_is_rendered_from_its_files(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / folder.name)
    write_card(copy)
    assert (copy / "README.md").read_bytes() == (folder / "README.md").read_bytes()


@pytest.mark.parametrize("language", LABELS)
def test_the_int8_files_label_the_example(folder, language):
    labels = LABELS[language]
    assert Runtime(folder).zero_shot(folder / "example.jpg", labels)[0][0] == labels[0]
