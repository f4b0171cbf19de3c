"""Recipes: typed dataclasses that are read from YAML and the command line and saved beside the weights."""

import math
import re
import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from training.utils.cli import (
    HelpFormatter,
    add_debug_flag,
    check_config_files,
    command_name,
    exit_with_usage_error,
    help_texts,
    take_debug_flag,
)

RECIPE_FILE = "recipe.yaml"
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")  # module:function
OWN_CODE = "training.corpus."  # the data sets of this project
CHANNELS = 3  # of an image
CONFIGS = Path(__file__).parent / "configs"
# fields that apply to one start of a run, and must not take effect when its saved recipe is used again
OF_ONE_START = ("resume", "resume_with_changes", "overwrite")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Allowed range of a number.

    Args:
        at_least: Smallest allowed value.
        at_most: Largest allowed value.
        above: Value that the number must exceed.
        below: Value that the number must stay under.
        ceiling: Largest value that can be meant, where no `at_most` or `below` is natural.
        advice: What to do instead of a value outside the range.
    """

    at_least: float = -math.inf
    at_most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    ceiling: float = 1e9
    advice: str = ""

    def __contains__(self, value: float) -> bool:
        return self.at_least <= value <= min(self.at_most, self.ceiling) and self.above < value < self.below

    def describe(self, value: float) -> str:
        """Describe the range for a value outside it. The ceiling is named only to a value above it."""
        return f"at most {self.ceiling:,.0f}" if value > self.ceiling else str(self)

    def __str__(self) -> str:
        words = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "less than": self.below}
        return " and ".join(f"{word} {limit}" for word, limit in words.items() if math.isfinite(limit))


# by field name, for all dataclasses below
LIMITS = {
    "weight": Limits(above=0, advice="Leave the source out instead."),
    "workers": Limits(at_least=0, ceiling=1024),
    "shuffle_buffer": Limits(at_least=1, ceiling=10_000_000),
    "max_skip_share": Limits(at_least=0, at_most=1),
    "flip": Limits(at_least=0, at_most=1),
    "blur": Limits(at_least=0, at_most=1),
    "downscale": Limits(at_least=0, at_most=1),
    "mix": Limits(at_least=0, at_most=1),
    "background": Limits(at_least=0, at_most=255),
    "max_steps": Limits(at_least=1),
    "batch_size": Limits(at_least=1, ceiling=1_000_000),
    "accumulate_steps": Limits(at_least=1, ceiling=1_000_000),
    "learning_rate": Limits(at_least=0, ceiling=1e3),
    "weight_decay": Limits(at_least=0, ceiling=1e3),
    "warmup_steps": Limits(at_least=0),
    "max_grad_norm": Limits(above=0),
    "ema_decay": Limits(at_least=0, below=1),
    "log_every": Limits(at_least=1),
    "save_every": Limits(at_least=0),
    "keep_checkpoints": Limits(at_least=1),
    "eval_every": Limits(at_least=0),
    "teacher_views": Limits(at_least=1, ceiling=1000),
    "chunk_size": Limits(at_least=0, ceiling=1_000_000),
    "max_logit_scale": Limits(at_least=1, ceiling=1e6),
    "seed": Limits(at_least=0, ceiling=2**32 - 1),
    "image_size": Limits(at_least=1, ceiling=4096),
    "max_text_length": Limits(at_least=2, ceiling=8192),
    "projection_dim": Limits(at_least=1, ceiling=65536),
    "smooth_l1_beta": Limits(at_least=0),
    "map_weight": Limits(at_least=0),
    "embedding_weight": Limits(at_least=0),
    "contrastive_weight": Limits(at_least=0),
    "text_text_weight": Limits(at_least=0),
    "affinity_weight": Limits(at_least=0),
    "interactive_weight": Limits(at_least=0),
    "anchor_weight": Limits(at_least=0),
    "general_weight": Limits(at_least=0),
    "photo_weight": Limits(at_least=0),
    "zoom": Limits(at_least=0, at_most=4),
    "rotate": Limits(at_least=0, at_most=180),
    "stretch": Limits(at_least=0, at_most=4),
    "shift": Limits(at_least=0, at_most=1),
    "brightness": Limits(at_least=0, at_most=1),
    "contrast": Limits(at_least=0, at_most=4),
    "saturation": Limits(at_least=0, at_most=4),
    "tint": Limits(at_least=0, at_most=1),
}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Base class that checks every number of a dataclass against `LIMITS`.

    It is a dataclass itself, because jsonargparse expands `--data.train` only if all base classes are.
    """

    path: ClassVar[str] = ""  # where the dataclass is in a recipe, such as `data.`, for error messages
    limits: ClassVar[dict[str, Limits]] = LIMITS  # a recipe outside this file may have limits of its own

    def __post_init__(self):
        for name, limits in self.limits.items():
            value = getattr(self, name, None)
            if isinstance(value, (int, float)) and value not in limits:
                raise ValueError(
                    f"{self.path}{name}: must be {limits.describe(value)}, got {value}. {limits.advice}".rstrip()
                )


