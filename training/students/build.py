"""A new student from its recipe: towers, tokenizer, image processor, and what it inherits."""

import copy
import logging
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, CLIPImageProcessor, PreTrainedConfig, PreTrainedTokenizerBase

from modeling_dcclip import DCCLIPConfig, DCCLIPModel, DCCLIPProcessor
from training.config import StudentConfig
from training.students.inherit import inherit_weights
from training.students.sources import open_source, source_config
from training.teachers import TOWERS, Teacher
from training.text.tokenizers import load_tokenizer, match_tokens

RANDOM = "random"

logger = logging.getLogger(__name__)


def build_student(
    config: StudentConfig, languages: list[str], teacher: Teacher | None = None, seed: int = 0
) -> tuple[DCCLIPModel, DCCLIPProcessor]:
    """Build a student with its processor.

    Args:
        config: the student of a recipe.
        languages: ISO 639-1 codes of what it will learn to read.
        teacher: fills in tokenizer, image size and statistics, embedding width and logit scale, where the recipe is
            silent; it need not hold a tower.
        seed: of the random weights.

    Raises:
        ValueError: a field is missing and there is no teacher to take it from, it contradicts the teacher, or a tower
            cannot be built or inherited as it says.
    """
    tokenizer = load_tokenizer(config.tokenizer) if config.tokenizer else _from_teacher(teacher, "tokenizer")
    tokenizer = copy.deepcopy(tokenizer)  # the teacher's keeps its own longest text
    image_size = config.image_size or _from_teacher(teacher, "image_size")
    projection_dim = config.projection_dim or _from_teacher(teacher, "projection_dim")
    if teacher is not None and projection_dim != teacher.projection_dim:
        raise ValueError(
            f"student.projection_dim is {projection_dim}, the teacher {teacher.name!r} embeds in "
            f"{teacher.projection_dim} dimensions: they could not be compared. Leave student.projection_dim out."
        )
    mean = config.image_mean or _from_teacher(teacher, "image_mean")
    std = config.image_std or _from_teacher(teacher, "image_std")
    vision_config = tower_config(config, "vision", teacher)
    text_config = tower_config(config, "text", teacher, tokenizer)
    torch.manual_seed(seed)
    model = DCCLIPModel(
        DCCLIPConfig(
            vision_config=vision_config,
            text_config=text_config,
            projection_dim=projection_dim,
            vision_pooling=config.vision_pooling,
            text_pooling=config.text_pooling,
            image_size=image_size,
            max_text_length=config.max_text_length,
            languages=languages,
            teacher=teacher.name if teacher else None,
            teacher_license=teacher.license if teacher else None,
        )
    )
    if teacher is not None:
        with torch.no_grad():
            model.logit_scale.fill_(teacher.logit_scale)
    for tower in TOWERS:
        _initialise(model, config, tower, teacher, tokenizer)
    tokenizer.model_max_length = config.max_text_length
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": image_size},
        crop_size={"height": image_size, "width": image_size},
        image_mean=mean,
        image_std=std,
    )
    return model, DCCLIPProcessor(image_processor, tokenizer)


