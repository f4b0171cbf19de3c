"""The recipes: typed, frozen, read from YAML, overridden by the command line, saved beside the weights."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser

RECIPE_FILE = "recipe.yaml"
CONFIGS = Path(__file__).parent / "configs"
FLAGS = {
    "resume": "go on from the last checkpoint",
    "push_to_hub": "publish the finished folder",
    "hub_private_repo": "a new repo is private",
}


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One source of a mixture. What it does not say is as `data` says.

    Args:
        train: as in `data`.
        subset: as in `data`.
        split: as in `data`.
        image_column: as in `data`.
        caption_columns: as in `data`; a source may have fewer languages than another.
        weight: its share of the samples is its weight over the sum of all.
    """

    train: list[str] | str
    subset: str | None = None
    split: str | None = None
    image_column: str | None = None
    caption_columns: dict[str, str] | None = None
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where images and captions come from.

    Args:
        train: Hub id; folder that `datasets` understands, such as an image folder with metadata; parquet files or tar
            shards (webdataset layout), each a path, a glob, a URL such as `hf://datasets/ID/FILE`, or a list of these;
            or `module:function` that returns a `datasets.Dataset` or `IterableDataset`.
        subset: which configuration of a Hub data set, where it has several.
        split: which split, where there are several.
        image_column: column of the images; in tar shards the file's extension, such as `jpg`.
        caption_columns: column of the captions for each language (ISO 639-1 code); a cell is a string or a list of
            strings. A field of a nested column is written `translation.en`; in tar shards a column is the file's
            extension, such as `txt` or `zh.txt`, or a field of a JSON file, such as `json.caption`.
        sources: a mixture, in the place of `train`, such as an English and a Chinese source with columns of their own.
        batches: `mixed` draws every sample from all sources; in `one_source` and `one_language` all samples of a step,
            on all processes, are of one source, or of one source with its captions in one language.
        streaming: read the data in the order of their shards, at any size and without a copy of them; otherwise they
            are stored and shuffled whole.
        shuffle_buffer: samples that a stream is shuffled within, in each decoding process and source.
        skip_wrong_script: leave out captions without one letter of their language's script.
        max_skip_share: largest share (0..1) of samples that may be skipped before the run stops.
        in_memory: keep every image, decoded and resized, in memory after its first use; not for streams.
        workers: processes that decode images; 0 decodes in the training process. A stream's order depends on it.
    """

    train: list[str] | str | None = None
    subset: str | None = None
    split: str = "train"
    image_column: str = "image"
    caption_columns: dict[str, str] = field(default_factory=lambda: {"en": "en", "zh": "zh"})
    sources: list[SourceConfig] = field(default_factory=list)
    batches: Literal["mixed", "one_source", "one_language"] = "mixed"
    streaming: bool = False
    shuffle_buffer: int = 1024
    skip_wrong_script: bool = True
    max_skip_share: float = 0.01
    in_memory: bool = False
    workers: int = 0

    @property
    def mixture(self) -> list[SourceConfig]:
        """All sources, each with everything filled in; one alone where `train` names it."""
        return [
            SourceConfig(
                train=source.train,
                subset=source.subset or self.subset,
                split=source.split or self.split,
                image_column=source.image_column or self.image_column,
                caption_columns=source.caption_columns or self.caption_columns,
                weight=source.weight,
            )
            for source in (self.sources if self.train is None else [SourceConfig(train=self.train)])
        ]

    @property
    def languages(self) -> list[str]:
        """Of all sources' captions, in the order in which they are named."""
        return list(dict.fromkeys(language for source in self.mixture for language in source.caption_columns or {}))

    @property
    def name(self) -> str:
        """All sources in a few words, for messages."""
        return ", ".join(source.train if isinstance(source.train, str) else source.train[0] for source in self.mixture)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random views of an image: one affine warp and one colour change, all drawn from ranges around "none".

    Args:
        zoom: log2 range of the zoom; 0.25 is up to 19 % larger or smaller.
        rotate: degrees to either side.
        stretch: log2 range of the aspect ratio.
        shift: share of the edge to either side.
        flip: probability of a horizontal mirror.
        brightness: share of full range to either side.
        contrast: log2 range.
        saturation: log2 range.
        tint: standard deviation of a random mixing of the colour channels.
        blur: probability of a slight blur.
        background: value 0..255 of what a warp uncovers.
    """

    zoom: float = 0.15
    rotate: float = 0.0
    stretch: float = 0.1
    shift: float = 0.05
    flip: float = 0.0
    brightness: float = 0.1
    contrast: float = 0.2
    saturation: float = 0.3
    tint: float = 0.0
    blur: float = 0.0
    background: int = 255


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """A new student.

    Args:
        vision_config: transformers config of the image tower, with its `model_type`. Where `vision_init` names a
            checkpoint, only what differs from it; None takes its config whole.
        text_config: transformers config of the text tower, likewise; vocabulary size and special tokens are filled in
            from the tokenizer.
        vision_init: where the image tower's weights come from: `random`, `teacher`, or the Hub id or folder of a
            pretrained tower. A source that is deeper or wider is cut: evenly spaced layers, heads and channels.
        text_init: likewise for the text tower; the embedding of each token is looked up by its piece.
        tokenizer: Hub id or folder of the tokenizer, such as a vocabulary cut by
            `python -m training.prepare.vocabulary`; default: the teacher's.
        image_size: edge of the square input in pixels; default: the teacher's.
        image_mean: per-channel mean; default: the teacher's.
        image_std: per-channel standard deviation; default: the teacher's.
        max_text_length: longest text in tokens.
        vision_pooling: how the image map becomes one vector.
        text_pooling: how the token states become one vector.
        projection_dim: width of the shared embedding space; default: the teacher's.
    """

    vision_config: dict[str, Any] | None = None
    text_config: dict[str, Any] | None = None
    vision_init: str = "random"
    text_init: str = "random"
    tokenizer: str | None = None
    image_size: int | None = None
    image_mean: list[float] | None = None
    image_std: list[float] | None = None
    max_text_length: int = 64
    vision_pooling: Literal["mean", "cls", "tower"] = "mean"
    text_pooling: Literal["mean", "cls"] = "mean"
    projection_dim: int | None = None


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """A labelled set that judges a run on its way, as `training/eval.py` judges models.

    Args:
        data: a parquet file, a folder, a Hub id or `module:function`; None judges by nothing.
        class_names: JSON list of {language: name}, one entry a class, or the id of one of ELEVATER's sets.
        languages: of the candidates (ISO 639-1 codes).
        split: of the data, where there are several.
        image_column: column of the images.
        label_column: column of the label's name.
        label_language: language in which the data name their labels.
    """

    data: str | None = None
    class_names: str | None = None
    languages: list[str] = field(default_factory=lambda: ["en", "zh"])
    split: str = "test"
    image_column: str = "image"
    label_column: str = "label"
    label_language: str = "en"


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """What both stages share.

    Args:
        output_dir: where the finished Hub folder, the checkpoints and the log go.
        data: images and captions.
        augment: random views.
        seed: everything random follows from it, the step and the process.
        max_steps: optimizer steps in all.
        batch_size: images a batch and process.
        accumulate_steps: batches a step, of which the loss is the mean. Pairs are compared within a batch only; what
            makes the batch itself larger in stage 2 is `chunk_size`.
        learning_rate: peak of the schedule.
        weight_decay: for matrices; vectors and scalars have none.
        betas: of AdamW.
        warmup_steps: linear warm-up.
        schedule: after the warm-up.
        max_grad_norm: gradients are clipped to this norm.
        mixed_precision: as in Accelerate; None is what `accelerate launch` or its config file says.
        gradient_checkpointing: trade time for memory in the student's towers.
        torch_compile: compile the student's towers; the first steps take minutes, the others less time.
        ema_decay: the exported student is the moving average of its weights, of which this share is kept each step,
            such as 0.999; 0 exports the weights themselves.
        freeze: prefixes of parameter names that do not learn, such as `vision_model.timm_model.blocks.0`.
        log_every: steps between lines of `log.jsonl`.
        trackers: what else is told, through Accelerate: `tensorboard` writes to `output_dir/tracking`.
        save_every: steps between checkpoints; 0 saves at the end alone.
        keep_checkpoints: older ones are removed.
        resume: go on from the last checkpoint in `output_dir`, if there is one.
        eval: a labelled set that judges the student.
        eval_every: steps between evaluations, and one after the last step; 0 never evaluates.
        best_metric: the student that is best by it is kept in `output_dir/best`: `top1` or `top5`, the mean over
            languages, or of one of them, such as `top1_zh`.
        push_to_hub: publish the finished folder, as `training/publish.py` does.
        hub_model_id: NAMESPACE/NAME on the Hub.
        hub_private_repo: a new repo is private.
        hub_strategy: `end` publishes the finished model; `every_save` also uploads each checkpoint, without its
            training state. Training waits for the upload.
        teacher_cache: folder for the teacher's targets, computed once for `teacher_views` views of each image;
            without it the teacher runs at every step, on ever new views. Stored views do not depend on the seed.
        teacher_views: cached views an image.
        teacher_dtype: precision of the teacher's weights and activations.
    """

    output_dir: str
    data: DataConfig
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    seed: int = 0
    max_steps: int = 1000
    batch_size: int = 128
    accumulate_steps: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = 50
    schedule: Literal["cosine", "constant"] = "cosine"
    max_grad_norm: float = 3.0
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None
    gradient_checkpointing: bool = False
    torch_compile: bool = False
    ema_decay: float = 0.0
    freeze: list[str] = field(default_factory=list)
    log_every: int = 10
    trackers: list[Literal["tensorboard", "trackio", "wandb"]] = field(default_factory=list)
    save_every: int = 0
    keep_checkpoints: int = 2
    resume: bool = False
    eval: EvalConfig = field(default_factory=EvalConfig)
    eval_every: int = 0
    best_metric: str = "top1"
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_private_repo: bool = False
    hub_strategy: Literal["end", "every_save"] = "end"
    teacher_cache: str | None = None
    teacher_views: int = 4
    teacher_dtype: Literal["float32", "bfloat16", "float16"] = "float32"


@dataclass(frozen=True, kw_only=True)
class DistillRecipe(TrainingRecipe):
    """Stage 1: each student tower learns its teacher tower's feature map.

    Args:
        teacher: Hub id or folder of the teacher.
        student: the student to build.
        tower: which towers learn. `vision` needs images only, `text` captions only.
        target: what of the teacher is learnt. `feature_map` is its whitened map, and its embedding, which fits the
            student's projections; `embedding` is the embedding alone; `logits` are its similarities to a bank of
            texts.
        map_weight: weight of Smooth-L1 between the adapted student map and the teacher map.
        embedding_weight: weight of the cosine distance between student and teacher embeddings; it makes the two
            comparable before the student has seen a pair.
        smooth_l1_beta: where Smooth-L1 turns from square to line.
        whiten: LayerNorm without affine parameters over the teacher map.
        adapter: a learnt 1x1 convolution from the student's map to the teacher's width; without it the widths must
            agree.
        text_bank: text file, one text a line, for `logits`; default: the captions of the data.
    """

    teacher: str
    student: StudentConfig
    tower: Literal["vision", "text", "both"] = "both"
    target: Literal["feature_map", "embedding", "logits"] = "feature_map"
    map_weight: float = 1.0
    embedding_weight: float = 1.0
    smooth_l1_beta: float = 2.0
    whiten: bool = True
    adapter: bool = True
    text_bank: str | None = None

    @property
    def towers(self) -> tuple[str, ...]:
        """The towers that learn."""
        return ("vision", "text") if self.tower == "both" else (self.tower,)


@dataclass(frozen=True, kw_only=True)
class AlignRecipe(TrainingRecipe):
    """Stage 2: both towers learn, together, which caption belongs to which image.

    Args:
        student: folder or Hub id of a DC-CLIP model, as stage 1 leaves it.
        new_student: built, with a warning, where there is no `student` yet.
        teacher: Hub id or folder of the teacher to stay close to; None trains without one.
        loss: what tells right pairs of image and caption from wrong ones. `infonce` picks the right one out of the
            batch, `sigmoid` judges every pair by itself.
        language_weights: weight of each language in all terms between images and captions.
        contrastive_weight: weight of `loss`.
        text_text_weight: weight of InfoNCE between the captions of one image in different languages.
        affinity_weight: weight of the divergence between the teacher's and the student's similarities of images and
            captions.
        interactive_weight: weight of InfoNCE between the student's images and the teacher's captions, and the other
            way round.
        anchor_weight: weight of the cosine distance to the teacher's embeddings.
        chunk_size: images that the student holds the activations of at once. Losses and gradients are those of the
            whole batch (gradient caching), memory is that of a chunk, and every image is encoded twice. 0 takes the
            whole batch.
        max_logit_scale: the learnt factor on cosines is clamped to 1..this.
        freeze_batch_norm: keep the running statistics of BatchNorm as they are.
    """

    student: str | None = None
    new_student: StudentConfig | None = None
    teacher: str | None = None
    loss: Literal["infonce", "sigmoid"] = "infonce"
    language_weights: dict[str, float] = field(default_factory=lambda: {"en": 1.0, "zh": 1.0})
    contrastive_weight: float = 1.0
    text_text_weight: float = 0.0
    affinity_weight: float = 0.0
    interactive_weight: float = 0.0
    anchor_weight: float = 0.0
    chunk_size: int = 0
    max_logit_scale: float = 100.0
    freeze_batch_norm: bool = True


Recipe = TypeVar("Recipe", bound=TrainingRecipe)


def parse_recipe(recipe_class: type[Recipe], argv: list[str] | None = None, prog: str | None = None) -> Recipe:
    """Read `--config FILE` and then the other arguments, which win.

    Args:
        recipe_class: the recipe's dataclass; nested fields are written `--data.train`.
        argv: the command line; None takes the process's own.
        prog: the script's name for messages.

    Raises:
        SystemExit: an unknown key or a wrong type; the message names field and value.
    """
    parser = ArgumentParser(
        prog=prog, description=(recipe_class.__doc__ or "").partition("\n")[0], allow_abbrev=False, exit_on_error=False
    )
    parser.add_argument("--config", action="config", help="recipe in YAML")
    parser.add_class_arguments(recipe_class, skip=set(FLAGS), sub_configs=True)
    for name, meaning in FLAGS.items():  # as a bare flag too: `--resume`
        parser.add_argument(f"--{name}", nargs="?", const=True, default=False, type=bool, help=meaning)
    try:
        namespace = parser.instantiate(parser.parse_args(argv))
    except ArgumentError as error:
        parser.exit(2, f"recipe: {error}\nSee --help for all keys and their types.\n")
    values = {key: value for key, value in vars(namespace).items() if key != "config"}
    recipe = recipe_class(**values)
    _validate(recipe, parser)
    return recipe


def _validate(recipe: TrainingRecipe, parser: ArgumentParser):
    for name, least in (
        ("max_steps", 1),
        ("batch_size", 1),
        ("accumulate_steps", 1),
        ("log_every", 1),
        ("save_every", 0),
        ("eval_every", 0),
        ("keep_checkpoints", 1),
        ("chunk_size", 0),
    ):
        if (value := getattr(recipe, name, least)) < least:  # chunks are stage 2's alone
            parser.exit(2, f"recipe: {name} must be at least {least}, got {value}.\n")
    if not 0 <= recipe.ema_decay < 1:
        parser.exit(2, f"recipe: ema_decay must be at least 0 and less than 1, got {recipe.ema_decay}.\n")
    if recipe.eval_every and not (recipe.eval.data and recipe.eval.class_names):
        parser.exit(2, "recipe: eval_every needs a labelled set; name one under eval.data and eval.class_names.\n")
    if recipe.push_to_hub and not recipe.hub_model_id:
        parser.exit(2, "recipe: push_to_hub needs a place; name it as hub_model_id: NAMESPACE/NAME.\n")
    if problem := _problem_of(recipe.data):
        parser.exit(2, f"recipe: {problem}\n")


def _problem_of(data: DataConfig) -> str | None:
    """What the data cannot be, in words."""
    if (data.train is None) == (not data.sources):
        return "data needs either train, for one source, or sources, for a mixture."
    if {} in (data.caption_columns, *(source.caption_columns for source in data.sources)):
        return "data.caption_columns is empty; name a column for at least one language, such as {en: caption}."
    if wrong := [source.weight for source in data.sources if not source.weight > 0]:
        return f"data.sources: a weight must be above 0, got {wrong[0]}. Leave the source out instead."
    if data.workers < 0 or data.shuffle_buffer < 1:
        return (
            "data.workers must be at least 0 and data.shuffle_buffer at least 1, got "
            f"{data.workers} and {data.shuffle_buffer}."
        )
    if data.streaming and data.in_memory:
        return "data.in_memory keeps every image, and a stream has too many. Set one of the two to false."
    return None


def save_recipe(recipe: TrainingRecipe, folder: str | Path):
    """Write the resolved recipe to `folder/recipe.yaml`, from which `--config` reads it back."""
    resolved = yaml.safe_dump(_plain(asdict(recipe)), sort_keys=False, allow_unicode=True)
    (Path(folder) / RECIPE_FILE).write_text(resolved, encoding="utf-8")


def _plain(value):
    """Tuples as lists: YAML has no tuples."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
