"""A finished model folder without exports, and a labelled set to compare rankings on."""

from pathlib import Path

import pytest

from tests.tiny import MOBILENET, make_model, recipe_fields, student_config
from training.config import DistillRecipe
from training.hub.hub_model import HubModel


@pytest.fixture(scope="package")
def finished(processor, tmp_path_factory) -> Path:
    """A finished model folder. Tests must not write into it."""
    folder = tmp_path_factory.mktemp("layouts") / "dcclip-tiny"
    recipe = DistillRecipe(**recipe_fields(folder, "some/images", teacher="some/teacher", student=student_config()))
    HubModel(make_model(MOBILENET, seed=3), processor, recipe).save(folder)
    return folder


@pytest.fixture(scope="package")
def labelled(corpus) -> list[str]:
    """Options that name a real set with class names in both languages."""
    return ["--data", str(corpus / "unseen_style.parquet"), "--class_names", str(corpus / "class_names.json")]
