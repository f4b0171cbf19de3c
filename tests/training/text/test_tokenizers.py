import json

import pytest
from transformers import AutoTokenizer, BertConfig, ByT5Tokenizer

from training.text.pipeline import TOKENIZER_FILE, untruncated
from training.text.tokenizers import (
    load_tokenizer,
    match_tokens,
    reset_call_state,
    same_tokens,
)

TEXTS = ["red apple", "a frog with a very long tail"]


@pytest.fixture
def loaded(tokenizer, tmp_path):
    """The same tokenizer, saved and loaded, so that a test can change its call state."""
    tokenizer.save_pretrained(tmp_path / "saved")
    return AutoTokenizer.from_pretrained(tmp_path / "saved")


def test_same_tokens_compares_whole_pipelines(tokenizer, other_tokenizer, loaded):
    assert same_tokens(tokenizer, tokenizer) and same_tokens(tokenizer, loaded)
    assert not same_tokens(tokenizer, other_tokenizer)


def test_slow_tokenizer_equals_only_itself(tokenizer):
    byte_tokens = ByT5Tokenizer()
    assert same_tokens(byte_tokens, byte_tokens)
    assert not same_tokens(byte_tokens, ByT5Tokenizer()) and not same_tokens(tokenizer, byte_tokens)


def test_tokens_are_matched_by_their_text(tokenizer, other_tokenizer, loaded):
    assert match_tokens(loaded, tokenizer).tolist() == [*range(len(tokenizer))]
    found = match_tokens(tokenizer, other_tokenizer).tolist()
    pieces = other_tokenizer.get_vocab()
    for piece, token in tokenizer.get_vocab().items():
        assert found[token] == pieces.get(piece, -1)
    assert -1 in found and len(found) == len(tokenizer)


def test_a_model_without_a_tokenizer_is_refused(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^student.tokenizer: .* has a model and no tokenizer"):
        load_tokenizer(str(tmp_path))


def test_call_state_is_restored_after_unbounded(loaded):
    loaded(TEXTS, padding=True, truncation=True, max_length=3)
    backend = loaded.backend_tokenizer
    before = backend.padding, backend.truncation
    with untruncated(loaded) as same:
        assert min(len(encoding.ids) for encoding in same.encode_batch(TEXTS)) > 3
    assert (backend.padding, backend.truncation) == before


def test_saved_tokenizer_has_no_call_state_after_a_reset(loaded, tmp_path):
    loaded(TEXTS, padding=True, truncation=True, max_length=3)
    reset_call_state(loaded)
    loaded.save_pretrained(tmp_path)
    content = json.loads((tmp_path / TOKENIZER_FILE).read_text(encoding="utf-8"))
    assert content["padding"] is None and content["truncation"] is None
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert not {"max_length", "padding_side", "is_local", "local_files_only"} & settings.keys()


def test_a_damaged_tokenizer_is_refused_by_name(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / TOKENIZER_FILE).write_text('{"model": {"type": "none"}}')
    with pytest.raises(ValueError, match=r"^student.tokenizer: cannot load"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_with_remote_code_is_refused_without_a_question(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {
        "tokenizer_class": "OtherTokenizer",
        "auto_map": {"AutoTokenizer": [None, "other.OtherTokenizer"]},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"student\.tokenizer: cannot load the tokenizer of "):
        load_tokenizer(str(tmp_path))
