"""Options of the study of fine-tuning. Nothing here imports torch, so that `--help` answers at once."""

from dataclasses import dataclass, field

K = 10  # of the recall
ARMS = ("default", "no_photos", "plain", "lora")
GENERAL_ARM = "general_"  # followed by a name of `general_data`


@dataclass(frozen=True, kw_only=True)
class FinetuningOptions:
    """What to train, and where to measure.

    Args:
        data: Images with captions in English and Chinese, as `data.train` in a recipe; several are joined.
        test: The same for the test split of all runs. Default: 15 % of the images of `data`.
        photographs: Photographs with captions, to measure retrieval that the model had learned before.
        labelled: Photographs with class names, to measure classification that the model had learned before.
        model: Folder of the starting model.
        general_data: General images of further arms by name; `--general_data.NAME SOURCE` makes an arm `general_NAME`.
        arms: Ways to fine-tune: `default`, `no_photos`, `plain`, `lora`, `general_NAME`.
        sizes: Numbers of pairs, drawn from the images that are not in the test split.
        seeds: Seeds of the draw and of the training.
        max_steps: Optimizer steps of every run. Default: those of `training/finetune.py`.
        image_size: Edge in pixels to which the images of every run are reduced, for a study that takes less time.
            Default: that of the model.
        num_general: Largest number of images of `photographs` and of `labelled`, evenly spaced.
        output_dir: Folder for results.json, the plot, and the runs, which are deleted one by one. Runs whose results
            are there already are not repeated.
    """

    data: list[str]
    photographs: str
    labelled: str
    test: str | None = None
    model: str = "model_cards/dcclip-tiny-photo"
    general_data: dict[str, str] = field(default_factory=dict)
    arms: list[str] = field(default_factory=lambda: list(ARMS))
    sizes: list[int] = field(default_factory=lambda: [200, 1000])
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    max_steps: int | None = None
    image_size: int | None = None
    num_general: int = 400
    output_dir: str = "runs/finetuning"

    def __post_init__(self):
        known = [*ARMS, *(f"{GENERAL_ARM}{name}" for name in self.general_data)]
        if unknown := [arm for arm in self.arms if arm not in known]:
            raise ValueError(f"arms: there is no {unknown[0]!r}, only {', '.join(known)}. Name one of these.")
        if not self.data:
            raise ValueError("data: none is given. Name images with captions in both languages.")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps: must be at least 1, got {self.max_steps}.")
        if self.image_size is not None and self.image_size < 32:
            raise ValueError(f"image_size: must be at least 32 pixels, got {self.image_size}.")
        if self.num_general < K:
            raise ValueError(f"num_general: must be at least {K} for recall at {K}, got {self.num_general}.")
