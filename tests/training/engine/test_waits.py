"""A training step never waits for its device: shown on a device that exists in name only."""

import json
from typing import Any

import pytest
import torch
import yaml

from tests.tiny import BERT, DROPOUT, ROOT, VIT, save_untrained
from tests.training.tasks.hand_made import save_classifier
from training.teachers import DualEncoder
from training.teachers.named_targets import save_named_targets

pytestmark = pytest.mark.slow

TEXT = BERT | dict.fromkeys(DROPOUT, 0.0)
STUDENT = {"vision_config": VIT, "text_config": TEXT, "max_text_length": 32}
EVERY_CHANGE = {"rotate": 10, "downscale": 0.5, "blur": 0.5, "tint": 0.1}
PAIR_LOSSES = {"anchor_weight": 1.0, "text_text_weight": 1.0}


@pytest.fixture
def waits(corpus, teacher_folder, tmp_path, run_python, processor):
    """Run three steps of a stage, and return the waits of the second."""

    def run(stage: str, module: str = "", **fields: Any) -> dict[str, int]:
        student = save_untrained(tmp_path / "student", processor, VIT, text=TEXT)
        recipe = {
            "output_dir": str(tmp_path / "run"),
            "teacher": str(teacher_folder),
            "data": {"train": str(corpus / "train.parquet")},
            "max_steps": 3,
            "batch_size": 8,
            "ema_decay": 0.9,
            "student": STUDENT if stage == "distill" else student,
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | fields), encoding="utf-8")
        program = ["-m", "tests.training.engine.pretended", stage, str(tmp_path / "recipe.yaml")]
        path = f"{ROOT}:{tmp_path}"
        ran = run_python(*program, *filter(None, [module]), PYTHONPATH=path)
        return json.loads(ran.stdout.splitlines()[-1])

    return run


@pytest.fixture
def classifier(tmp_path, teacher_folder) -> str:
    width = DualEncoder.from_pretrained(str(teacher_folder), towers=()).vision_width
    names = [f"class {number}" for number in range(300)]
    return save_classifier(tmp_path / "classifier.safetensors", width, {"en": names, "zh": names})


def test_a_step_of_stage_1_waits_for_nothing(waits, tmp_path, train_rows, teacher_folder):
    width = DualEncoder.from_pretrained(str(teacher_folder), towers=()).projection_dim
    path = tmp_path / "named.safetensors"
    save_named_targets(path, [train_rows[0]["en"]], torch.ones(1, width))
    fields = {"logits_weight": 1.0, "named_targets": str(path)}
    assert waits("distill", augment=EVERY_CHANGE, **fields) == {}


def test_a_step_of_stage_2_with_cached_targets_waits_for_nothing(waits, tmp_path):
    fields = {"teacher_cache": str(tmp_path / "cache"), "teacher_views": 1, "prefixes": [8]}
    assert waits("align", **PAIR_LOSSES, **fields) == {}


def test_no_chunk_of_a_step_with_inputs_beyond_the_data_waits(waits, corpus, classifier):
    photos = {"photo_weight": 1.0, "photos": str(corpus / "unseen_style.parquet")}
    fields = {"class_weight": 1.0, "classifier": classifier, "general_weight": 1.0}
    assert waits("align", chunk_size=3, **PAIR_LOSSES, **photos, **fields) == {}


def test_a_loss_that_waits_is_found(waits, tmp_path):
    code = """
from training.tasks.align import LOSSES, Loss


def waiting(inputs):
    return inputs.logit_scale * inputs.logit_scale.item()


LOSSES.append(Loss("waiting", waiting, "contrastive_weight"))
"""
    (tmp_path / "waiting.py").write_text(code, encoding="utf-8")
    (found,) = waits("align", "waiting")
    assert found.startswith("value at ")