@dataclass(frozen=True, kw_only=True)
class SourceConfig(Checked):
    """One source of a mixture. A field without a value takes the value of the same field of `data`.

    Args:
        train: Hub id, folder, files or `module:function` of this source, as in `data.train`.
        subset: Configuration of a Hub data set that has several.
        split: Split to train on.
        image_column: Column of the images.
        caption_columns: Column of the captions for each language. Sources may differ in their languages.
        weight: Weight of this source, above 0. Its share of the samples is its weight divided by the sum of all
            weights.
    """

    path: ClassVar[str] = "data.sources."

    train: list[str] | str
    subset: str | None = None
    split: str | None = None
    image_column: str | None = None
    caption_columns: dict[str, str] | None = None
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """Training images and captions.

    Args:
        train: Training data. One of: a Hub id; a folder that `datasets` can load, such as an image folder with
            metadata; parquet files or tar shards (webdataset layout), each a path, a glob pattern or a URL such as
            `hf://datasets/ID/FILE`, or a list of these; `module:function` that returns a `datasets.Dataset` or
            `IterableDataset`.
        subset: Configuration of a Hub data set that has several.
        split: Split to train on.
        image_column: Column of the images. In tar shards it is the file extension, such as `jpg`.
        caption_columns: Column of the captions for each language (ISO 639-1 code). A cell is a string or a list of
            strings. Write a field of a nested column as `translation.en`. In tar shards the column is a file
            extension, such as `txt` or `zh.txt`, or a field of a JSON file, such as `json.caption`.
        sources: Mixture of several sources, instead of `train`. Each source can have its own columns and weight.
        batches: Composition of a batch. `mixed` draws every sample from all sources. `one_source` takes all samples
            of a step, on all processes, from one source. `one_language` also takes all captions in one language.
        streaming: Whether to read the data in the order of their shards, without a copy on disk and at any size.
            Otherwise the data are stored on disk and fully shuffled.
        shuffle_buffer: Number of samples in the shuffle buffer of a stream, at least 1. Every source in every decoding
            process has its own buffer.
        skip_wrong_script: Whether to skip captions that have no letter of their language's script.
        max_skip_share: Largest share of samples, 0..1, that may be skipped before the run stops with an error.
        allow_urls: Whether images that the data name by URL are fetched, each within 30 s. Otherwise they are skipped.
            Both this and `allow_paths` also apply to `eval.data`, which is refused instead.
        allow_paths: Whether image files outside the folder of the data, which the data name by path, are opened.
            Otherwise they are skipped.
        in_memory: Whether to keep every decoded and resized image in memory after its first use. Not available for
            streams.
        workers: Number of processes that decode images. With 0 the training process decodes them. The order of a
            stream depends on this number.
    """

    path: ClassVar[str] = "data."

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
    allow_urls: bool = False
    allow_paths: bool = False
    in_memory: bool = False
    workers: int = 0

    def __post_init__(self):
        super().__post_init__()
        if (self.train is None) == (not self.sources):
            raise ValueError("data: set either train, for one source, or sources, for a mixture.")
        if {} in (self.caption_columns, *(source.caption_columns for source in self.sources)):
            raise ValueError(
                "data.caption_columns: is empty; name a column for at least one language, such as {en: caption}."
            )
        if self.streaming and self.in_memory:
            raise ValueError("data.in_memory: a stream has too many images to keep. Turn off in_memory or streaming.")

    @property
    def mixture(self) -> list[SourceConfig]:
        """All sources with every field filled in; a single source if `train` is set."""
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
        """Caption languages of all sources, in the order in which the recipe names them."""
        return list(dict.fromkeys(language for source in self.mixture for language in source.caption_columns or {}))

    @property
    def name(self) -> str:
        """Short name of all sources, for messages."""
        return ", ".join(source.train if isinstance(source.train, str) else source.train[0] for source in self.mixture)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Checked):
    """Image augmentation: one random affine warp and one random colour change. Ranges are centred on "no change".

    Args:
        zoom: Largest zoom in or out, as a log2 factor; 0.25 is up to 19 % larger or smaller.
        rotate: Largest rotation in degrees, in either direction.
        stretch: Largest change of the aspect ratio, as a log2 factor.
        shift: Largest shift in either direction, as a share of the image's edge.
        flip: Probability of a horizontal flip, 0..1.
        brightness: Largest change of brightness in either direction, as a share of the full range.
        contrast: Largest change of contrast, as a log2 factor.
        saturation: Largest change of saturation, as a log2 factor.
        tint: Standard deviation of a random mix of the colour channels.
        blur: Probability of a slight blur, 0..1.
        downscale: Probability of a lower resolution, 0..1: the image is reduced by a factor of 2 to 8 and enlarged
            again, as small images are enlarged to the model's input.
        background: Pixel value, 0..255, of areas that the warp uncovers.
    """

    path: ClassVar[str] = "augment."

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
    downscale: float = 0.0
    background: int = 255


