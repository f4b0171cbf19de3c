"""Which choice is worth what: the demo's student, trained as long with one thing changed, over several seeds.

    python -m training.demo.ablation --seeds 0 1 2
    python -m training.demo.ablation --study targets --steps 160 --seeds 0 1

Every arm starts from the demo's recipes, shortened alike. The arms that leave a stage out train as many steps in the
other one, so that nobody has seen more pictures. All share one cache of teacher targets.
"""

import shutil
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import datasets
import transformers
from jsonargparse import ArgumentParser

from training import align, distill
from training.config import CONFIGS, AlignRecipe, DistillRecipe, parse_recipe
from training.demo.held_out import COLOURS, LANGUAGES, TEST_SETS, HeldOut
from training.demo.multilingual import CUT_SIZE, VOCABULARY_SIZE, make_multilingual_teacher
from training.results import Results, Row, command_of, make_meta
from training.zero_shot.classify import Encoded, encode, evaluate, score
from training.zero_shot.models import ZeroShotModel


@dataclass(frozen=True)
class Arm:
    """One way to train the student.

    Args:
        question: what is asked; arms of one question are compared with each other.
        option: the answer that this arm stands for.
        distil: changes to the recipe of stage 1, given its student's too under `student`.
        stages: `1`, `2` or `1+2`.
        vocabulary: `full` or `cut` takes the teacher with a multilingual vocabulary.
    """

    question: str
    option: str
    distil: dict[str, Any]
    stages: str = "1"
    vocabulary: Literal["full", "cut"] | None = None


def _wide(recipe: DistillRecipe) -> dict[str, Any]:
    """A text tower as wide as the teacher's, so that it can do without an adapter."""
    return {"text_config": recipe.student.text_config | {"hidden_size": 256, "num_attention_heads": 4}}


TARGETS: dict[str, dict[str, Any]] = {
    "feature map": {},
    "embedding": {"target": "embedding"},
    "logits": {"target": "logits"},
}
ARMS: tuple[Arm, ...] = (
    *(Arm("target", option, changes) for option, changes in TARGETS.items()),
    Arm("whitening", "on", {}),
    Arm("whitening", "off", {"whiten": False}),
    Arm("text adapter, equal widths", "on", {"student": _wide, "tower": "text"}),
    Arm("text adapter, equal widths", "off", {"student": _wide, "tower": "text", "adapter": False}),
    Arm("start", "image tower from the teacher", {}),
    Arm("start", "both towers from the teacher", {"student": lambda _: {"text_init": "teacher"}}),
    Arm("start", "random", {"student": lambda _: {"vision_init": "random"}, "freeze": []}),
    Arm("text vocabulary", f"full, {VOCABULARY_SIZE}", {"tower": "text"}, vocabulary="full"),
    Arm("text vocabulary", f"cut to {CUT_SIZE}", {"tower": "text"}, vocabulary="cut"),
    Arm("stages", "1 alone", {}, "1"),
    Arm("stages", "2 alone", {}, "2"),
    Arm("stages", "1 and 2", {}, "1+2"),
)
# whether maps catch up: with more steps, with less weight beside the embedding, and after stage 2
TARGET_ARMS: tuple[Arm, ...] = (
    *(Arm("stage 1", option, changes) for option, changes in TARGETS.items()),
    Arm("stage 1", "feature map, a tenth of the weight", {"map_weight": 0.1}),
    *(Arm("stages 1 and 2", option, changes, "1+2") for option, changes in TARGETS.items()),
)
STUDIES = {"ablation": ARMS, "targets": TARGET_ARMS}


@dataclass(frozen=True, kw_only=True)
class AblationOptions:
    """What to run.

    Args:
        seeds: training seeds of every arm.
        study: `ablation` changes one thing at a time; `targets` asks longer what of the teacher is best learnt.
        steps: optimizer steps of every arm, both stages together.
        every: keep each `every`-th concept of the corpus only (for a quick try).
        output_dir: the runs, removed as soon as they are measured.
        results_dir: where the study's results and plot go, such as ablation.json and ablation.png.
    """

    seeds: list[int]
    study: Literal["ablation", "targets"] = "ablation"
    steps: int = 80
    every: int = 1
    output_dir: str = "runs/ablation"
    results_dir: str = "model_cards/results"


