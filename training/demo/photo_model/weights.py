"""The weights of the model of photographs: with fewer pieces of the vocabulary, rotated, and in half precision."""

from pathlib import Path
from typing import Any, cast

from safetensors.torch import load_file, save_file
from torch import nn

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.engine.rotation import axes_of, rotate
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.evaluation.sets.retrieval_sets import open_retrieval_set
from training.text.vocabulary import Vocabulary
from training.utils.files import atomic_write

ROTATION_IMAGES, ROTATION_CAPTIONS = 2000, 5000  # captions in each language


def cut_to(model: DCCLIPModel, processor: DCCLIPProcessor, vocabulary: Vocabulary):
    """Reduce a model and its processor in place to a cut vocabulary. Texts of its pieces keep their embeddings.

    Args:
        model: Model whose token table has all pieces.
        processor: Its processor.
        vocabulary: A cut of the processor's tokenizer.

    Raises:
        ValueError: The vocabulary was cut from another tokenizer.
    """
    vocabulary.check_source(processor.tokenizer)
    table, text_config = cast(nn.Embedding, model.get_input_embeddings()), cast(Any, model.config.text_config)
    rows = table.weight.detach()[vocabulary.source_ids]
    model.set_input_embeddings(nn.Embedding.from_pretrained(rows, freeze=False, padding_idx=table.padding_idx))
    text_config.vocab_size = len(vocabulary)
    processor.tokenizer = vocabulary.tokenizer


def rotate_to_axes(model: DCCLIPModel, processor: DCCLIPProcessor, source: str):
    """Rotate the space of a model in place to the principal axes of embeddings. Its cosine similarities stay the same.

    Args:
        model: Model in eval mode.
        processor: Its processor.
        source: Images with captions; the first `ROTATION_IMAGES`, and the first `ROTATION_CAPTIONS` captions in
            each language, are embedded.
    """
    found = open_retrieval_set("rotate_by", source)
    encoder = ZeroShotModel(model, processor, "student")
    images = encoder.encode_images(found.rows.select(range(min(ROTATION_IMAGES, len(found.rows)))))
    texts = encoder.encode_texts([text for each in found.captions.values() for text in each[:ROTATION_CAPTIONS]])
    rotate(model, axes_of(images, texts))


def round_to_half(model: DCCLIPModel):
    """Round all weights in place to half precision, without a change of their type.

    Args:
        model: Model in float32.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.copy_(tensor.data.half())


def store_in_half(path: Path):
    """Store the floating-point weights of a file in half precision. The config keeps float32, the type after loading.

    Args:
        path: File of the weights in safetensors format.
    """
    tensors = {name: value.half() if value.is_floating_point() else value for name, value in load_file(path).items()}
    with atomic_write(path) as scratch:
        save_file(tensors, scratch, {"format": "pt"})