@dataclass(frozen=True, kw_only=True)
class StudentConfig(Checked):
    """A new student.

    Args:
        vision_config: Transformers config of the image tower, including its `model_type`. If `vision_init` names a
            checkpoint, only the fields that differ from the checkpoint's config; None takes that config unchanged.
        text_config: Transformers config of the text tower, by the same rules with `text_init`. Vocabulary size and
            special tokens come from the tokenizer.
        vision_init: Initial weights of the image tower: `random`, `teacher`, or the Hub id or folder of a pretrained
            tower. A deeper or wider tower is cut to evenly spaced layers, heads and channels.
        text_init: Initial weights of the text tower: `random`, `teacher`, or the Hub id or folder of a pretrained
            tower, which is cut like an image tower. Token embeddings are matched by the token's text. With ELECTRA's
            `embedding_size` they are narrower than the layers, and start from the principal components of the source.
        tokenizer: Hub id or folder of the tokenizer, such as a vocabulary from
            `python -m training.prepare.vocabulary`. None takes the teacher's tokenizer.
        image_size: Height and width of the input image in pixels. None takes the teacher's size.
        image_mean: Mean of each colour channel, in 0..1, for normalization. None takes the teacher's mean.
        image_std: Standard deviation of each colour channel, in 0..1. None takes the teacher's value.
        max_text_length: Longest text in tokens; longer texts are truncated.
        vision_pooling: Pooling of the image feature map: `mean`, the `cls` token, or the `tower`'s own pooling.
        text_pooling: Pooling of the token states: `mean` or the `cls` token.
        projection_dim: Width of the shared embedding space. None takes the teacher's width.
    """

    path: ClassVar[str] = "student."

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

    def __post_init__(self):
        super().__post_init__()
        for name in ("image_mean", "image_std"):
            values = getattr(self, name)
            if values is not None and (len(values) != CHANNELS or not all(0 <= value <= 1 for value in values)):
                raise ValueError(f"student.{name}: must be three numbers in 0..1, got {values}.")
        if self.image_std is not None and not all(self.image_std):
            raise ValueError(f"student.image_std: must be above 0, got {self.image_std}; pixels are divided by it.")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Labelled validation set for zero-shot classification during training, measured as in `training/eval.py`.

    Args:
        data: Parquet file, folder, Hub id or `module:function` of the images and labels. None runs no evaluation.
        class_names: JSON file with a list of {language: name}, one entry per class, or the id of an ELEVATER set.
        languages: Languages of the class names (ISO 639-1 codes); each is measured on its own.
        split: Split to evaluate on.
        image_column: Column of the images.
        label_column: Column of the labels, which are class names.
        label_language: Language of the labels (ISO 639-1 code).
    """

    data: str | None = None
    class_names: str | None = None
    languages: list[str] = field(default_factory=lambda: ["en", "zh"])
    split: str = "test"
    image_column: str = "image"
    label_column: str = "label"
    label_language: str = "en"


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(Checked):
    """One of several teachers. Their embeddings are concatenated, so a student embeds in the sum of their dimensions.

    Args:
        teacher: Hub id or folder of the teacher, or `timm:ARCHITECTURE` for an image encoder of timm.
        weight: Weight of this teacher in the cosine similarities of the joint space, above 0.
        tower: Towers of this teacher whose targets are learned. The other tower has no share in this teacher's part of
            the joint space.
        languages: Languages of the captions that this teacher encodes. A caption in another language takes the target
            of its translation, the caption of the same image in one of these, unless another teacher of the same space
            encodes it. None encodes all captions.
        space: Name of this teacher's embedding space. Teachers with the same name have one part of the joint space
            together, such as two text encoders of one image encoder. None gives the teacher a space of its own.
        trust_remote_code: Whether to run code that comes with the teacher. A Hub id then needs the commit whose code
            you read, as in ID@COMMIT.
    """

    path: ClassVar[str] = "teachers."
    limits: ClassVar[dict[str, Limits]] = {"weight": Limits(above=0, advice="Leave the teacher out instead.")}

    teacher: str
    weight: float = 1.0
    tower: Literal["vision", "text", "both"] = "both"
    languages: list[str] | None = None
    space: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.languages is not None and (not self.languages or self.tower == "vision"):
            raise ValueError(
                f"teachers.languages: is {self.languages} for {self.teacher!r} with tower {self.tower!r}, which "
                "encodes no captions then. Leave languages out, or name at least one language of a text tower."
            )

    @property
    def towers(self) -> tuple[str, ...]:
        """Towers whose targets are learned."""
        return ("vision", "text") if self.tower == "both" else (self.tower,)


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe(Checked):
    """Options of both training stages.

    Args:
        output_dir: Folder for the finished model (a complete Hub repository), the checkpoints and the log.
        data: Training images and captions.
        augment: Image augmentation.
        seed: Seed of all randomness. Random numbers depend on the seed, the step and the process only.
        max_steps: Number of optimizer steps of the whole run.
        batch_size: Number of images (of texts, if the run has no images) in a batch of one process.
        accumulate_steps: Number of batches per optimizer step; the loss is their mean. Pairs are compared within a
            batch only. To compare more pairs at the same memory in stage 2, raise `batch_size` and set `chunk_size`.
        learning_rate: Peak learning rate, after warm-up.
        weight_decay: Weight decay of matrices and kernels. Biases, norms and the logit scale have none.
        betas: Decay rates of AdamW's first and second moments.
        warmup_steps: Number of steps of linear warm-up.
        schedule: Learning rate after warm-up: `cosine` falls to 0 at `max_steps`, `constant` stays at the peak.
        max_grad_norm: Largest norm of the gradients; larger gradients are clipped.
        mixed_precision: Precision of the forward and backward pass. None takes the setting of `accelerate launch` or
            of its config file.
        gradient_checkpointing: Whether to recompute the student's activations in the backward pass, which saves memory
            and costs time.
        torch_compile: Whether to compile the student's towers. The first steps take minutes, later steps are faster.
        ema_decay: Decay per step of the exponential moving average of the student's weights, at least 0 and below 1,
            such as 0.999. The average is exported instead of the weights. With 0 there is no average.
        freeze: Prefixes of parameter names that are not trained, such as `vision_model.timm_model.blocks.0`.
        log_every: Number of steps between two lines of `log.jsonl`.
        trackers: Experiment trackers to log to. `tensorboard` writes to `output_dir/tracking`.
        save_every: Number of steps between two checkpoints. With 0 only the finished model is saved.
        keep_checkpoints: Number of most recent checkpoints to keep.
        resume: Whether to resume from the last checkpoint in `output_dir`. Without a checkpoint the run starts from
            the first step.
        resume_with_changes: Whether a resumed run may differ from the one that wrote the checkpoint, such as in its
            data, seed or number of processes. The differences are written to `log.jsonl`.
        overwrite: Whether a new run may replace a model, checkpoints and other files in `output_dir`.
        eval: Validation set for evaluation during training.
        eval_every: Number of steps between two evaluations; the last step is always evaluated. With 0 there is no
            evaluation.
        best_metric: Metric that selects the student kept in `output_dir/best`: `top1` or `top5`, the mean over
            languages, or one language, such as `top1_zh`.
        push_to_hub: Whether to publish the finished model on the Hub, as `training/publish.py` does.
        hub_model_id: Repository on the Hub, NAMESPACE/NAME.
        hub_private_repo: Whether a new repository is private.
        hub_strategy: When to upload: `end` publishes the finished model only, `every_save` also uploads each
            checkpoint without its training state. Training waits for the upload.
        prefixes: Numbers of leading dimensions of the embedding, ascending, such as [64, 128, 256]. Every loss between
            embeddings is the mean over these widths and the full one, so that embeddings can be truncated. With a
            teacher, its space is first rotated to the principal axes of its embeddings of training data.
        teachers: Several teachers, instead of `teacher`. Each has its own weight, towers and caption languages.
        teacher_cache: Folder for the teacher's targets, which are computed once for `teacher_views` random views of
            each image and shared by all seeds. None runs the teacher at every step, on new views each time.
        teacher_views: Number of cached views per image.
        teacher_dtype: Precision of the teacher's weights and activations.
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
    resume_with_changes: bool = False
    overwrite: bool = False
    eval: EvalConfig = field(default_factory=EvalConfig)
    eval_every: int = 0
    best_metric: str = "top1"
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_private_repo: bool = False
    hub_strategy: Literal["end", "every_save"] = "end"
    prefixes: list[int] = field(default_factory=list)
    teachers: list[TeacherConfig] = field(default_factory=list)
    teacher_cache: str | None = None
    teacher_views: int = 4
    teacher_dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def __post_init__(self):
        super().__post_init__()
        if self.eval_every and not (self.eval.data and self.eval.class_names):
            raise ValueError("eval_every: needs a labelled set; set eval.data and eval.class_names.")
        if self.resume_with_changes and not self.resume:
            raise ValueError("resume_with_changes: applies to a resumed run. Add --resume.")
        if self.betas is None or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(
                f"betas: must be at least 0 and less than 1, got {self.betas}. The default is 0.9, 0.999."
            )
        if self.push_to_hub and not self.hub_model_id:
            raise ValueError("push_to_hub: needs a repository; set hub_model_id to NAMESPACE/NAME.")
        teacher = getattr(self, "teacher", None)
        if teacher is not None and self.teachers:
            raise ValueError(
                f"teachers: teacher is set, too ({teacher!r}). Add it to the list, or leave one of them out."
            )

    @property
    def towers(self) -> tuple[str, ...]:
        """Towers that are trained."""
        return ("vision", "text")

    @property
    def all_teachers(self) -> list[TeacherConfig]:
        """All teachers: those of the list, or the one teacher; none if the stage has no teacher."""
        teacher = getattr(self, "teacher", None)  # a field of both stages
        return self.teachers if teacher is None else [TeacherConfig(teacher=teacher)]


