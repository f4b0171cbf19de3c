r"""Repeat the paper's claims: both stages are needed, and feature maps teach more than embeddings and logits.

Examples:
  python -m training.studies claims --train train.parquet --validation validation.parquet
  python -m training.studies claims --train train.parquet --validation validation.parquet --image_size 96 --seeds 1

Stage 1 matches the teacher's feature maps, embeddings or logits, from all images and captions. Stage 2 is InfoNCE
alone, on all pairs, a quarter or a sixteenth: after stage 1, or without it for the steps of both stages.
Measured is retrieval on the validation images, in both directions and languages.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from training.config import CONFIGS, AlignRecipe, DataConfig, DistillRecipe, parse_recipe
from training.evaluation import retrieval
from training.evaluation.retrieval import make_retrieval_set
from training.studies.arms import INFONCE, Arm, Trainer, compare
from training.studies.harness import CAPTIONED, Study, StudyOptions, arms_table, open_rows
from training.teachers import DualEncoder
from training.teachers.lineage import weights_fingerprint
from training.text.writing_systems import LANGUAGES
from training.utils.results import Row

COLUMNS = {
    "Text to image R@10": {"metric": "text_to_image_R@10"},
    "Image to text R@10": {"metric": "image_to_text_R@10"},
}
NAMES = {language: language for language in LANGUAGES}  # columns of the captions


@dataclass(frozen=True, kw_only=True)
class Options(StudyOptions):
    """What to train, and where to measure.

    Args:
        train: Images with captions: a source with the columns `image`, `en` and `zh`.
        validation: The same, to measure retrieval on.
        distill: Recipe of stage 1, with teacher and student.
        align: Recipe of stage 2.
        image_size: Edge in pixels of the student's images. Default: the recipe's.
        distill_steps: Optimizer steps of stage 1.
        align_steps: Optimizer steps of stage 2 after stage 1.
        batch_size: Images in a batch.
        shares: Stage 2 has all pairs divided by each of these numbers.
        seeds: Seeds of the training and of the choice of pairs.
    """

    train: str
    validation: str
    distill: str = str(CONFIGS / "photographs" / "distill.yaml")
    align: str = str(CONFIGS / "photographs" / "align.yaml")
    image_size: int | None = None
    distill_steps: int = 600
    align_steps: int = 200
    batch_size: int = 64
    shares: list[int] = field(default_factory=lambda: [1, 4, 16])
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    output_dir: str = "runs/studies/claims"

    def __post_init__(self):
        self.require_at_least(1, "distill_steps", "align_steps", "shares")
        self.require_at_least(2, "batch_size")
        self.require_at_least(0, "seeds")


def arms_of(shares: list[int]) -> list[Arm]:
    """Stage 1 with each target, and stage 2 on each share of the pairs after stage 1 and alone."""
    pairs = {share: "all pairs" if share == 1 else f"1/{share} of the pairs" for share in shares}
    return [
        Arm("stage 1, feature map"),
        Arm("stage 1, embedding", {"map_weight": 0.0}),
        Arm("stage 1, logits", {"map_weight": 0.0, "embedding_weight": 0.0, "logits_weight": 1.0}),
        *(Arm(f"stage 1 and 2, {name}", {}, INFONCE, share) for share, name in pairs.items()),
        *(Arm(f"stage 2, {name}", None, INFONCE, share) for share, name in pairs.items()),
    ]


def make_trainer(options: Options) -> Trainer:
    """Read the recipes, and write the training images to one file."""
    first = parse_recipe(DistillRecipe, ["--config", options.distill])
    rows = open_rows(options.train, CAPTIONED, "train")
    folder = Path(options.output_dir) / ".scratch"
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(folder / "pairs.parquet")
    data = DataConfig(
        train=str(folder / "pairs.parquet"), caption_columns=NAMES, skip_wrong_script=False
    )
    student = replace(first.student, image_size=options.image_size or first.student.image_size)
    first = replace(first, student=student, data=data, tower="both", teacher_views=1)
    first = replace(first, batch_size=options.batch_size, map_weight=first.map_weight or 1.0)
    second = parse_recipe(AlignRecipe, ["--config", options.align])
    second = replace(
        second, batch_size=options.batch_size, teacher_views=1
    )  # the stages share the targets
    return Trainer(first, second, folder, options.distill_steps, options.align_steps)


def run(options: Options):
    """Train and measure every arm, and print the table."""
    trainer = make_trainer(options)
    pairs = make_retrieval_set(
        "validation",
        open_rows(options.validation, CAPTIONED, "validation"),
        NAMES,
        "image",
        options.validation,
    )
    teacher = DualEncoder.from_pretrained(str(trainer.distill.teacher))
    study = Study("claims", options, options.train, weights=weights_fingerprint(teacher.model))

    def measure(model: DualEncoder, arm: Arm, seed: int) -> list[Row]:
        return retrieval.measure(model, pairs, arm.name, seed=seed)

    compare(study, trainer, arms_of(options.shares), options.seeds, measure)
    study.finish(arms_table(study.results, COLUMNS))
