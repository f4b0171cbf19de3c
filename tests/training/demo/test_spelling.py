"""A model that knows captions in lower case and in simplified characters learns to read others."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from tests.tiny import MOBILENET, NO_DROPOUT, ROOT, make_image_processor, make_model, recipe_fields, student_config
from training.config import DistillRecipe
from training.demo.spelling import extended, simplified_pieces, unify_spelling
from training.hub import save_model
from training.students import load_student
from training.text.pipeline import read_pipeline, rebuild
from training.text.tokenizers import load_tokenizer

KNOWN = ["a black dog", "a black dog", "猫和马", "马在草地上"]
OTHERS = ["A BLACK Dog", "a_black--dog_", "貓和馬", "馬在草地上"]
SEPARATORS = [{"type": "Replace", "pattern": {"String": each}, "content": " "} for each in "_-"]
LOWERCASE, NFKC = {"type": "Lowercase"}, {"type": "NFKC"}
UNREACHABLE = {"▁Dog", "A", "▁__", "▁2-"}  # once the tokenizer lowercases, and reads _ and - as spaces


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """A finished model in half precision whose tokenizer distinguishes upper and lower case, and the changed one."""
    folder = tmp_path_factory.mktemp("model") / "before"
    tokenizer = load_tokenizer(str(ROOT / "model_cards" / "dcclip-tiny-photo"))
    pipeline = read_pipeline(tokenizer)
    steps = [step for step in pipeline["normalizer"]["normalizers"] if step not in [LOWERCASE, *SEPARATORS]]
    vocabulary = [*pipeline["model"]["vocab"], *([piece, -9.0] for piece in UNREACHABLE)]
    pipeline |= {"normalizer": {"type": "Sequence", "normalizers": steps}}
    tokenizer = rebuild(tokenizer, pipeline | {"model": pipeline["model"] | {"vocab": vocabulary}})
    processor = DCCLIPProcessor(make_image_processor(), tokenizer)
    model = make_model(MOBILENET, NO_DROPOUT | {"vocab_size": len(tokenizer)}, seed=3)
    recipe = DistillRecipe(**recipe_fields(folder, "some/images", teacher="some/teacher", student=student_config()))
    save_model(folder, model, processor, recipe)
    tensors = {name: value.half() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    changed = shutil.copytree(folder, folder.with_name("changed"))
    assert unify_spelling(changed, *load_student(changed)) > 0
    return folder, changed


def embed(folder: Path, texts: list[str]) -> torch.Tensor:
    model = DCCLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        inputs = DCCLIPProcessor.from_pretrained(folder)(text=texts, return_tensors="pt")
        return model.get_text_features(**inputs).pooler_output


def test_all_spellings_of_a_text_have_the_embedding_of_the_known_one(folders):
    before, changed = folders
    assert (embed(before, OTHERS) - embed(before, KNOWN)).norm(dim=1).min() > 1e-3
    torch.testing.assert_close(embed(changed, OTHERS), embed(changed, KNOWN))
    torch.testing.assert_close(embed(changed, KNOWN), embed(before, KNOWN))


def test_pieces_that_no_text_has_are_removed(folders):
    before, after = (DCCLIPProcessor.from_pretrained(each).tokenizer for each in folders)
    kept = after.get_vocab()
    assert before.get_vocab().keys() - kept.keys() == UNREACHABLE
    assert before.all_special_tokens == after.all_special_tokens and sorted(kept.values()) == [*range(len(kept))]
    model = DCCLIPModel.from_pretrained(folders[1])
    assert len(model.get_input_embeddings().weight) == model.config.text_config.vocab_size == len(kept)
    tensors = load_file(folders[1] / "model.safetensors").values()
    assert {value.dtype for value in tensors if value.is_floating_point()} == {torch.float16}


@pytest.mark.parametrize(
    ("normalizer", "steps"),
    [
        (None, [*SEPARATORS, LOWERCASE]),
        (NFKC, [*SEPARATORS, NFKC, LOWERCASE]),
        ({"type": "Sequence", "normalizers": [SEPARATORS[0], NFKC]}, [SEPARATORS[1], SEPARATORS[0], NFKC, LOWERCASE]),
        ({"type": "BertNormalizer", "lowercase": True}, [*SEPARATORS, {"type": "BertNormalizer", "lowercase": True}]),
    ],
)
def test_separators_come_first_lower_case_last_and_both_once(normalizer, steps):
    expected = {"type": "Sequence", "normalizers": steps}
    assert extended(normalizer) == expected and extended(expected) == expected


def test_traditional_pieces_are_matched_to_simplified_ones():
    pieces = ["<s>", "猫", "▁dog", "貓", "▁小貓", "▁小猫", "龍", "山"]
    assert simplified_pieces(pieces) == {3: 1, 4: 5}  # the simplified form of 龍 is no piece
