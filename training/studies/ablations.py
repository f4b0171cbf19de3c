"""Compare targets, starts and losses of both stages on the demo's corpus and student.

Examples:
  python -m training.studies ablations
  python -m training.studies ablations --seeds 0 --every 40 --distill_steps 20 --align_steps 10
  python -m training.studies ablations --arms "stage 2: InfoNCE" "stage 2: InfoNCE, anchor"

Arms of stage 1 have the same number of steps. Arms of stage 2 start from the same distilled student. An arm with one
stage alone has the steps of both. Measured are the demo's test sets, with class names encoded by the student and, as a
test of the shared embedding space, by the teacher.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from training.config import CONFIGS, AlignRecipe, DistillRecipe, parse_recipe
from training.evaluation.classify import encode, score
from training.evaluation.sets.held_out import TEST_SETS, HeldOut
from training.studies.arms import INFONCE, Arm, Trainer, compare
from training.studies.harness import Study, StudyOptions, arms_table
from training.teachers import DualEncoder
from training.text.writing_systems import LANGUAGES
from training.utils.results import Row

TEACHER = "training/demo/mini_teacher"
COLUMNS = {name.replace("_", " "): {"set": name, "metric": "top5"} for name in TEST_SETS}
WIDE = {"hidden_size": 256, "num_attention_heads": 4}  # the teacher's width


ALL_LOSSES = INFONCE | {"anchor_weight": 5.0, "affinity_weight": 1.0}
ARMS = (
    Arm("stage 1: feature map"),
    Arm("stage 1: feature map, ten times the weight", {"map_weight": 1.0}),
    Arm("stage 1: embedding", {"map_weight": 0.0}),
    Arm("stage 1: logits", {"map_weight": 0.0, "embedding_weight": 0.0, "logits_weight": 1.0}),
    Arm("stage 1: feature map, relations", {"relational_weight": 1.0}),
    Arm(
        "text tower: as wide as the teacher's", {"tower": "text", "student": {"text_config": WIDE}}
    ),
    Arm("stage 1: both towers from the teacher", {"student": {"text_init": "teacher"}}),
    Arm("stage 1: random weights", {"freeze": [], "student": {"vision_init": "random"}}),
    Arm("stage 1 alone, longer", longer=True),
    Arm("stage 2 alone", None, INFONCE),
    Arm("stage 2: InfoNCE", {}, INFONCE),
    Arm("stage 2: sigmoid", {}, INFONCE | {"loss": "sigmoid"}),
    Arm("stage 2: InfoNCE, anchor", {}, INFONCE | {"anchor_weight": 5.0}),
    Arm("stage 2: InfoNCE, affinity", {}, INFONCE | {"affinity_weight": 1.0}),
    Arm("stage 2: InfoNCE, text-text", {}, INFONCE | {"text_text_weight": 1.0}),
    Arm("stage 2: InfoNCE, anchor, affinity", {}, ALL_LOSSES),
    *(
        arm
        for share in (4, 16)
        for arm in (
            Arm(f"1/{share} of the pairs: stage 2 alone", None, INFONCE, share),
            Arm(f"1/{share} of the pairs: both stages, InfoNCE", {}, INFONCE, share),
            Arm(f"1/{share} of the pairs: both stages, all losses", {}, ALL_LOSSES, share),
        )
    ),
)


@dataclass(frozen=True, kw_only=True)
class Options(StudyOptions):
    """What to run.

    Args:
        arms: Names of the arms. Default: all, which take about four hours on two cores.
        seeds: Training seeds; every arm is trained with each of them.
        every: Keep only each `every`-th concept of the corpus, for a quick try.
        distill_steps: Optimizer steps of stage 1.
        align_steps: Optimizer steps of stage 2.
    """

    arms: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    every: int = 1
    distill_steps: int = 240
    align_steps: int = 80
    output_dir: str = "runs/studies/ablations"

    def __post_init__(self):
        self.require_at_least(1, "every", "distill_steps", "align_steps")
        names = [arm.name for arm in ARMS]
        if unknown := [name for name in self.arms if name not in names]:
            raise ValueError(f"arms: there is no {unknown[0]!r}. Name some of: {'; '.join(names)}.")


def make_trainer(options: Options, held_out: HeldOut) -> Trainer:
    """Read the recipes of the demo, for the concepts of the test sets."""
    first = parse_recipe(DistillRecipe, ["--config", str(CONFIGS / "demo_distill.yaml")])
    second = parse_recipe(AlignRecipe, ["--config", str(CONFIGS / "demo_align.yaml")])
    first = replace(first, data=held_out.training_data(first.data))
    return Trainer(
        first,
        second,
        Path(options.output_dir) / ".scratch",
        options.distill_steps,
        options.align_steps,
    )


def run(options: Options):
    """Train and measure every arm, and print the table."""
    held_out = HeldOut.open(options.every)
    study = Study("ablations", options, held_out.meta()["data"])
    trainer = make_trainer(options, held_out)
    sets, names = held_out.sets, held_out.class_names
    teacher = encode(DualEncoder.from_pretrained(TEACHER), sets, names, LANGUAGES)

    def measure(model: DualEncoder, arm: Arm, seed: int) -> list[Row]:
        student = encode(model, sets, names, LANGUAGES)
        tower = (arm.distill or {}).get("tower", "both")
        own = score(teacher if tower == "text" else student, student, sets, names, seed=seed)
        crossed = score(student, teacher, sets, names, seed=seed) if tower == "both" else []
        rows = own + [replace(row, metric=f"{row.metric}_teacher_texts") for row in crossed]
        return [replace(row, model=arm.name) for row in rows]

    arms = [arm for arm in ARMS if not options.arms or arm.name in options.arms]
    compare(study, trainer, arms, options.seeds, measure)
    study.finish(arms_table(study.results, COLUMNS))
