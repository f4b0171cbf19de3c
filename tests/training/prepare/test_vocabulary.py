"""Which pieces a cut keeps, and the command that cuts."""

from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, XLMRobertaTokenizer

from tests.training.conftest import SIZE
from training.prepare.cut import count_pieces, cut_vocabulary
from training.prepare.vocabulary import main, read_corpus
from training.text.vocabulary import Vocabulary

pytestmark = pytest.mark.slow


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


@pytest.mark.parametrize("size", [50, 99_999])
def test_impossible_sizes_are_refused(source, size):
    counts = count_pieces(source, ["a red apple", "一个红苹果"])
    with pytest.raises(ValueError, match=f"size: {size} is not between .* and {len(source)}"):
        cut_vocabulary(source, counts, size)


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
