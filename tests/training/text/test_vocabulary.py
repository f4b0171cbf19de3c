"""Cut vocabularies: the same pieces as their source, and files that belong together."""

import pytest
import torch
from transformers import AutoTokenizer, ByT5Tokenizer

from training.text.tokenizers import match_tokens
from training.text.vocabulary import Vocabulary

pytestmark = pytest.mark.slow


def test_text_whose_pieces_are_kept_is_split_into_the_same_pieces(vocabulary, source, names):
    texts = []
    for language in ("en", "zh", "es", "ru"):
        texts += names[language][::4]
    kept = [(vocabulary.kept_ids[ids] >= 0).all().item() for ids in source(texts).input_ids]
    assert kept.count(True) >= 1_000
    assert kept.count(False) >= 1_000
    assert vocabulary.aligned(texts, source) == kept


@pytest.mark.parametrize("texts", [["red apple", "红苹果"], ["a <mask> apple DC-CLIP"]])
def test_template_has_the_new_ids(vocabulary, source, texts):
    new = vocabulary.tokenizer(*texts)
    old = source(*texts)
    assert vocabulary.to_source(torch.tensor(new.input_ids)).tolist() == old.input_ids
    assert vocabulary.tokenizer.decode(new.input_ids) == source.decode(old.input_ids)
    del new["input_ids"], old["input_ids"]
    assert dict(new) == dict(old)


def test_special_tokens_and_settings_are_kept(vocabulary, source):
    cut = vocabulary.tokenizer
    assert type(cut) is type(source)
    assert cut.special_tokens_map == source.special_tokens_map
    assert cut.model_max_length == source.model_max_length
    assert set(source.added_tokens_encoder) == set(cut.added_tokens_encoder)


def test_a_saved_vocabulary_loads_as_it_was(vocabulary, source, texts, tmp_path):
    vocabulary.tokenizer(texts, padding=True, truncation=True, max_length=5)  # must not be saved
    vocabulary.save(tmp_path)
    alone = AutoTokenizer.from_pretrained(tmp_path)
    assert alone(texts).input_ids == vocabulary.tokenizer(texts).input_ids
    loaded = Vocabulary.load(tmp_path)
    assert torch.equal(loaded.source_ids, vocabulary.source_ids)
    assert torch.equal(loaded.kept_ids, vocabulary.kept_ids)
    assert loaded.is_cut_of(source)
    assert not loaded.is_cut_of(alone) and not loaded.is_cut_of(ByT5Tokenizer())
    assert Vocabulary.is_in(tmp_path)
    assert torch.equal(match_tokens(alone, source, str(tmp_path)), vocabulary.source_ids)
    assert loaded.counts == vocabulary.counts


def test_a_vocabulary_with_the_tokenizer_of_another_cut_is_refused(vocabulary, source, tmp_path):
    vocabulary.save(tmp_path)
    source.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="come from different cuts"):
        Vocabulary.load(tmp_path)
