"""A finished folder to publish."""

from pathlib import Path

import pytest

from tests.tiny import CUT_EFFICIENTNET, make_model, recipe_fields, student_config
from training.config import DistillRecipe
from training.hub import save_model, write_card


@pytest.fixture(scope="session")
def finished(tmp_path_factory, processor) -> Path:
    """A finished model folder with files that must not be uploaded. Tests must not write into it."""
    folder = tmp_path_factory.mktemp("finished") / "dcclip-tiny"
    fields = recipe_fields(
        folder, "/data/some/images", teacher="some/teacher", student=student_config()
    )
    model = make_model(
        CUT_EFFICIENTNET, teacher="BAAI/AltCLIP", teacher_license="creativeml-openrail-m"
    )
    save_model(folder, model, processor, DistillRecipe(**fields))
    write_card(folder)
    for name in (
        "log.jsonl",
        "checkpoint-000002/model.safetensors",
        "training_state/tensors.safetensors",
        ".cache/huggingface/token",
        "__pycache__/modeling_dcclip.pyc",
        "optimizer.pt",
        "private.png",
        "onnx/model.onnx",
        "onnx/notes.txt",
        "executorch/text_model.pte",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"0123456789")
    return folder
