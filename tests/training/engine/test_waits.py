"""A training step never waits for its device: shown on a device that exists in name only."""

import json
from typing import Any

import pytest
import torch
import yaml
from transformers.masking_utils import (
    AttentionMaskInterface,
    create_bidirectional_mask,
    create_causal_mask,
    sdpa_mask,
)

from tests.tiny import BERT, DROPOUT, PROJECTION_DIM, ROOT, VIT, make_model, save_untrained
from tests.training.tasks.hand_made import save_classifier
from training.engine.stage import keep_masks
from training.teachers import DualEncoder
from training.teachers.named_targets import save_named_targets

pytestmark = pytest.mark.slow

TEXT = BERT | dict.fromkeys(DROPOUT, 0.0)
STUDENT = {"vision_config": VIT, "text_config": TEXT, "max_text_length": 32}
EVERY_CHANGE = {"rotate": 10, "downscale": 0.5, "blur": 0.5, "tint": 0.1}
PAIR_LOSSES = {"anchor_weight": 1.0, "text_text_weight": 1.0}


@pytest.fixture
def waits(corpus, teacher_folder, tmp_path, run_python, processor):
    """Run three steps of a stage, and return the waits before the first and those of the second."""

    def run(stage: str, module: str = "", **fields: Any) -> dict[str, dict[str, int]]:
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


def test_a_step_of_stage_1_waits_for_nothing(waits, train_rows, tmp_path):
    names = tmp_path / "names.safetensors"
    save_named_targets(names, train_rows["en"][:9], torch.ones(9, PROJECTION_DIM))
    losses = {"logits_weight": 1.0, "named_targets": str(names)}
    assert waits("distill", augment=EVERY_CHANGE, **losses)["step"] == {}


def test_a_step_of_stage_2_waits_for_nothing_and_its_cache_once_for_each_shard(waits, tmp_path):
    fields = {"teacher_cache": str(tmp_path / "cache"), "teacher_views": 1, "prefixes": [8]}
    found = waits("align", **PAIR_LOSSES, **fields)
    assert found["step"] == {}
    of_cache = {place: n for place, n in found["before"].items() if "teachers/cache.py" in place}
    assert [*of_cache.values()] == [1, 1], of_cache  # images and captions


def test_no_chunk_of_a_step_with_inputs_beyond_the_data_waits(waits, classifier, tmp_path):
    code = """
from functools import partial

from training.tasks import photos

photos.photo_crops = partial(photos.photo_crops, number=64)
"""
    (tmp_path / "few_crops.py").write_text(code, encoding="utf-8")
    fields = {"class_weight": 1.0, "classifier": classifier} | PAIR_LOSSES
    fields |= {"general_weight": 1.0, "photo_weight": 1.0, "chunk_size": 3}
    assert waits("align", "few_crops", **fields)["step"] == {}


def test_a_loss_that_waits_is_found(waits, tmp_path):
    code = """
from training.tasks.align import LOSSES, Loss


def waiting(inputs):
    return inputs.logit_scale * inputs.logit_scale.item()


LOSSES.append(Loss("waiting", waiting, "contrastive_weight"))
"""
    (tmp_path / "waiting.py").write_text(code, encoding="utf-8")
    (found,) = waits("align", "waiting")["step"]
    assert found.startswith("value at ")


def test_attention_has_a_mask_only_where_tokens_may_be_padded(monkeypatch):
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, "sdpa", sdpa_mask)
    keep_masks()
    states = torch.zeros(2, 5, 32)
    config = make_model(VIT, TEXT).text_model.config
    for make in (create_bidirectional_mask, create_causal_mask):
        options = {"cache": None} if make is create_causal_mask else {}
        for tokens in (None, torch.ones(2, 5, dtype=torch.long)):
            mask = make(config=config, inputs_embeds=states, attention_mask=tokens, **options)
            assert (mask is None) is (tokens is None)
