"""Cuts of Unigram tokenizers in XLM-R's layout, trained on the names of emoji in fourteen languages."""

from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from emoji import LANGUAGES
from emoji.unicode_codes import EMOJI_DATA, load_from_json
from tokenizers import Tokenizer, models
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
    XLMRobertaTokenizer,
)

from tests.tiny import train_unigram
from training.prepare.cut import count_pieces, cut_vocabulary
from training.prepare.vocabulary import main, read_corpus
from training.text.vocabulary import Vocabulary

pytestmark = pytest.mark.slow

SIZE = 3000


@pytest.fixture(scope="module")
def names():
    """Names of emoji, by language."""
    found = {}
    for language in LANGUAGES:
        load_from_json(language)
        found[language] = []
        for data in EMOJI_DATA.values():
            if language in data:
                found[language].append(data[language].strip(":").replace("_", " "))
    return found


@pytest.fixture(scope="module")
def english_and_chinese(names):
    return [*names["en"], *names["zh"]]


@pytest.fixture(scope="module")
def source(names):
    """Of all fourteen languages, with a token that is not in the model."""
    texts = []
    for of_language in names.values():
        # without skin tones, which repeat the same words
        texts += [text for text in of_language[::3] if ":" not in text]
    tokenizer = train_unigram(texts, 9000)
    tokenizer.add_tokens("DC-CLIP")
    return tokenizer


@pytest.fixture(scope="module")
def vocabulary(source, english_and_chinese):
    return cut_vocabulary(source, count_pieces(source, english_and_chinese), SIZE)


def test_text_whose_pieces_are_kept_is_split_into_the_same_pieces(vocabulary, source, names):
    texts = []
    for language in ("en", "zh", "es", "ru"):
        texts += names[language][::4]
    kept = [(vocabulary.kept_ids[ids] >= 0).all().item() for ids in source(texts).input_ids]
    assert kept.count(True) >= 1_000
    assert kept.count(False) >= 1_000
    assert vocabulary.aligned(texts, source) == kept


@pytest.mark.parametrize(
    "texts", [["red apple"], ["red apple", "红苹果"], ["a <mask> apple DC-CLIP"]]
)
def test_template_has_the_new_ids(vocabulary, source, texts):
    new = vocabulary.tokenizer(*texts)
    old = source(*texts)
    assert vocabulary.to_source(torch.tensor(new.input_ids)).tolist() == old.input_ids
    assert vocabulary.tokenizer.decode(new.input_ids) == source.decode(old.input_ids)
    del new["input_ids"], old["input_ids"]
    assert dict(new) == dict(old)


def test_characters_of_the_corpus_and_ascii_are_kept(vocabulary, source, english_and_chinese):
    needed = {*map(chr, range(33, 127)), *"".join(english_and_chinese)}
    kept = vocabulary.tokenizer.get_vocab().keys()
    assert needed & source.get_vocab().keys() <= kept


def test_score_of_an_unknown_character_is_unchanged():
    """The score of an unknown character follows the lowest score.

    Without that piece, a path through an unknown character could win over pieces that are all kept.
    """
    scores = {
        "<s>": 0.0,
        "<pad>": 0.0,
        "</s>": 0.0,
        "<unk>": 0.0,
        "▁": -1.0,
        "甲": -31.0,
        "乙": -30.0,
        "乙丙": -10.0,
        "丁戊": -10.0,
        "己庚": -10.0,
        "丙丁戊己庚": -0.5,
        "the": -2.0,
    }
    tokenizer = XLMRobertaTokenizer(vocab=[*scores.items(), ("<mask>", 0.0)])
    assert tokenizer.tokenize("乙丙丁戊己庚") == ["▁", "乙丙", "丁戊", "己庚"]
    counts = count_pieces(tokenizer, ["the"])
    cut = cut_vocabulary(tokenizer, counts, len(scores), ideograph_share=0.0).tokenizer
    kept = cut.get_vocab().keys()
    assert {"乙丙", "丁戊", "己庚", "丙丁戊己庚"} <= kept
    assert "乙" not in kept
    assert cut.tokenize("乙丙丁戊己庚") == ["▁", "乙丙", "丁戊", "己庚"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (models.BPE(), "'BPE'"),
        (models.Unigram([("a", 0.0)]), "unk_id"),
    ],
)
def test_tokenizers_that_cannot_be_cut_are_refused(model, message):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))
    with pytest.raises(ValueError, match=message):
        count_pieces(tokenizer, ["a"])


def test_command_writes_a_vocabulary(source, names, tmp_path, capsys):
    options = {
        "tokenizer": tmp_path / "xlmr",
        "corpus": tmp_path / "names.parquet",
        "size": 2000,
        "output_dir": tmp_path / "cut",
    }
    source.save_pretrained(options["tokenizer"])
    table = pa.table({"en": names["en"][:3000], "zh": names["zh"][:3000]})
    pq.write_table(table, options["corpus"])
    main([f"--{name}={value}" for name, value in options.items()])
    vocabulary = Vocabulary.load(options["output_dir"])
    assert len(vocabulary) == 2000
    assert vocabulary.corpus == "names.parquet"
    assert f"{len(source):,} -> 2,000 pieces" in capsys.readouterr().out


def test_frequent_pieces_are_kept_before_rare_ones(source):
    texts = ["smiling cat"] * 9 + ["crying dog"] * 4 + ["red apple"]
    cut = partial(cut_vocabulary, source, count_pieces(source, texts), ideograph_share=0.0)
    least = cut(SIZE).counts["required"]
    kept = cut(least + 3).tokenizer.get_vocab().keys()
    assert set(source.tokenize("smiling cat")) <= kept
    assert not set(source.tokenize("apple")) <= kept


def test_ideographs_outside_the_corpus_get_their_share(source):
    counts = count_pieces(source, ["a red apple and a green frog"])
    assert cut_vocabulary(source, counts, 800, ideograph_share=0.1).counts["ideograph"] == 80


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
    assert loaded.counts == vocabulary.counts


def test_a_vocabulary_with_the_tokenizer_of_another_cut_is_refused(vocabulary, source, tmp_path):
    vocabulary.save(tmp_path)
    source.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="come from different cuts"):
        Vocabulary.load(tmp_path)


def test_impossible_sizes_are_refused(source):
    counts = count_pieces(source, ["a red apple", "一个红苹果"])
    with pytest.raises(ValueError, match=f"size: 99999 .* {len(source)} "):
        cut_vocabulary(source, counts, 99_999)
    with pytest.raises(ValueError, match=r"size: 50 .* at least"):
        cut_vocabulary(source, counts, 50)


def test_an_empty_corpus_is_refused(source):
    with pytest.raises(ValueError, match="empty"):
        count_pieces(source, ["", "  "])


def test_a_corpus_is_read_from_the_columns_that_a_source_has(tmp_path):
    path = f"{tmp_path}/a.parquet"
    table = pa.table({"en": ["a", None], "zh": ["甲", " 乙 "], "more": [["x", "y"], []]})
    pq.write_table(table, path)
    assert read_corpus([path], ["en", "zh"]) == ["a", "甲", "乙"]
    assert read_corpus([path, path], ["more"]) == ["x", "y", "x", "y"]
    with pytest.raises(ValueError, match=r"^corpus: .*a\.parquet' has none of the columns caption"):
        read_corpus([path], ["caption"])
