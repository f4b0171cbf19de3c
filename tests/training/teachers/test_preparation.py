"""Texts of a teacher are prepared as in its training: the same as in evaluation, and as transformers does it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tokenizers import normalizers

from modeling_dcclip import DCCLIPProcessor
from tests.tiny import make_image_processor
from tests.tiny_teachers import make_teacher_model, save_teacher
from training.config import AugmentConfig
from training.data.images import Augment
from training.engine.inputs import caption_tokens
from training.teachers import DualEncoder
from training.teachers.preparation import GEMMA_TOKEN, canonical, lower_case
from training.teachers.targets import LiveTargets, TargetSpec

AUGMENT = Augment(AugmentConfig(), seed=0)
TEXTS = ["A Red-Apple,  on a (green) Table!", "frog", "红苹果，青蛙"]


@pytest.mark.parametrize("kind", ["siglip", "altclip"])
def test_targets_of_a_batch_equal_the_embeddings_of_evaluation(kind, tokenizer, tmp_path):
    teacher = DualEncoder.from_pretrained(save_teacher(kind, tmp_path, tokenizer), ("text",))
    batch = caption_tokens(tokenizer, 32, teacher)(TEXTS)
    found = LiveTargets(teacher, TargetSpec(("text",))).texts(batch).embedding
    torch.testing.assert_close(
        F.normalize(found, dim=1), teacher.encode_texts(TEXTS), rtol=1e-4, atol=1e-5
    )
    assert (teacher.clean is None) == (kind != "siglip")


def test_siglip_2_lower_cases_texts_unless_its_tokenizer_does(tokenizer):
    lower, cased = copy.deepcopy(tokenizer), copy.deepcopy(tokenizer)
    cased.backend_tokenizer.normalizer = normalizers.NFKC()
    for tokens in (lower, cased):
        tokens.add_tokens(
            [GEMMA_TOKEN]
        )  # of SigLIP 2, whose checkpoints of a fixed size are of the class SiglipModel
    for kind, tokens, clean in (
        ("siglip", cased, lower_case),
        ("siglip", lower, None),
        ("clip", cased, None),
    ):
        model = make_teacher_model(kind, len(tokens))
        teacher = DualEncoder(model, DCCLIPProcessor(make_image_processor(), tokens), "x")
        assert teacher.clean is clean


@pytest.fixture(scope="module")
def siglip(tmp_path_factory, tokenizer) -> DualEncoder:
    return DualEncoder.from_pretrained(
        str(save_teacher("siglip", tmp_path_factory.mktemp("siglip"), tokenizer))
    )


def test_captions_of_a_training_batch_are_cleaned_for_the_teacher_alone(siglip, tokenizer):
    tokens = caption_tokens(tokenizer, 32, siglip)
    batch = tokens(TEXTS)
    cleaned = ["a redapple on a green table", "frog", "红苹果，青蛙"]
    assert [canonical(text) for text in TEXTS] == cleaned
    for row, (text, clean) in enumerate(zip(TEXTS, cleaned, strict=True)):
        for name, expected in (("input_ids", text), ("teacher_input_ids", clean)):
            ids = tokenizer(expected).input_ids
            assert batch[name][row, : len(ids)].tolist() == ids