@dataclass(frozen=True, kw_only=True)
class DistillRecipe(TrainingRecipe):
    """Stage 1: each student tower learns the feature map of its teacher tower.

    Args:
        teacher: Hub id or folder of the teacher, or `timm:ARCHITECTURE` for an image encoder of timm. None takes the
            list `teachers`.
        student: Student to build.
        tower: Towers to train. `vision` needs images only, `text` needs captions only.
        target: Distillation target. `feature_map` is the teacher's whitened feature map together with its embedding,
            `embedding` is the embedding alone, `logits` are the teacher's similarities to the texts of `text_bank`.
        map_weight: Weight of the Smooth-L1 loss between the adapted student map and the teacher map.
        embedding_weight: Weight of the cosine distance between student and teacher embeddings. This loss trains the
            student's projections, so that both embeddings can be compared after stage 1.
        smooth_l1_beta: Absolute error at which Smooth-L1 changes from quadratic to linear.
        whiten: Whether to whiten the teacher map by LayerNorm without affine parameters.
        adapter: Whether to train a 1x1 convolution from the student's width to the teacher's. Without it both widths
            must be equal.
        text_bank: Text file with one text per line, for target `logits`. None takes the captions of the data.
        mix: Probability that an image is mixed with another one of the batch, 0..1. Student and teacher see the mixed
            image, so that the student follows its teacher on images unlike those of the data. It needs a teacher that
            runs during training, without `teacher_cache`.
    """

    teacher: str | None = None
    student: StudentConfig
    tower: Literal["vision", "text", "both"] = "both"
    target: Literal["feature_map", "embedding", "logits"] = "feature_map"
    map_weight: float = 1.0
    embedding_weight: float = 1.0
    smooth_l1_beta: float = 2.0
    whiten: bool = True
    adapter: bool = True
    text_bank: str | None = None
    mix: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        if self.mix and (self.teacher_cache is not None or "vision" not in self.towers):
            reason = "a cache has no targets of mixed images" if "vision" in self.towers else "no images are read"
            raise ValueError(f"mix: is {self.mix}, but {reason}. Set mix to 0, or leave teacher_cache and tower out.")
        if not (
            self.embedding_weight or (self.map_weight and self.target == "feature_map") or self.target == "logits"
        ):
            raise ValueError(
                f"embedding_weight: is 0, and so is the weight of all other losses of target {self.target!r}, so "
                "nothing would be learned. Give at least one loss a weight above 0."
            )
        if not self.all_teachers:
            raise ValueError("teacher: none is named. Name one, or several under teachers.")
        if self.prefixes and (self.target == "logits" or not self.embedding_weight):
            raise ValueError(
                f"prefixes: shorten the embedding, but target {self.target!r} with embedding_weight "
                f"{self.embedding_weight} compares no embeddings. Set target to feature_map or embedding, and "
                "embedding_weight above 0."
            )

    @property
    def towers(self) -> tuple[str, ...]:
        """Towers that are trained."""
        return ("vision", "text") if self.tower == "both" else (self.tower,)


