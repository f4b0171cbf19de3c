"""A new student from its recipe: towers, tokenizer, image processor, and what it inherits from the teacher."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, CLIPImageProcessor, PreTrainedTokenizerBase

from modeling_dcclip import DCCLIPConfig, DCCLIPModel, DCCLIPProcessor
from training.config import StudentConfig
from training.teachers import Teacher


def build_student(
    config: StudentConfig, languages: list[str], teacher: Teacher | None = None, seed: int = 0
) -> tuple[DCCLIPModel, DCCLIPProcessor]:
    """Build a student with its processor.

    Args:
        config: the student of a recipe.
        languages: ISO 639-1 codes of what it will learn to read.
        teacher: fills in tokenizer, image size and statistics, embedding width and logit scale, where the recipe is
            silent.
        seed: of the random weights.

    Raises:
        ValueError: a field is missing and there is no teacher to take it from, or it contradicts the teacher.
    """
    tokenizer = load_tokenizer(config.tokenizer) if config.tokenizer else _from_teacher(teacher, "tokenizer")
    image_size = config.image_size or _from_teacher(teacher, "image_size")
    projection_dim = config.projection_dim or _from_teacher(teacher, "projection_dim")
    if teacher is not None and projection_dim != teacher.projection_dim:
        raise ValueError(
            f"student.projection_dim is {projection_dim}, the teacher {teacher.name!r} embeds in "
            f"{teacher.projection_dim} dimensions: they could not be compared. Leave student.projection_dim out."
        )
    mean = config.image_mean or _from_teacher(teacher, "image_mean")
    std = config.image_std or _from_teacher(teacher, "image_std")
    torch.manual_seed(seed)
    model = DCCLIPModel(
        DCCLIPConfig(
            vision_config=config.vision_config,
            text_config=_text_config(config, tokenizer),
            projection_dim=projection_dim,
            vision_pooling=config.vision_pooling,
            text_pooling=config.text_pooling,
            image_size=image_size,
            max_text_length=config.max_text_length,
            languages=languages,
            teacher=teacher and teacher.name,
            teacher_license=teacher and teacher.license,
        )
    )
    if teacher is not None:
        with torch.no_grad():
            model.logit_scale.fill_(teacher.logit_scale)
    if config.inherit == "teacher":
        if teacher is None:
            raise ValueError(
                "student.inherit is 'teacher', but no teacher is given. Name one, or set student.inherit to 'none'."
            )
        inherit_weights(model, teacher)
    tokenizer.model_max_length = config.max_text_length
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": image_size},
        crop_size={"height": image_size, "width": image_size},
        image_mean=mean,
        image_std=std,
    )
    return model, DCCLIPProcessor(image_processor, tokenizer)


def _from_teacher(teacher: Teacher | None, field: str) -> Any:
    if teacher is None:
        raise ValueError(f"student.{field} is not given and there is no teacher to take it from. Set student.{field}.")
    return getattr(teacher.image_processor if field.startswith("image_m") or field == "image_std" else teacher, field)


def _text_config(config: StudentConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The text config with what only the tokenizer knows."""
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    return {"vocab_size": len(tokenizer)} | special | config.text_config


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """A tokenizer from a folder or the Hub.

    Raises:
        ValueError: there is none.
    """
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"student.tokenizer: cannot load {name!r}. Give a folder with a tokenizer.json or a Hub id. ({error})"
        ) from error


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


def inherit_weights(student: DCCLIPModel, teacher: Teacher) -> list[str]:
    """Copy every teacher weight whose name and shape the student has: a student of the teacher's first layers starts
    as they are.

    Returns:
        The names copied, as the student calls them.

    Raises:
        ValueError: there is none.
    """
    theirs = {_unwrapped(name): tensor for name, tensor in teacher.state_dict().items()}
    inherited = {
        name: theirs[_unwrapped(name)]
        for name, tensor in student.state_dict().items()
        if name != "logit_scale" and _unwrapped(name) in theirs and theirs[_unwrapped(name)].shape == tensor.shape
    }
    if not inherited:
        raise ValueError(
            f"student.inherit: no weight of {teacher.name!r} has a name and shape that the student has too. Give "
            "the student the teacher's layers, or set student.inherit to 'none'."
        )
    student.load_state_dict(inherited, strict=False)
    return list(inherited)


def _unwrapped(name: str) -> str:
    """Timm's feature extractor, which cuts a backbone short, names it with one level more."""
    return name.replace("timm_model.model.", "timm_model.")
