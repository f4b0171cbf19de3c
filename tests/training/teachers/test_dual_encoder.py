import copy
import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from tokenizers import normalizers
from tokenizers.processors import TemplateProcessing
from torchvision import transforms
from transformers import (
    AutoModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Siglip2Tokenizer,
)

from tests.tiny import IMAGE_SIZE
from tests.tiny_teachers import TEACHERS, save_teacher
from training.teachers import DualEncoder
from training.teachers.preparation import GEMMA_TOKEN

pytestmark = pytest.mark.slow

KINDS = [*TEACHERS, "siglip2_fixed"]
NUM_POSITIONS = 40
TEXTS = ["A red Frog, jumping!", "青蛙", "owl"]
CLEANED = {
    "siglip": ["a red frog jumping", "青蛙", "owl"],
    "siglip2_fixed": ["a red frog, jumping!", "青蛙", "owl"],
}


@pytest.fixture(scope="module")
def ended_tokenizer(tokenizer) -> PreTrainedTokenizerBase:
    """The tokenizer, with the highest id at the end of a text, where CLIP pools its embedding."""
    ended = copy.deepcopy(tokenizer)
    ended.add_special_tokens({"eos_token": "<end>"})
    special = [(token, ended.convert_tokens_to_ids(token)) for token in ("<s>", "<end>")]
    ended.backend_tokenizer.post_processor = TemplateProcessing(
        "<s> $A <end>", special_tokens=special
    )
    return ended


@pytest.fixture(scope="module")
def gemma_tokenizer() -> PreTrainedTokenizerBase:
    """Tokenizer of SigLIP 2's class, with single letters; as in its `siglip` checkpoints, it keeps upper case."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", GEMMA_TOKEN]
    letters = sorted(set("▁ARFabcdefghijklmnopqrstuvwxyz,.!青蛙"))
    vocabulary = {token: number for number, token in enumerate([*special, *letters])}
    tokenizer = Siglip2Tokenizer(
        vocab=vocabulary, merges=[], add_bos_token=False, add_eos_token=True
    )
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(" ", "▁")
    names = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **names)


@pytest.fixture(scope="module")
def tokenizers(ended_tokenizer, gemma_tokenizer) -> dict[str, PreTrainedTokenizerBase]:
    """The tokenizer of each family."""
    return {
        kind: gemma_tokenizer if kind.startswith("siglip2") else ended_tokenizer for kind in KINDS
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizers) -> dict[str, Path]:
    """A checkpoint of every family. Tests must not write into it."""
    classes = {"siglip2_fixed": "siglip"}  # SigLIP 2 of fixed size has SigLIP's class
    return {
        kind: save_teacher(classes.get(kind, kind), tmp_path_factory.mktemp(kind), tokenizers[kind])
        for kind in KINDS
    }


@pytest.fixture(scope="module")
def wide_rows(images) -> Dataset:
    """Images that are not square, like photographs."""
    images = [image.resize((97 + 9 * number, 80)) for number, image in enumerate(images[:3])]
    return Dataset.from_dict({"image": images}, features=Features({"image": ImageFeature()}))


def encode_by_hand(kind: str, folder: Path, tokenizer, texts: list[str]) -> torch.Tensor:
    """Each text alone, with the family's own tokens and class."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    embeddings = []
    for text in CLEANED.get(kind, texts):
        ids = tokenizer(text).input_ids
        if kind in CLEANED:
            ids += [tokenizer.pad_token_id] * (NUM_POSITIONS - len(ids))
        with torch.no_grad():
            embeddings.append(model.get_text_features(input_ids=torch.tensor([ids])).pooler_output)
    return F.normalize(torch.cat(embeddings), dim=1)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_encoded_as_in_their_family(kind, folders, tokenizers):
    found = DualEncoder.from_pretrained(folders[kind]).encode_texts(TEXTS)
    torch.testing.assert_close(
        found, encode_by_hand(kind, folders[kind], tokenizers[kind], TEXTS), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_resized_as_in_clip_and_normalized_as_in_their_family(kind, folders, wide_rows):
    model = DualEncoder.from_pretrained(folders[kind])
    own = model.processor.image_processor
    prepare = transforms.Compose(
        [
            transforms.Resize(IMAGE_SIZE, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(IMAGE_SIZE),
            transforms.ToTensor(),
            transforms.Normalize(own.image_mean, own.image_std),
        ]
    )
    pixels = torch.stack([prepare(row["image"]) for row in wide_rows])
    with torch.no_grad():
        expected = F.normalize(
            model.model.get_image_features(pixel_values=pixels).pooler_output, dim=1
        )
    torch.testing.assert_close(model.encode_images(wide_rows), expected, rtol=1e-4, atol=1e-5)


def test_texts_that_are_too_long_are_cut_and_counted(folders, caplog):
    model = DualEncoder.from_pretrained(folders["clip"])
    with caplog.at_level(logging.WARNING):
        found = model.encode_texts(["owl", "owl " * 60, "owl " * 90], batch_size=2)
    assert "2 of 3 texts are longer than 40 tokens and were cut" in caplog.text
    torch.testing.assert_close(found[1], found[2])
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_equal_texts_have_equal_embeddings_in_the_order_of_the_texts(folders):
    model = DualEncoder.from_pretrained(folders["altclip"])
    texts = ["owl", "a red frog", "owl", "cat", "a red frog"]
    found = model.encode_texts(texts, batch_size=2)
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[4])
    expected = torch.cat([model.encode_texts([text]) for text in texts])
    torch.testing.assert_close(found, expected)