@dataclass(frozen=True, kw_only=True)
class AlignRecipe(TrainingRecipe):
    """Stage 2: both towers learn together which caption belongs to which image.

    Args:
        student: Folder or Hub id of a DC-CLIP model, such as the `output_dir` of stage 1.
        new_student: Student to build, which stage 1 has not distilled, instead of `student`.
        teacher: Hub id or folder of a teacher for `affinity_weight`, `interactive_weight`, `anchor_weight`,
            `general_weight` and `photo_weight`. None trains without a teacher.
        loss: Contrastive loss. `infonce` classifies the matching caption among all captions of the batch and the
            other way round; `sigmoid` classifies every pair on its own as matching or not.
        language_weights: Weight of each language in all losses between images and captions. The languages must be
            those of `data.caption_columns`.
        contrastive_weight: Weight of the contrastive loss.
        text_text_weight: Weight of InfoNCE between captions of the same image in different languages.
        affinity_weight: Weight of the divergence between the teacher's and the student's similarity distributions over
            images and captions.
        interactive_weight: Weight of InfoNCE between the student's images and the teacher's captions, and between the
            teacher's images and the student's captions.
        anchor_weight: Weight of the cosine distance to the teacher's embeddings.
        general_weight: Weight of the cosine distance to the teacher's embeddings of class names that come with this
            project, in the languages of the student. It keeps what the student knows beyond the captions of the data.
        photo_weight: Weight of the cosine distance to the teacher's embeddings of general images. It keeps what the
            image tower knows beyond the images of the data. It needs a teacher that runs during training, without
            `teacher_cache`.
        photos: General images of `photo_weight`, as `data.train`; at most 2,048 are used. Default: crops of a few
            photographs that pip packages bring (extra `finetune`).
        extra_weights: Weights of losses that were added to `training.tasks.loss_table.LOSSES`, by name of the weight.
        chunk_size: Number of images per chunk of gradient caching: the student keeps the activations of one chunk only
            and encodes every image twice. Losses and gradients are those of the whole batch. With 0 the batch is not
            split.
        max_logit_scale: Largest value of the learnt logit scale, which is clamped to 1..max_logit_scale.
        freeze_batch_norm: Whether to keep BatchNorm's running statistics and normalize by them.
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
    general_weight: float = 0.0
    photo_weight: float = 0.0
    photos: str | None = None
    extra_weights: dict[str, float] = field(default_factory=dict)
    chunk_size: int = 0
    max_logit_scale: float = 100.0
    freeze_batch_norm: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.student is not None and self.new_student is not None:
            raise ValueError(
                f"new_student: student is set, too ({self.student!r}). Set only one of them; null leaves one out."
            )
        for field_name in ("language_weights", "extra_weights"):
            for name, weight in getattr(self, field_name).items():
                if not 0 <= weight < math.inf:
                    raise ValueError(f"{field_name}.{name}: must be at least 0, got {weight}.")
        if self.photo_weight and self.teacher_cache is not None:
            raise ValueError(
                f"photo_weight: is {self.photo_weight}, but a cache has no targets of these photographs. Set it to 0, "
                "or leave teacher_cache out."
            )
        if self.photos is not None and not self.photo_weight:
            raise ValueError("photos: photo_weight is 0, so they would not be used. Set it to 1, or leave photos out.")
        if not any(self.language_weights.values()):
            raise ValueError("language_weights: all are 0, so nothing would be learned. Give one a weight above 0.")
        weights = [value for name, value in vars(self).items() if name.endswith("_weight")]
        if not any((*weights, *self.extra_weights.values())):
            raise ValueError(
                "contrastive_weight: all losses have the weight 0, so nothing would be learned. Give one a weight "
                "above 0."
            )


Recipe = TypeVar("Recipe", bound=TrainingRecipe)


def parse_recipe(recipe_class: type[Recipe], argv: list[str] | None = None, prog: str = "recipe") -> Recipe:
    """Parse a command line into a recipe; a user's mistake ends the process.

    Args:
        recipe_class: `DistillRecipe` or `AlignRecipe`.
        argv: Arguments; None takes those of the process.
        prog: Command as users type it, for messages.

    Returns:
        The recipe. `--config FILE` reads YAML; arguments on the command line override it.

    Raises:
        SystemExit: An option is unknown, missing or invalid. One line on stderr names the field, the exit code is 2.
    """
    try:
        return recipe_from_args(recipe_class, argv, prog)
    except ValueError as error:
        exit_with_usage_error(command_name(prog), error)
        raise  # unreachable


def recipe_from_args(
    recipe_class: type[Recipe], argv: list[str] | None = None, prog: str = "recipe", description: str | None = None
) -> Recipe:
    """Parse a command line into a recipe.

    Nested fields are written `--data.train`. A boolean that is false by default is also a bare flag: `--resume`.

    Args:
        recipe_class: `DistillRecipe` or `AlignRecipe`.
        argv: Arguments; None takes those of the process.
        prog: Command as users type it, for `--help`.
        description: Docstring of the script. Its first paragraph heads `--help`, the rest follows the options. None
            takes the summary of the recipe's docstring.

    Returns:
        The recipe. `--config FILE` reads YAML; arguments on the command line override it.

    Raises:
        ValueError: An option is unknown, missing or invalid; the message names the field.
    """
    summary, _, examples = (description or recipe_class.__doc__ or "").partition("\n\n")
    parser = ArgumentParser(
        prog=prog,
        description=" ".join(summary.split()),
        epilog=examples if description else None,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="Recipe in YAML; other arguments override it.")
    add_debug_flag(parser)
    parser.add_argument(
        "--trust_recipe_code",
        action="store_true",
        help="Run functions (module:function) that the recipe file names as data. Check them first.",
    )
    flags = [option.name for option in fields(recipe_class) if option.type is bool and option.default is False]
    parser.add_class_arguments(recipe_class, skip=set(flags), sub_configs=True)
    helps = help_texts(recipe_class)
    for name in flags:
        parser.add_argument(f"--{name}", nargs="?", const=True, default=False, type=bool, help=helps[name])
    check_config_files(argv)
    try:
        values = vars(parser.instantiate(parser.parse_args(argv)))
    except (ArgumentError, TypeError) as error:  # TypeError: a section is no mapping
        raise ValueError(_one_line(error)) from error
    values.pop("config")
    take_debug_flag(values)
    trusts_code = values.pop("trust_recipe_code")
    recipe = recipe_class(**values)
    if not trusts_code:
        _check_code(recipe, sys.argv[1:] if argv is None else argv)
    return recipe


def _check_code(recipe: TrainingRecipe, argv: list[str]):
    """Refuse functions that a recipe file names as data, and that the user did not type. Loading them runs code."""
    trains = [source.train for source in recipe.data.mixture]
    names = [name for train in trains for name in ([train] if isinstance(train, str) else train)]
    typed = " ".join(argv)
    for name in (*names, recipe.eval.data or ""):
        if FUNCTION.fullmatch(name) and not name.startswith(OWN_CODE) and name not in typed:
            raise ValueError(
                f"data.train: {name!r} in the recipe is a function, and loading the data would run it. Check that you "
                "trust it, and add --trust_recipe_code."
            )


def _one_line(error: ArgumentError | TypeError) -> str:
    """Error of jsonargparse in the form of our own messages: `field: problem. Next step.`."""
    message = " ".join(str(error).split())
    if isinstance(error, TypeError):
        message = "config: a section such as data, augment, student or eval must be a mapping of fields"
    message = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in message)
    message = re.sub(r"^Group '([^']+)' does not accept option '([^']+)'", r"\1: has no field '\2'", message)
    message = re.sub(r"^Option '([^']+)' is not accepted", r"config: has no field '\1'", message)
    message = re.sub(r'Parser key "([^"]+)":', r"\1:", message)
    return f"{message.replace('typing.', '').rstrip('.')}. See --help for all options."


def stored_fields(recipe: TrainingRecipe) -> dict[str, Any]:
    """Fields of a recipe by name, nested. Without `teachers` there is no such field, as before it existed."""
    return {name: value for name, value in asdict(recipe).items() if name != "teachers" or value}


def save_recipe(recipe: TrainingRecipe, folder: str | Path):
    """Write the resolved recipe to `folder/recipe.yaml`, which `--config` reads.

    Args:
        recipe: Recipe to save.
        folder: Existing folder.
    """
    fields_of_recipe = {name: value for name, value in stored_fields(recipe).items() if name not in OF_ONE_START}
    resolved = yaml.safe_dump(_plain(fields_of_recipe), sort_keys=False, allow_unicode=True)
    (Path(folder) / RECIPE_FILE).write_text(resolved, encoding="utf-8")


def _plain(value: Any) -> Any:
    """Replace tuples by lists, because YAML has no tuples."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
