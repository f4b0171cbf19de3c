"""Recipes of both stages. They are read from YAML and the command line, and saved with the weights."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from training.config.sections import AugmentConfig, Checked, DataConfig, EvalConfig, StudentConfig
from training.utils.keys import no_key
from training.utils.ranges import (
    BelowOne,
    Count,
    CountOrNone,
    EmbeddingWidth,
    HubId,
    Pixels,
    Positive,
    Seed,
    Weight,
)

BatchSize = Annotated[int, Field(ge=1, le=10**6)]
Rate = Annotated[float, Field(ge=0, le=1000)]


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe(Checked):
    """Options of both training stages.

    Args:
        output_dir: Folder for the finished model (a complete Hub repository), the checkpoints and the log.
        data: Training images and captions.
        augment: Image augmentation.
        seed: Seed of all randomness. Random numbers depend on the seed, the step and the process only.
        max_steps: Number of optimizer steps of the whole run.
        max_samples: Number of rows of the whole run, over all processes: it ends after as many, or after `max_steps`
            if these are fewer. With 0 only `max_steps` counts.
        batch_size: Number of rows in a batch of one process: images, or without images captions in each language.
        learning_rate: Peak learning rate, after warm-up.
        weight_decay: Weight decay of matrices and kernels. Biases, norms and the logit scale have none.
        betas: Decay rates of AdamW's first and second moments.
        warmup_steps: Number of steps of linear warm-up.
        schedule: Factor of the learning rate: `cosine` falls from 1 at the first step to 0 at `max_steps`, `constant`
            is 1. The warm-up multiplies it, so a run with a long warm-up stays below the peak.
        max_grad_norm: Largest norm of the gradients; larger gradients are clipped.
        mixed_precision: Precision of the forward and backward pass. None takes the setting of `accelerate launch` or
            of its config file. The weights of the teacher are in this precision. On a CPU, `bf16` is often slower
            than fp32: time a few steps of both.
        gradient_checkpointing: Whether to recompute the student's activations in the backward pass, which saves memory
            and costs time.
        torch_compile: Whether to compile the towers of student and teacher. The first steps take minutes, later steps
            are faster.
        ema_decay: Decay per step of the exponential moving average of the student's weights, at least 0 and below 1,
            such as 0.999. The average is exported instead of the weights. 0 turns it off.
        freeze: Layers or parameters that are not trained, by name: `vision_model.timm_model.blocks.1` is that block,
            and not block 10.
        log_every: Number of steps between two lines of `log.jsonl`.
        trackers: Experiment trackers to log to. `tensorboard` writes to `output_dir/tracking`.
        save_every: Number of steps between two checkpoints. With 0 only the finished model is saved.
        keep_checkpoints: Number of most recent checkpoints to keep.
        resume: Whether to resume from the last checkpoint in `output_dir`. Without a checkpoint the run starts from
            the first step.
        overwrite: Whether a new run may replace a model, checkpoints and other files in `output_dir`.
        eval: Validation set for evaluation during training.
        eval_every: Number of steps between two evaluations; the last step is always evaluated. With 0 there is no
            evaluation. The student with the best top-1 accuracy (mean over languages) is kept in `output_dir/best`.
        push_to_hub: Whether to publish the finished model on the Hub, as `training/publish.py` does.
        hub_model_id: Repository on the Hub, NAMESPACE/NAME.
        hub_private_repo: Whether a new repository is private.
        prefixes: Numbers of leading dimensions of the embedding, ascending, such as [64, 128, 256]. Every loss between
            embeddings is the mean over these widths and the full one, so that embeddings can be truncated. With a
            teacher, its space is first rotated to the principal axes of its embeddings of training data.
        teacher: Hub id or folder of the teacher; ID@COMMIT pins a Hub id. Stage 2 needs none.
        teacher_cache: Folder for the teacher's targets, which are computed once for `teacher_views` random views of
            each image and shared by all seeds. None runs the teacher at every step, on new views each time.
        teacher_views: Number of cached views per image. The size of all targets is logged after the first shard.
    """

    output_dir: str = no_key()
    data: DataConfig
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    seed: Seed = 0
    max_steps: Count = 1000
    max_samples: CountOrNone = 0
    batch_size: BatchSize = 128
    learning_rate: Rate = 1e-3
    weight_decay: Rate = 0.05
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    warmup_steps: CountOrNone = 50
    schedule: Literal["cosine", "constant"] = "cosine"
    max_grad_norm: Positive = 3.0
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None
    gradient_checkpointing: bool = no_key(default=False)
    torch_compile: bool = False
    ema_decay: BelowOne = 0.0
    freeze: list[str] = field(default_factory=list)
    log_every: Count = no_key(default=10)
    trackers: list[Literal["tensorboard", "trackio", "wandb"]] = no_key(default_factory=list)
    save_every: CountOrNone = no_key(default=0)
    keep_checkpoints: Count = no_key(default=2)
    resume: bool = no_key(default=False)
    overwrite: bool = no_key(default=False)
    eval: EvalConfig = field(default_factory=EvalConfig)
    eval_every: CountOrNone = no_key(default=0)
    push_to_hub: bool = no_key(default=False)
    hub_model_id: HubId | None = no_key(default=None)
    hub_private_repo: bool = no_key(default=False)
    prefixes: list[EmbeddingWidth] = field(default_factory=list)
    teacher: str | None = None
    teacher_cache: str | None = None
    teacher_views: Annotated[int, Field(ge=1, le=1000)] = 4

    def problems(self) -> Iterator[str]:
        """Yield contradictions between the fields."""
        if self.eval_every and not (self.eval.data and self.eval.class_names):
            yield "eval_every: needs a labeled set; set eval.data and eval.class_names."
        if self.push_to_hub and not self.hub_model_id:
            yield "push_to_hub: needs a repository; set hub_model_id to NAMESPACE/NAME."
        if not any(value for name, value in vars(self).items() if name.endswith("_weight")):
            yield "weights: all losses have the weight 0, so nothing would be learned. Raise one."


@dataclass(frozen=True, kw_only=True)
class DistillRecipe(TrainingRecipe):
    """Stage 1: each student tower learns the feature map of its teacher tower.

    Args:
        student: Student to build.
        tower: Towers to train. `vision` needs images only, `text` needs captions only.
        map_weight: Weight of the Smooth-L1 loss between the student's feature map, after a head that maps it to the
            teacher's width, and the teacher's whitened feature map.
        map_head: Head of the student's feature map, which training discards: `linear` is the paper's 1x1 convolution,
            `mlp` two of them with a norm and GELU between them (SimReg, arXiv 2201.05131).
        map_whitening: Whitening of the teacher's feature map: `position` is the paper's LayerNorm over the channels of
            each position, `data` takes the mean of each channel and one scale from the training data.
        embedding_weight: Weight of the cosine distance between embeddings, which trains the student's projections.
        logits_weight: Weight of the divergence between the teacher's and the student's similarities to the captions of
            the data; of more than 4,096 captions, evenly spaced ones are taken.
        named_targets: Safetensors file with embeddings in the teacher's space that replace those of the teacher for
            some captions, such as names: `embedding` (N, D), and N texts in its metadata.
    """

    student: StudentConfig
    tower: Literal["vision", "text", "both"] = "both"
    map_weight: Weight = 1.0
    map_head: Literal["linear", "mlp"] = "linear"
    map_whitening: Literal["position", "data"] = "position"
    embedding_weight: Weight = 1.0
    logits_weight: Weight = 0.0
    named_targets: str | None = None

    def problems(self) -> Iterator[str]:
        """Yield contradictions between the fields."""
        yield from super().problems()
        if self.teacher is None:
            yield "teacher: none is named. Name a folder or Hub id."
        if self.named_targets is not None and ("text" not in self.towers or self.data.streaming):
            yield (
                "named_targets: are targets of numbered captions, but the recipe trains no text tower or streams its "
                "data. Leave named_targets out, set tower to text or data.streaming to false."
            )
        if self.prefixes and not self.embedding_weight:
            yield (
                "prefixes: shorten the embedding, but embedding_weight is 0. Give it a weight "
                "above 0, or leave prefixes out."
            )

    @property
    def towers(self) -> tuple[str, ...]:
        """Towers that are trained."""
        return ("vision", "text") if self.tower == "both" else (self.tower,)


@dataclass(frozen=True, kw_only=True)
class AlignRecipe(TrainingRecipe):
    """Stage 2: both towers learn which captions match which images.

    Args:
        student: Folder or Hub id of a DC-CLIP model, such as the `output_dir` of stage 1.
        contrastive_weight: Weight of InfoNCE between images and captions, the mean over the languages of the captions.
        text_text_weight: Weight of InfoNCE between captions of the same image in different languages.
        interactive_weight: Weight of InfoNCE between the student's images and the teacher's captions, and between the
            teacher's images and the student's captions.
        anchor_weight: Weight of the cosine distance to the teacher's embeddings.
        general_weight: Weight of the cosine distance to the teacher's embeddings of class names and sentences that
            come with this project, in the languages of the student. It keeps the student accurate beyond the captions
            of the data.
        photo_weight: Weight of the cosine distance to the teacher's embeddings of mixed crops of a few photographs
            from pip packages (extra `finetune`), and of the relative squared distance to its feature maps of them if
            the teacher is the model that the student starts from, at the same image size. It keeps the image tower
            accurate beyond the images of the data. It requires a teacher that runs during training, without
            `teacher_cache`.
        class_weight: Weight of the divergence from the probabilities of an image classifier to the student's
            similarities to its class names, in each language.
        classifier: Safetensors file of the classifier for `class_weight`: `weight` (C, D) and `bias` (C,) on the mean
            of the feature map of the teacher's image tower, and class names in its metadata.
        chunk_size: Number of images per chunk of gradient caching: the student keeps the activations of one chunk only
            and encodes every image twice. Losses and gradients equal the whole batch's. With 0 the batch is not
            split.
        image_size: Height and width of the student's images in pixels. Default: the student's own. Students find more
            at the size they are used at (FixRes, arXiv 1906.06423).
        dropout: Dropout of the text tower during training, at least 0 and below 1. Default: the student's own.
        freeze_batch_norm: Whether to keep BatchNorm's running statistics and normalize by them.
    """

    student: str
    contrastive_weight: Weight = 1.0
    text_text_weight: Weight = 0.0
    interactive_weight: Weight = 0.0
    anchor_weight: Weight = 0.0
    general_weight: Weight = 0.0
    photo_weight: Weight = 0.0
    class_weight: Weight = 0.0
    classifier: str | None = None
    chunk_size: CountOrNone = 0
    image_size: Pixels | None = None
    dropout: BelowOne | None = None
    freeze_batch_norm: bool = True

    @property
    def starts_from_teacher(self) -> bool:
        """Whether the student starts as a copy of its teacher, so that their feature maps have the same shape."""
        return self.student == self.teacher

    @property
    def shares_image_tower(self) -> bool:
        """Whether the student keeps its teacher's image tower, whose outputs are cached."""
        return (
            self.starts_from_teacher
            and self.image_size is None
            and self.teacher_cache is not None
            and "vision_model" in self.freeze
        )

    @property
    def teacher_towers(self) -> tuple[str, ...]:
        """Towers of the teacher whose targets of the data are compared or cached."""
        if self.shares_image_tower and not self.anchor_weight:
            return ("vision",)
        return ("vision", "text")

    def problems(self) -> Iterator[str]:
        """Yield contradictions between the fields."""
        yield from super().problems()
        if self.photo_weight and self.teacher_cache is not None:
            yield (
                f"photo_weight: is {self.photo_weight}, but a cache has no targets of these "
                "photographs. Set it to 0, or leave teacher_cache out."
            )
        uses = {"classifier": "class_weight", "teacher_cache": "teacher"}
        for name, user in uses.items():
            if getattr(self, name) is not None and not getattr(self, user):
                yield f"{name}: would not be used without {user}. Set {user}, or leave {name} out."
