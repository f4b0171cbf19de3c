"""A training step never waits for its device: shown on a device that exists in name only."""

import json

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


FEW_CROPS = """
from functools import partial

from training.tasks import own_inputs

own_inputs.photo_crops = partial(own_inputs.photo_crops, number=64)
"""
WAITING = """
from training.tasks.align import LOSSES, Loss


def waiting(inputs):
    return inputs.logit_scale * inputs.logit_scale.item()


LOSSES.append(Loss("waiting", waiting, "contrastive_weight"))
"""


@pytest.fixture(scope="module")
def waits(
    corpus, teacher_folder, train_rows, tmp_path_factory, run_python, processor
) -> list[dict[str, int]]:
    """Waits of the second of three steps, in four runs of one process."""
    folder = tmp_path_factory.mktemp("waits")
    student = save_untrained(folder / "student", processor, VIT, text=TEXT)
    shared = {
        "teacher": str(teacher_folder),
        "data": {"train": str(corpus / "train.parquet")},
        "max_steps": 3,
        "batch_size": 8,
        "ema_decay": 0.9,
        "student": student,
    }
    for module, code in {"few_crops": FEW_CROPS, "waiting": WAITING}.items():
        (folder / f"{module}.py").write_text(code, encoding="utf-8")
    save_named_targets(folder / "named", train_rows["en"][:9], torch.ones(9, PROJECTION_DIM))
    width = DualEncoder.from_pretrained(str(teacher_folder), towers=()).vision_width
    names = [f"class {number}" for number in range(300)]
    classifier = save_classifier(folder / "classifier", width, {"en": names, "zh": names})
    distilled = {"student": STUDENT, "augment": EVERY_CHANGE}
    distilled |= {"logits_weight": 1.0, "named_targets": str(folder / "named")}
    cache = {"teacher_cache": str(folder / "cache"), "teacher_views": 1, "prefixes": [8]}
    own_inputs = {"class_weight": 1.0, "classifier": classifier}
    own_inputs |= {"general_weight": 1.0, "photo_weight": 1.0, "chunk_size": 3}
    runs = []
    for number, (stage, module, fields) in enumerate(
        [
            ("distill", "", distilled),
            ("align", "", cache | PAIR_LOSSES),
            ("align", "few_crops", own_inputs | PAIR_LOSSES),
            ("align", "waiting", {}),
        ]
    ):
        recipe = shared | fields | {"output_dir": str(folder / str(number))}
        path = folder / f"{number}.yaml"
        path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
        runs.append(",".join(filter(None, [stage, str(path), module])))
    # transformers 5.25 replaces layers by kernels of the Hub, which has none for this device
    environment = {"PYTHONPATH": f"{ROOT}:{folder}", "USE_HUB_KERNELS": "NO"}
    ran = run_python("-m", "tests.training.engine.pretended", *runs, **environment)
    return json.loads(ran.stdout.splitlines()[-1])


def test_a_step_of_either_stage_waits_for_nothing_also_in_chunks(waits):
    assert waits[:3] == [{}, {}, {}]


def test_a_loss_that_waits_is_found(waits):
    (found,) = waits[3]
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
