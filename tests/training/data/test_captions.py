import copy
import unicodedata

import pytest
import torch
from datasets import Dataset

from tests.tiny import train_unigram
from training.config import DataConfig
from training.data import CaptionTokenizer, PairDataset
from training.data.batch import text_id, tokenize, usable_captions
from training.data.captions import CaptionTable
from training.data.skips import SkipReport
from training.prepare.cut import count_pieces, cut_vocabulary
from training.text.phrasing import reword


@pytest.fixture(scope="module")
def unigram(train_rows):
    """A Unigram tokenizer and a cut of it, which splits some texts into other pieces."""
    texts = [*train_rows["en"], *train_rows["zh"]]
    source = train_unigram(texts, 700)
    return source, cut_vocabulary(source, count_pieces(source, texts[: len(texts) // 8]), 350)


def test_the_student_alone_reads_captions_in_other_words(train_rows, tokenizer, other_tokenizer):
    config = DataConfig(train="tiny", phrasing=0.5, caption_columns={"en": "en"})
    tokens = CaptionTokenizer(tokenizer, 64, other_tokenizer)
    built = PairDataset(train_rows.select(range(32)), config, tokens, None)
    batch = built.collate([(row, 0, 3, None) for row in range(32)])
    texts = [built.captions.read(row)["en"][0] for row in range(32)]
    given = [reword(text, "en", 0.5, built.captions.number_of(text), 3) for text in texts]
    ids = tokenize(tokenizer, given, 64)
    teacher_ids = tokenize(other_tokenizer, texts, 64)
    assert torch.equal(batch["input_ids"], ids["input_ids"])
    assert torch.equal(batch["teacher_input_ids"], teacher_ids["input_ids"])
    same = [a == b for a, b in zip(texts, given, strict=True)]
    assert batch["aligned"].tolist() == same
    assert 0 < sum(same) < 32


def test_teacher_ids_of_a_cut_vocabulary_are_looked_up(train_rows, unigram):
    source, vocabulary = unigram
    tokens = CaptionTokenizer(vocabulary.tokenizer, 32, source, vocabulary)
    config = DataConfig(train="tiny", caption_columns={"en": "en"})
    built = PairDataset(train_rows, config, tokens, None)
    assert 0 < len(tokens.unaligned) < len(built.captions)
    assert list(built.skipped.captions.values()) == [len(tokens.unaligned)]
    batch = built.collate([(row, 0, 0, None) for row in range(len(train_rows))])
    texts = [text.strip() for text in train_rows["en"]]
    assert torch.equal(batch["teacher_input_ids"], tokenize(source, texts, 32)["input_ids"])
    assert batch["aligned"].tolist() == [text not in tokens.unaligned for text in texts]


def test_texts_are_padded_on_the_right_whatever_the_tokenizer_prefers(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.padding_side = "left"
    tokens = tokenize(other, ["owl", "a red apple and an owl"], 32)
    ids = tokens["input_ids"][0]
    mask = tokens["attention_mask"][0].bool()
    assert ids[mask].tolist() == tokenizer("owl").input_ids
    assert mask.tolist() == sorted(mask.tolist(), reverse=True)
    assert not mask.all()


@pytest.mark.parametrize(
    ("cell", "texts", "causes"),
    [
        (None, [], ["no caption"]),
        ([], [], ["no caption"]),
        (
            ["owl", None, "", 3, "!?…", "a \ud800", "青蛙", "2024"],
            ["owl", "2024"],
            [
                "no caption",
                "empty caption",
                "caption is not a string",
                "caption without letters or digits",
                "caption is not valid Unicode",
                "caption in the wrong script",
            ],
        ),
    ],
)
def test_each_caption_is_usable_or_has_a_cause(cell, texts, causes):
    assert usable_captions(cell, "en") == (texts, causes)


def test_different_captions_are_numbered_whatever_their_order_and_files():
    rows = Dataset.from_dict({"en": [["frog", "toad"], ["cat"], [], ["frog"], ["青蛙"]]})

    def table_of(*parts):
        skips = SkipReport(total=5, max_share=1)
        return CaptionTable(parts, [{"en": "en"}] * len(parts), True, skips)

    whole = table_of(rows)
    split = table_of(rows.select(range(2)), rows.select(range(2, 5)))
    texts = list(whole)
    assert sorted(texts) == ["cat", "frog", "toad"]
    assert list(split) == texts
    assert [split.number_of(text) for text in texts] == [0, 1, 2]
    assert split.digest() == whole.digest()
    assert split.read(4) == {}
    assert split.read(0) == {"en": ["frog", "toad"]}


def test_training_and_the_processor_tokenize_a_text_alike(caption_tokens, processor):
    """The normalizer in tokenizer.json handles Unicode form, width, case and white space for every caller."""
    text = " Ｒｅｄ　ＡＰＰＬＥ e\u0301clair"
    trained = caption_tokens([text])["input_ids"]
    assert torch.equal(trained, processor(text=[text], return_tensors="pt")["input_ids"])
    plain = unicodedata.normalize("NFKC", text).lower().strip()
    assert torch.equal(trained, caption_tokens([plain])["input_ids"])


def test_ids_of_texts_are_the_same_in_every_run():
    assert text_id("青蛙") == 2142555780008885789 < 2**63