class Ablation:
    """All arms with all seeds; arms whose runs are equal share one.

    Args:
        options: what to run.
    """

    def __init__(self, options: AblationOptions):
        self.options, self.output_dir = options, Path(options.output_dir)
        self.arms = STUDIES[options.study]
        self.held_out = HeldOut.open(options.every)
        self.measured: dict[str, list[Row]] = {}
        self.teacher: Encoded | None = None

    def run(self) -> Results:
        """Train and measure."""
        began, rows = time.perf_counter(), []
        self._make_multilingual_teacher()
        for seed in self.options.seeds:
            for arm in self.arms:
                distil_recipe, align_recipe = self._recipes(arm, seed)
                name = repr((distil_recipe, align_recipe))
                if name not in self.measured:
                    self.measured[name] = self._train(distil_recipe, align_recipe, seed)
                label = f"{arm.question}: {arm.option}"
                found = [
                    replace(row, model=label, stage="distilled" if arm.stages == "1" else "aligned")
                    for row in self.measured[name]
                ]
                rows += found
                shares = ", ".join(f"{100 * row.value:.0f}" for row in found if row.metric == "top5")
                print(f"seed {seed}, {label}: top-5 {shares} %", flush=True)
        meta = make_meta(
            seed=None,
            command=command_of("python -m training.demo.ablation", self.options),
            seeds=self.options.seeds,
            steps=self.options.steps,
            seconds=round(time.perf_counter() - began),
            **self.held_out.meta(),
        )
        shutil.rmtree(self.output_dir, ignore_errors=True)
        return Results(meta, rows)

    def _recipes(self, arm: Arm, seed: int) -> tuple[DistillRecipe | None, AlignRecipe | None]:
        distil_recipe = self._demo_distill()
        align_recipe = parse_recipe(AlignRecipe, ["--config", str(CONFIGS / "demo_align.yaml")])
        steps = self.options.steps
        first = {"1": steps, "2": 0, "1+2": round(steps * 2 / 3)}[arm.stages]
        folder = self.output_dir
        common = {"seed": seed, "data": distil_recipe.data, "teacher_cache": str(folder / "targets")}
        changes = arm.distil | self._multilingual(arm.vocabulary)
        if (student := changes.pop("student", None)) is not None:
            changes["student"] = replace(distil_recipe.student, **student(distil_recipe))
        distil_recipe = replace(
            distil_recipe,
            **common | changes,
            max_steps=max(first, 1),
            warmup_steps=min(distil_recipe.warmup_steps, steps // 6),
            output_dir=str(folder / "distilled"),
        )
        align_recipe = replace(
            align_recipe,
            **common,
            max_steps=max(steps - first, 1),
            warmup_steps=min(align_recipe.warmup_steps, steps // 6),
            output_dir=str(folder / "aligned"),
            student=str(folder / "distilled") if first else None,
        )
        return distil_recipe if first else None, align_recipe if first < steps else None

    def _demo_distill(self) -> DistillRecipe:
        recipe = parse_recipe(DistillRecipe, ["--config", str(CONFIGS / "demo_distill.yaml")])
        return replace(recipe, data=self.held_out.training_data(recipe.data))

    def _multilingual(self, vocabulary: str | None) -> dict[str, Any]:
        """The teacher with a multilingual vocabulary, and a student that reads all of it or a cut."""
        if vocabulary is None:
            return {}
        folder = self.output_dir / "multilingual"
        tokenizer = None if vocabulary == "full" else str(folder / "vocabulary")
        return {
            "teacher": str(folder / "teacher"),
            "teacher_cache": str(folder / f"targets-{vocabulary}"),
            "student": lambda _: {"tokenizer": tokenizer, "vision_init": "random"},
            "freeze": [],
        }

    def _make_multilingual_teacher(self):
        if any(arm.vocabulary for arm in self.arms):
            folder = self.output_dir / "multilingual"
            shutil.rmtree(folder, ignore_errors=True)
            make_multilingual_teacher(self._demo_distill(), folder, max_steps=4 * self.options.steps)

    def _train(self, distil_recipe: DistillRecipe | None, align_recipe: AlignRecipe | None, seed: int) -> list[Row]:
        for name in ("distilled", "aligned"):
            shutil.rmtree(self.output_dir / name, ignore_errors=True)
        if distil_recipe is not None:
            distill.run(distil_recipe)
        if align_recipe is not None:
            align.run(align_recipe)
        student = ZeroShotModel.from_pretrained((align_recipe or distil_recipe).output_dir)
        if distil_recipe is None or distil_recipe.tower == "both":
            return evaluate(student, self.held_out.sets, self.held_out.class_names, LANGUAGES, seed=seed)
        # a text tower alone reads for the teacher, which sees
        if self.teacher is None:
            model = ZeroShotModel.from_pretrained(distil_recipe.teacher)
            self.teacher = encode(model, self.held_out.sets, self.held_out.class_names, [])
        read = encode(student, {}, self.held_out.class_names, LANGUAGES)
        return score(self.teacher, read, self.held_out.sets, self.held_out.class_names, seed=seed)


def arms_of(results: Results) -> list[tuple[str, str]]:
    """Question and option of every arm, in the order in which they were run."""
    labels = dict.fromkeys(row.model for row in results.rows)
    return [(question, option) for question, _, option in (label.partition(": ") for label in labels)]


def spread(results: Results, arm: tuple[str, str], set_name: str, language: str) -> tuple[float, float]:
    """Mean and standard deviation over seeds of an arm's top-5, in percent."""
    values = results.values(model=": ".join(arm), set=set_name, language=language, metric="top5")
    return 100 * statistics.fmean(values), 100 * statistics.pstdev(values)


def table(results: Results) -> str:
    """Markdown: a row an arm, top-5 in percent, mean and standard deviation over seeds."""
    columns = [(name, language) for name in TEST_SETS for language in LANGUAGES]
    lines = [
        "| | | " + " | ".join(f"{name.replace('_', ' ')} {language}" for name, language in columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for arm in arms_of(results):
        cells = [spread(results, arm, *column) for column in columns]
        values = " | ".join(f"{mean:.1f} ± {deviation:.1f}" for mean, deviation in cells)
        lines.append(f"| {arm[0]} | {arm[1]} | {values} |")
    return "\n".join(lines)


def plot(results: Results, path: Path):
    """Top-5 of every arm, grouped by question, a panel a set; dots are means, bars one standard deviation."""
    from matplotlib.figure import Figure

    arms = arms_of(results)
    questions = list(dict.fromkeys(question for question, _ in arms))
    heights = [number + 0.8 * questions.index(question) for number, (question, _) in enumerate(arms)]
    figure = Figure(figsize=(12, 1.5 + 0.22 * max(heights)), layout="constrained")
    axes = figure.subplots(1, len(TEST_SETS), sharey=True)
    for axis, set_name in zip(axes, TEST_SETS, strict=True):
        for offset, (language, colour) in zip((-0.13, 0.13), COLOURS.items(), strict=True):
            means, deviations = zip(*(spread(results, arm, set_name, language) for arm in arms), strict=True)
            axis.errorbar(
                means, [y + offset for y in heights], xerr=deviations, fmt="o", color=colour, ms=5, label=language
            )
        axis.set(title=f"{set_name.replace('_', ' ')}, top-5 in %", ylim=(max(heights) + 1, -1))
        axis.set_yticks(heights, [": ".join(arm) for arm in arms])
        axis.grid(axis="y", alpha=0.2)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    count = len(results.meta["seeds"])
    figure.suptitle(
        f"{results.meta['steps']} steps an arm, mean and standard deviation over {count} seeds", fontsize=10
    )
    figure.savefig(path, dpi=120)


def main(argv: list[str] | None = None):
    """Parse, run, write, print the table."""
    parser = ArgumentParser(prog="python -m training.demo.ablation", allow_abbrev=False)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="training seeds of every arm")
    parser.add_class_arguments(AblationOptions, skip={"seeds"})
    options = AblationOptions(**vars(parser.parse_args(argv)))
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    results = Ablation(options).run()
    folder = Path(options.results_dir)
    path = results.write(folder, f"{options.study}.json")
    plot(results, folder / f"{options.study}.png")
    print(f"\n{table(results)}\n\n{path}")


if __name__ == "__main__":
    main()
