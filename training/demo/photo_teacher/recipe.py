"""Recipe of the photo teacher."""

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from training.config import LIMITS, Checked, Limits, TrainingRecipe
from training.text.writing_systems import LANGUAGES

OWN_LIMITS = {
    "learning_rate": Limits(above=0),
    "head_learning_rate": Limits(above=0),
    "images_per_class": Limits(at_least=1),
    "num_unlabelled": Limits(at_least=0),
    "held_out_classes": Limits(at_least=0, below=1),
    "image_crops": Limits(at_least=0),
    "small_views": Limits(at_least=0),
    "image_steps": Limits(at_least=0),
    "projection_dim": Limits(at_least=1),
    "max_text_length": Limits(at_least=3),
    "text_layers": Limits(at_least=1),
    "head_steps": Limits(at_least=1),
    "dropout": Limits(at_least=0, below=1),
    "class_batch_size": Limits(at_least=1),
    "num_names": Limits(at_least=1),
}
# fields of `TrainingRecipe` that this run has no use for
UNSUPPORTED = (
    "augment", "accumulate_steps", "mixed_precision", "gradient_checkpointing", "torch_compile", "ema_decay", "freeze",
    "trackers", "save_every", "resume", "eval", "push_to_hub", "teacher_cache",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PhotoTeacherRecipe(TrainingRecipe):
    """A teacher for photographs: ImageNet's EfficientNet-Lite2 and multilingual-e5-small, aligned on captioned images.

    The lower layers of both towers are frozen. Their outputs are computed once and stored in `features_dir`.
    Training has three phases: the projections alone, the projections with the upper layers, and the upper layers of
    the image tower alone, while the embeddings of texts stay as they are.

    Args:
        validation: Parquet file of captioned images for validation, with the same columns as `data.train`.
        class_images: Parquet files of images with an English class name in column `en`. The Chinese class name is in
            column `zh`; without this column it comes from the built-in list of scene names.
        images_per_class: Number of training images of each class, evenly spaced in the file.
        unlabelled: Parquet files of images without captions.
        num_unlabelled: Number of images to read from each file of `unlabelled`.
        held_out_classes: Share of the class names, at least 0 and below 1, that are validated but not trained on.
        image_crops: Number of random crops of each captioned image that are trained on beside the whole image.
        small_views: Number of views of low resolution of every image, which the third phase trains on too.
        features_dir: Folder for the outputs of the frozen layers. None takes `output_dir/features`.
        projection_dim: Width of the shared embedding space.
        max_text_length: Largest number of tokens of a text, special tokens included.
        text_layers: Number of text layers that are trained, from the top.
        head_steps: Number of steps of the first phase. `max_steps` is the number of steps of the second phase.
        image_steps: Number of steps of the third phase.
        start: Folder with the `trained.safetensors` of an earlier run to start from; the first two phases are left
            out.
        head_learning_rate: Peak learning rate of the projections in the first phase. In later phases it is a tenth of
            this value.
        dropout: Dropout probability on pooled features, at least 0 and below 1.
        class_batch_size: Number of class images in a step, and of images without captions.
        class_weight: Weight of InfoNCE between class images and their class names.
        imagenet_weight: Weight of the cross-entropy between the probabilities of ImageNet's classifier and the
            similarities to the names of its classes.
        text_text_weight: Weight of InfoNCE between the English and the Chinese caption of an image.
        num_names: Number of ImageNet class names that a step compares with.
        weights_license: Licence identifier of the trained weights, which depends on the licences of the training
            images.
    """

    limits: ClassVar[dict[str, Limits]] = LIMITS | OWN_LIMITS

    validation: str
    class_images: list[str] = field(default_factory=list)
    images_per_class: int = 30
    unlabelled: list[str] = field(default_factory=list)
    num_unlabelled: int = 3500
    held_out_classes: float = 0.2
    image_crops: int = 1
    small_views: int = 0
    features_dir: str | None = None
    projection_dim: int = 512
    max_text_length: int = 77
    text_layers: int = 2
    head_steps: int = 1500
    image_steps: int = 0
    start: str | None = None
    head_learning_rate: float = 3e-3
    dropout: float = 0.2
    class_batch_size: int = 128
    class_weight: float = 0.5
    imagenet_weight: float = 0.5
    text_text_weight: float = 0.2
    num_names: int = 128
    weights_license: str = "cc-by-nc-4.0"

    def __post_init__(self):
        Checked.__post_init__(self)  # `TrainingRecipe` would require a labelled set for `eval_every`
        for option in fields(self):
            if option.name in UNSUPPORTED and getattr(self, option.name) != _default(option):
                raise ValueError(f"{option.name}: is not supported by the photo teacher. Leave it out.")
        if missing := set(LANGUAGES) - set(self.data.caption_columns):
            raise ValueError(
                f"data.caption_columns: has no column for {', '.join(sorted(missing))}. Name one for each of "
                f"{', '.join(LANGUAGES)}."
            )
        if self.start is not None and not self.image_steps:
            raise ValueError("start: leaves out the first two phases. Set image_steps too, or leave start out.")
        if not self.data.train:
            raise ValueError(
                "data.train: is missing. Name a file with captioned images; data.sources is not supported."
            )


def _default(option: Any) -> Any:
    return option.default_factory() if callable(option.default_factory) else option.default
