"""Options of the claims on photographs. Nothing here imports torch, so that `--help` answers at once."""

from dataclasses import dataclass, field

from training.config import CONFIGS


@dataclass(frozen=True, kw_only=True)
class ClaimsOptions:
    """What to train, and where to measure.

    Args:
        train: Photographs with captions: a source with the columns `image`, `en` and `zh`.
        validation: Photographs with captions to measure retrieval on.
        output_dir: Folder for results.json, the plot, the teacher's targets and the runs. Runs whose results are there
            already are not repeated.
        teacher: Folder of the teacher.
        student: Student, as a file of training/configs/students.
        image_size: Edge in pixels of the student's images. Default: that of the student.
        num_images: Number of training images, evenly spaced. Default: all.
        distill_steps: Steps of stage 1.
        align_steps: Steps of stage 2 after stage 1.
        batch_size: Images in a batch.
        shares: The pairs of stage 2 are all of them divided by each of these numbers.
        seeds: Seeds of the training and of the choice of pairs.
    """

    train: str
    validation: str
    output_dir: str
    teacher: str = "runs/photo_teacher"
    student: str = str(CONFIGS / "students" / "photographs.yaml")
    image_size: int | None = None
    num_images: int | None = None
    distill_steps: int = 600
    align_steps: int = 200
    batch_size: int = 64
    shares: list[int] = field(default_factory=lambda: [1, 4, 16])
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])

    def __post_init__(self):
        for name in ("distill_steps", "align_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}.")
        if self.batch_size < 2:
            raise ValueError(
                f"batch_size: is {self.batch_size}, but the pairs of a batch are compared. Set at least 2."
            )
        if not self.shares or min(self.shares) < 1:
            raise ValueError(f"shares: must be numbers of at least 1, got {self.shares}. The default is 1, 4, 16.")
        if not self.seeds:
            raise ValueError("seeds: none is given. Name at least one.")
