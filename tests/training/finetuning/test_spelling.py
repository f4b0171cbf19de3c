"""A model that knows captions in lower case and in simplified characters learns to read others."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from tests.tiny import MOBILENET, NO_DROPOUT, ROOT, make_image_processor, make_model, recipe_fields, student_config
from training.config import DistillRecipe
from training.finetuning.spelling import ignore_case, main, simplified_pieces, space_separators
from training.hub import save_model, write_card
from training.text.pipeline import read_pipeline, rebuild
from training.text.tokenizers import load_tokenizer

KNOWN = ["a black dog", "a black dog", "猫和马", "马在草地上"]
SEPARATORS = [{"type": "Replace", "pattern": {"String": each}, "content": " "} for each in "_-"]
ADDED = [{"type": "Lowercase"}, *SEPARATORS]
UNREACHABLE = {"▁Dog", "A", "▁__", "▁2-"}  # once the tokenizer lowercases, and reads _ and - as spaces
OTHERS = ["A BLACK Dog", "a_black--dog_", "貓和馬", "馬在草地上"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A finished model in half precision, with an export, whose tokenizer distinguishes upper and lower case."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = load_tokenizer(str(ROOT / "model_cards" / "dcclip-tiny-photo"))
    pipeline = read_pipeline(tokenizer)
    steps = [step for step in pipeline["normalizer"]["normalizers"] if step not in ADDED]
    vocabulary = [*pipeline["model"]["vocab"], *([piece, -9.0] for piece in UNREACHABLE)]
    pipeline |= {"normalizer": {"type": "Sequence", "normalizers": steps}}
    tokenizer = rebuild(tokenizer, pipeline | {"model": pipeline["model"] | {"vocab": vocabulary}})
    processor = DCCLIPProcessor(make_image_processor(), tokenizer)
    model = make_model(MOBILENET, NO_DROPOUT | {"vocab_size": len(tokenizer)}, seed=3)
    recipe = DistillRecipe(**recipe_fields(folder, "some/images", teacher="some/teacher", student=student_config()))
    save_model(folder, model, processor, recipe)
    write_card(folder)
    tensors = {name: value.half() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "onnx").mkdir()
    (folder / "onnx" / "text_model_quantized.onnx").write_bytes(b"of the old weights")
    (folder / "results.json").write_text("{}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def changed(folder, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("changed") / "model"
    main(["--model", str(folder), "--output_dir", str(target)])
    return target


def embed(folder: Path, texts: list[str]) -> torch.Tensor:
    model = DCCLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        inputs = DCCLIPProcessor.from_pretrained(folder)(text=texts, return_tensors="pt")
        return model.get_text_features(**inputs).pooler_output


def test_all_spellings_of_a_text_have_one_embedding(folder, changed):
    before = embed(folder, OTHERS) - embed(folder, KNOWN)
    assert before.norm(dim=1).min() > 1e-3
    torch.testing.assert_close(embed(changed, OTHERS), embed(changed, KNOWN))


def test_texts_in_the_known_spelling_keep_their_embedding(folder, changed):
    torch.testing.assert_close(embed(changed, KNOWN), embed(folder, KNOWN))


def test_pieces_that_no_text_has_are_removed(folder, changed):
    before, after = (DCCLIPProcessor.from_pretrained(each).tokenizer for each in (folder, changed))
    kept = after.get_vocab()
    assert before.get_vocab().keys() - kept.keys() == UNREACHABLE
    assert before.all_special_tokens == after.all_special_tokens and sorted(kept.values()) == [*range(len(kept))]
    model = DCCLIPModel.from_pretrained(changed)
    assert len(model.get_input_embeddings().weight) == model.config.text_config.vocab_size == len(kept)


def test_the_weights_keep_their_precision(changed):
    tensors = load_file(changed / "model.safetensors").values()
    assert {value.dtype for value in tensors if value.is_floating_point()} == {torch.float16}


def test_exports_and_results_of_the_old_weights_are_left_behind(changed):
    assert not (changed / "onnx").exists()
    assert not (changed / "results.json").exists()


def test_a_second_time_changes_nothing(changed, tmp_path):
    main(["--model", str(changed), "--output_dir", str(tmp_path / "again")])
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (changed / name).read_bytes()


def test_the_model_is_not_overwritten(folder, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--model", str(folder), "--output_dir", str(folder), "--overwrite"])
    assert "output_dir" in capsys.readouterr().err


LOWERCASE = {"type": "Lowercase"}
NFKC = {"type": "NFKC"}
UNDERSCORE = {"type": "Replace", "pattern": {"String": "_"}, "content": " "}
HYPHEN = {"type": "Replace", "pattern": {"String": "-"}, "content": " "}


@pytest.mark.parametrize(
    ("normalizer", "steps"),
    [
        (None, [LOWERCASE]),
        (NFKC, [NFKC, LOWERCASE]),
        ({"type": "Sequence", "normalizers": [NFKC]}, [NFKC, LOWERCASE]),
    ],
)
def test_lower_case_is_the_last_step_of_the_normalizer(normalizer, steps):
    pipeline = {"normalizer": normalizer, "model": {}}
    assert ignore_case(pipeline) == {"normalizer": {"type": "Sequence", "normalizers": steps}, "model": {}}
    assert pipeline["normalizer"] == normalizer


@pytest.mark.parametrize(
    "normalizer",
    [LOWERCASE, {"type": "Sequence", "normalizers": [LOWERCASE]}, {"type": "BertNormalizer", "lowercase": True}],
)
def test_a_pipeline_that_ignores_case_stays_the_same(normalizer):
    assert ignore_case({"normalizer": normalizer}) == {"normalizer": normalizer}


@pytest.mark.parametrize("normalizer", [None, NFKC, {"type": "Sequence", "normalizers": [NFKC]}])
def test_separators_are_replaced_first_and_once(normalizer):
    pipeline = space_separators({"normalizer": normalizer, "model": {}})
    steps = [UNDERSCORE, HYPHEN] if normalizer is None else [UNDERSCORE, HYPHEN, NFKC]
    assert pipeline == {"normalizer": {"type": "Sequence", "normalizers": steps}, "model": {}}
    assert space_separators(pipeline) is pipeline


def test_a_pipeline_that_reads_underscores_learns_to_read_hyphens():
    pipeline = space_separators({"normalizer": {"type": "Sequence", "normalizers": [UNDERSCORE, NFKC]}, "model": {}})
    assert pipeline["normalizer"]["normalizers"] == [HYPHEN, UNDERSCORE, NFKC]


def test_traditional_pieces_are_matched_to_simplified_ones():
    pieces = ["<s>", "猫", "▁dog", "貓", "▁小貓", "▁小猫", "龍", "山"]
    assert simplified_pieces(pieces) == {3: 1, 4: 5}  # the simplified form of 龍 is no piece
