"""Texts of a teacher are prepared as in its training: the same as in evaluation, and as transformers does it."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tokenizers import normalizers

from modeling_dcclip import DCCLIPProcessor
from tests.tiny import make_image_processor
from tests.tiny_teachers import NUM_POSITIONS, make_teacher_model, save_teacher
from training.data import tokenize
from training.engine.inputs import caption_tokens
from training.teachers import DualEncoder
from training.teachers.preparation import (
    GEMMA_TOKEN,
    canonical,
    config_end_token,
    lower_case,
)
from training.teachers.targets import LiveTargets, TargetSpec

TEXTS = ["A Red-Apple,  on a (green) Table!", "frog", "红苹果，青蛙"]


@pytest.mark.parametrize("kind", ["siglip", "altclip"])
def test_targets_of_a_batch_equal_the_embeddings_of_evaluation(
    kind, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr("training.teachers.targets.CPU_CHUNK", 1)
    teacher = DualEncoder.from_pretrained(save_teacher(kind, tmp_path, tokenizer), ("text",))
    batch = caption_tokens(tokenizer, 32, teacher)(TEXTS)
    found = LiveTargets(teacher, TargetSpec(("text",))).texts(batch).embedding
    torch.testing.assert_close(
        F.normalize(found, dim=1),
        torch.from_numpy(teacher.encode_texts(TEXTS)),
        rtol=1e-4,
        atol=1e-5,
    )
    assert torch.equal(batch["input_ids"], tokenize(tokenizer, TEXTS, 32)["input_ids"])
    assert ("teacher_input_ids" in batch) == (kind == "siglip")  # cleaned for the teacher alone


def test_clip_pools_at_the_end_token_of_its_config_unless_that_is_of_old(tokenizer):
    highest = max(tokenizer("a").input_ids)
    for model_type, stated, end in [("clip", 7, 7), ("clip", 2, highest), ("other", 2, 2)]:
        config = SimpleNamespace(
            model_type=model_type, text_config=SimpleNamespace(eos_token_id=stated)
        )
        assert config_end_token(config, tokenizer) == end


def test_siglip_takes_texts_in_lower_case_without_punctuation():
    assert canonical(TEXTS[0]) == "a redapple on a green table"


def test_siglip_2_lower_cases_texts_unless_its_tokenizer_does(tokenizer):
    lower = copy.deepcopy(tokenizer)
    cased = copy.deepcopy(tokenizer)
    cased.backend_tokenizer.normalizer = normalizers.NFKC()
    for tokens, clean in ((cased, lower_case), (lower, None)):
        tokens.add_tokens([GEMMA_TOKEN])
        model = make_teacher_model("siglip", len(tokens))
        teacher = DualEncoder(model, DCCLIPProcessor(make_image_processor(), tokens), "x")
        assert teacher.clean is clean
        # padded to the full length, without a mask
        assert teacher.tokenize(["a"])["input_ids"].shape == (1, NUM_POSITIONS)
        assert teacher.describe()["texts"] == {
            "max_length": NUM_POSITIONS,
            "padding": "max_length",
            "padding_is_masked": False,
            "cleaning": "lower_case",
            "stated_by": teacher.texts.stated_by,
        }
        assert teacher.describe().keys() == {"family", "revision", "texts", "images"}
