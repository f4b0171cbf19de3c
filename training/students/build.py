"""Build a student from its recipe or a size, or load a saved one: towers, tokenizer, image processor, weights."""

import copy
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase

from modeling_dcclip import DCCLIPConfig, DCCLIPModel, DCCLIPProcessor
from modeling_dcclip.image_dcclip import squashes
from training.config import CONFIGS, StudentConfig
from training.students.inherit import inherit_weights
from training.students.sources import TEACHER, open_source_tower, source_config
from training.teachers import TOWERS, DualEncoder
from training.teachers.lineage import find_commit, join_licenses, read_license
from training.teachers.loading import check_weights, open_config
from training.teachers.preparation import square_image_processor
from training.text.tokenizers import load_tokenizer, match_tokens
from training.utils.reading import check_value, read_mapping

RANDOM = "random"
SIZES = ("tiny", "small", "base")  # recipes in training/configs/students


def load_size(name: str, **overrides: Any) -> StudentConfig:
    """Load the student of a size.

    Args:
        name: Size, one of `SIZES`.
        overrides: Fields of `StudentConfig` that replace the size's own, such as `vision_init="random"`.

    Raises:
        ValueError: The size or a field is unknown, or a field has the wrong type.
    """
    if name not in SIZES:
        raise ValueError(f"student size {name!r} is unknown; choose one of {', '.join(SIZES)}.")
    fields = read_mapping(CONFIGS / "students" / f"{name}.yaml", "student")
    return check_value(StudentConfig, fields | overrides)


def build_student(
    config: StudentConfig, languages: list[str], teacher: DualEncoder | None = None, seed: int = 0
) -> tuple[DCCLIPModel, DCCLIPProcessor]:
    """Build a student with its processor.

    Args:
        config: Student of a recipe.
        languages: ISO 639-1 codes of the student's caption languages.
        teacher: Teacher that provides tokenizer, image size, resizing and statistics, embedding width and logit scale,
            unless the recipe states them. No tower of the teacher needs to be loaded.
        seed: Seed of the random weights.

    Raises:
        ValueError: A field is missing without a teacher to take it from, it contradicts the teacher, or a tower
            cannot be built or inherited as described.
    """
    statistics = teacher.image_processor if teacher else None

    def given(field: str, source: Any) -> Any:
        """A field of the recipe, or else of what it is taken from."""
        value = getattr(config, field)
        if value is None and source is None:
            raise ValueError(
                f"student.{field}: is not given, and a teacher to take it from is missing. Set it."
            )
        return getattr(source, field) if value is None else value

    tokenizer = given("tokenizer", teacher)
    if isinstance(tokenizer, str):
        tokenizer = load_tokenizer(tokenizer)
    tokenizer = copy.deepcopy(tokenizer)  # the teacher's tokenizer keeps its own maximum length
    image_size = given("image_size", teacher)
    projection_dim = given("projection_dim", teacher)
    mean = given("image_mean", statistics)
    std = given("image_std", statistics)
    if teacher is not None and projection_dim != teacher.projection_dim:
        raise ValueError(
            f"student.projection_dim is {projection_dim}, the teacher {teacher.name!r} embeds in "
            f"{teacher.projection_dim} dimensions: they could not be compared. Leave student.projection_dim out."
        )
    licenses = [teacher.license] if teacher else []
    model_config = DCCLIPConfig(
        vision_config=tower_config(config, "vision", teacher),
        text_config=tower_config(config, "text", teacher, tokenizer),
        vision_pooling=config.vision_pooling,
        max_text_length=config.max_text_length,
        projection_dim=projection_dim,
        image_size=image_size,
        languages=languages,
        teacher=teacher.name if teacher else None,
        teacher_weights=teacher.revision if teacher else None,
        teacher_license=join_licenses(licenses + _inherited_licenses(config)),
    )
    torch.manual_seed(seed)
    model = _build_model(model_config)
    if teacher is not None:
        with torch.no_grad():
            model.logit_scale.fill_(teacher.with_towers((), torch.float32).logit_scale)
    for tower in TOWERS:
        init = getattr(config, f"{tower}_init")
        if init != RANDOM:
            source = open_source_tower(init, tower, teacher)
            tokens = None
            if source.tokenizer is not None:
                tokens = match_tokens(tokenizer, source.tokenizer, config.tokenizer)
            inherit_weights(model, source, tokens)
    check_tokens(model, tokenizer)
    tokenizer.model_max_length = config.max_text_length
    # SigLIP tokenizers omit attention_mask
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    squash = teacher is not None and squashes(teacher.image_processor)
    return model, DCCLIPProcessor(square_image_processor(image_size, mean, std, squash), tokenizer)


def load_student(
    name: str | Path | None, field: str = "student"
) -> tuple[DCCLIPModel, DCCLIPProcessor]:
    """Load a saved student, with all dimensions of its embeddings, and its processor.

    Raises:
        ValueError: The student is not named, does not exist, is not a DC-CLIP model, or is damaged.
    """
    if name is None:
        raise ValueError("student: none is named. Give the output folder of stage 1.")
    config = open_config(field, str(name))
    if config.model_type != DCCLIPConfig.model_type:
        raise ValueError(
            f"{field}: {str(name)!r} is of the family {config.model_type!r}, and not 'dcclip'. Name the output folder "
            "of training/distill.py or training/align.py."
        )
    try:
        loaded: Any = DCCLIPModel.from_pretrained(  # its stub does not know of the report
            name, dtype=torch.float32, truncate_dim=None, output_loading_info=True
        )
        student, report = loaded
        processor = DCCLIPProcessor.from_pretrained(name)
    except Exception as error:  # each library has types of its own
        raise ValueError(
            f"{field}: {str(name)!r} is damaged or incomplete ({type(error).__name__}: {error}). Copy the folder "
            "again, or train it again."
        ) from error
    check_weights(field, str(name), student, report)
    check_tokens(student, processor.tokenizer)
    return student, processor