def tower_config(
    config: StudentConfig,
    tower: str,
    teacher: Teacher | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> PreTrainedConfig:
    """The transformers config of one tower: the recipe wins over the tokenizer, and the tokenizer over the source.

    Args:
        config: the student of a recipe.
        tower: `vision` or `text`.
        teacher: the one that `teacher` stands for.
        tokenizer: of a text tower; its size and its special tokens.

    Raises:
        ValueError: the recipe and its source together do not describe a tower.
    """
    name = f"student.{tower}_config"
    given = dict(getattr(config, f"{tower}_config") or {})
    init = getattr(config, f"{tower}_init")
    theirs: dict[str, Any] = {}
    if init != RANDOM:
        theirs = source_config(init, tower, teacher)
        if given.get("model_type", theirs["model_type"]) != theirs["model_type"]:
            theirs = {}  # a tower of another class: nothing of the source's config would fit
    elif not given:
        raise ValueError(
            f"{name} is not given and student.{tower}_init is 'random'. Describe the tower in {name}, or name a "
            f"checkpoint to take it from in student.{tower}_init."
        )
    special = _special_tokens(tokenizer) if tokenizer else {}
    fields = theirs | special | given
    if "model_type" not in fields:
        raise ValueError(f"{name} has no 'model_type'. Name a transformers model type, such as 'xlm-roberta'.")
    try:
        built = AutoConfig.for_model(fields.pop("model_type"), **fields)
    except (ValueError, StrictDataclassError) as error:
        raise ValueError(f"{name} does not describe a tower. Change what it says of this: {error}") from error
    _validate(built, name, tokenizer)
    return built


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    return {"vocab_size": len(tokenizer)} | special


def _validate(config: PreTrainedConfig, name: str, tokenizer: PreTrainedTokenizerBase | None):
    width, heads = getattr(config, "hidden_size", None), getattr(config, "num_attention_heads", None)
    if isinstance(width, int) and isinstance(heads, int) and width % heads:
        raise ValueError(
            f"{name}.hidden_size is {width}, which {name}.num_attention_heads, {heads}, does not divide. Set one to "
            "a multiple of the other."
        )
    if tokenizer is not None and config.vocab_size < len(tokenizer):
        raise ValueError(
            f"{name}.vocab_size is {config.vocab_size}, the tokenizer has {len(tokenizer)} tokens. Leave it out, or "
            "cut the vocabulary further."
        )


def _initialise(
    model: DCCLIPModel,
    config: StudentConfig,
    tower: str,
    teacher: Teacher | None,
    tokenizer: PreTrainedTokenizerBase,
):
    init = getattr(config, f"{tower}_init")
    if init == RANDOM:
        return
    source = open_source(init, tower, teacher)
    tokens = match_tokens(tokenizer, source.tokenizer, config.tokenizer) if source.tokenizer else None
    logger.info("%s", inherit_weights(model, source, tokens))


def _from_teacher(teacher: Teacher | None, field: str) -> Any:
    if teacher is None:
        raise ValueError(f"student.{field} is not given and there is no teacher to take it from. Set student.{field}.")
    return getattr(teacher.image_processor if field.startswith("image_m") or field == "image_std" else teacher, field)


def load_student(name: str | Path | None) -> tuple[DCCLIPModel, DCCLIPProcessor]:
    """A saved student from a folder or the Hub.

    Raises:
        ValueError: it is not there, or not a DC-CLIP model.
    """
    if name is None:
        raise ValueError("student: none is named. Give the folder that stage 1 left, or describe a new_student.")
    try:
        model_type = AutoConfig.from_pretrained(name).model_type
    except OSError as error:
        raise ValueError(
            f"student: {str(name)!r} is neither a folder with a config.json nor on the Hub. Run stage 1 first? "
            f"({error})"
        ) from error
    if model_type != DCCLIPConfig.model_type:
        raise ValueError(
            f"student: {str(name)!r} is of the family {model_type!r}; stage 2 trains 'dcclip' models, as stage 1 "
            "makes them."
        )
    return DCCLIPModel.from_pretrained(name, dtype=torch.float32), DCCLIPProcessor.from_pretrained(name)


def student_model(config: StudentConfig) -> DCCLIPModel:
    """A student from its config alone, with random weights.

    Args:
        config: with its towers, vocabulary, image size and projection width spelt out.

    Raises:
        ValueError: one of these is left to a teacher.
    """
    if config.image_size is None or config.projection_dim is None:
        raise ValueError(
            f"student.image_size is {config.image_size}, student.projection_dim is {config.projection_dim}: without "
            "a teacher both must be given."
        )
    return DCCLIPModel(
        DCCLIPConfig(
            vision_config=tower_config(config, "vision"),
            text_config=tower_config(config, "text"),
            projection_dim=config.projection_dim,
            vision_pooling=config.vision_pooling,
            text_pooling=config.text_pooling,
            image_size=config.image_size,
            max_text_length=config.max_text_length,
        )
    )