@torch.no_grad()
def check_tokens(model: DCCLIPModel, tokenizer: PreTrainedTokenizerBase):
    """Check that the text tower takes every token of the tokenizer, and texts of `max_text_length`.

    A forward pass of the longest text finds the limit of any tower, whatever its position embeddings count.

    Raises:
        ValueError: The tokenizer has more tokens than the tower's embedding, or the tower has too few positions.
    """
    config = model.config
    num_embeddings = model.text_model.config.vocab_size
    if len(tokenizer) > num_embeddings:
        raise ValueError(
            f"student.tokenizer: {tokenizer.name_or_path!r} has {len(tokenizer)} tokens, the text tower embeds "
            f"{num_embeddings}. Use the tokenizer of the model, or leave vocab_size out of student.text_config."
        )
    pad = tokenizer.pad_token_id
    token = next(number for number in range(num_embeddings) if number != pad)
    ids = torch.full((1, config.max_text_length), token, device=model.device)
    was_training = model.training
    try:
        model.eval().get_text_features(ids, torch.ones_like(ids))
    except (IndexError, RuntimeError) as error:
        positions = getattr(config.text_config, "max_position_embeddings", "an unknown number of")
        raise ValueError(
            f"student.max_text_length: {config.max_text_length} tokens are more than the text tower takes "
            f"(max_position_embeddings is {positions}; some towers reserve two). Lower max_text_length, or "
            "raise max_position_embeddings in student.text_config."
        ) from error
    finally:
        model.train(was_training)


def tower_config(
    config: StudentConfig,
    tower: str,
    teacher: DualEncoder | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> PreTrainedConfig:
    """Build the transformers config of one tower.

    The recipe overrides the tokenizer, and the tokenizer overrides the source of the weights.

    Args:
        config: Student of a recipe.
        tower: Tower to describe, `vision` or `text`.
        teacher: Teacher that the source `teacher` refers to.
        tokenizer: Tokenizer of a text tower, for the vocabulary size and the special tokens.

    Raises:
        ValueError: The recipe and the source together do not describe a tower.
    """
    name = f"student.{tower}_config"
    given = dict(getattr(config, f"{tower}_config") or {})
    init = getattr(config, f"{tower}_init")
    inherited: dict[str, Any] = {}
    if init != RANDOM:
        inherited = source_config(init, tower, teacher)
        if given.get("model_type", inherited["model_type"]) != inherited["model_type"]:
            inherited = {}  # a tower of another class: no field of the source's config applies
    special: dict[str, Any] = {}
    if tokenizer is not None:
        for token in ("pad_token_id", "bos_token_id", "eos_token_id"):
            special[token] = getattr(tokenizer, token)
        special["vocab_size"] = len(tokenizer)
    fields = inherited | special | given
    if "model_type" not in fields:
        raise ValueError(
            f"{name} has no 'model_type'. Name a transformers model type, such as 'xlm-roberta', or a checkpoint to "
            f"take the tower from in student.{tower}_init."
        )
    try:
        built = AutoConfig.for_model(fields.pop("model_type"), **fields)
    except (ValueError, StrictDataclassError) as error:
        raise ValueError(
            f"{name} does not describe a tower. Correct this field: {error}"
        ) from error
    _refuse_unknown_fields(built, given, name)
    return built


def _build_model(config: DCCLIPConfig) -> DCCLIPModel:
    """Build the towers with random weights.

    Raises:
        ValueError: A tower cannot be built. Each library reports this by exceptions of its own.
    """
    try:
        return DCCLIPModel(config)
    except Exception as error:
        # the width is known once the image tower is built
        tower = "vision" if config.vision_width is None else "text"
        size = f" for images of {config.image_size} pixels" if tower == "vision" else ""
        raise ValueError(
            f"student.{tower}_config: {getattr(config, f'{tower}_config').model_type!r} cannot be built with these "
            f"fields{size} ({type(error).__name__}: {error}). Correct them, or choose another tower."
        ) from error


def _refuse_unknown_fields(config: PreTrainedConfig, given: dict[str, Any], name: str):
    """Refuse fields that a config stores without knowing them, since the tower would be built without them."""
    known = AutoConfig.for_model(config.model_type)
    for field in given:
        if field in vars(config) and not hasattr(known, field):
            raise ValueError(
                f"{name}.{field}: {config.model_type!r} has no such field, and would ignore it. Remove or correct it."
            )


def _inherited_licenses(config: StudentConfig) -> list[str | None]:
    """Licenses of the checkpoints whose towers the student inherits."""
    licenses: dict[str, str | None] = {}
    for tower in TOWERS:
        init = getattr(config, f"{tower}_init")
        if init not in (RANDOM, TEACHER):
            licenses[init] = read_license(init, find_commit(init))
    return list(licenses.values())
