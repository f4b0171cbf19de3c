"""From the end of training to the finished model: interpolate, choose, write the Hub folder and the report.

Source of the interpolation: WiSE-FT (Wortsman et al., arXiv 2109.01903).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from training.config import AlignRecipe
from training.engine.checkpoint import save_final
from training.finetuning.finetune_options import MAX_GENERAL_LOSS, TABLE_FILE, FinetuneOptions
from training.finetuning.measure import (
    VALIDATION,
    Embeddings,
    Measurer,
    kept_values,
    mean_cosine,
    mean_of,
    name_of,
)
from training.finetuning.splits import Prepared
from training.hub import save_model, write_card
from training.students import load_student
from training.utils.cli import command_of
from training.utils.files import portable, write_text
from training.utils.results import Results, Row, make_meta, markdown_table

START, FINETUNED = "start", "finetuned"
WEIGHTS = tuple(0.15 * number for number in range(1, 7))  # at 1, recall on photographs fell further
TEXT_SHARE = (
    0.7  # of these weights for the text tower, whose change costs photographs more than it gains
)
TOLERANCE = 1e-9  # of a comparison of numbers of queries


@dataclass(frozen=True)
class Start:
    """The starting model.

    Args:
        weights: Weights by name, on the CPU.
        rows: Its accuracy.
        embeddings: Its embeddings of the validation split.
    """

    weights: Mapping[str, Tensor]
    rows: list[Row]
    embeddings: Embeddings


@dataclass(frozen=True)
class Point:
    """Accuracy of one interpolation.

    Args:
        weight: Weight of the end of training, 0..1, of the image tower; 0 is the starting model.
        validation: Mean accuracy on the validation split, 0..1.
        general: Every accuracy that should be kept, 0..1, by its name.
    """

    weight: float
    validation: float
    general: Mapping[str, float]


@dataclass(frozen=True)
class Outcome:
    """Result of a run.

    Args:
        before: Rows of the starting model.
        after: Rows of the finished model, in the same order.
        points: Points between the starting model and the end of training.
        chosen: Point of the finished model.
        queries: Number of queries of every accuracy that should be kept, by its name.
        notes: Sentences about what the sets cannot show.
    """

    before: list[Row]
    after: list[Row]
    points: list[Point]
    chosen: Point
    queries: Mapping[str, int]
    notes: list[str] = field(default_factory=list)

    def worst(self) -> tuple[str, float]:
        """Name of the accuracy that fell most, and its loss, 0..1 (below 0 if all rose)."""
        start = self.points[0].general
        name = max(start, key=lambda each: start[each] - self.chosen.general[each])
        return name, start[name] - self.chosen.general[name]

    def table(self) -> str:
        """Accuracy before and after in percent, as Markdown."""
        lines = [
            ["set", "language", "metric", "before", "after", "95 % interval"],
            ["---"] * 3 + ["---:"] * 3,
        ]
        for before, after in zip(self.before, self.after, strict=True):
            low, high = after.interval or (after.value, after.value)
            numbers = [
                _percent(before.value),
                _percent(after.value),
                f"{_percent(low)} to {_percent(high)}",
            ]
            names = [str(after.set), str(after.language), after.metric.replace("_", " ")]
            lines.append([*names, *numbers])
        return markdown_table(lines)

    def choice(self) -> str:
        """Sentences about the chosen point, about the largest loss, and about what the sets cannot show."""
        rule = f"at which no other measure falls by more than {_percent(MAX_GENERAL_LOSS)} points beyond chance"
        name, loss = self.worst()
        fell = (
            f"{_percent(loss)} points, {name} ({self.queries[name]} queries)"
            if loss > 0
            else "none measured"
        )
        chosen = (
            f"The finished model is the starting model plus {self.chosen.weight:.2f} of the change in training "
            f"({TEXT_SHARE * self.chosen.weight:.2f} in the text tower). It is the best point on the validation split "
            f"{rule}. Largest loss: {fell}."
        )
        if not self.chosen.weight:
            chosen = (
                f"No point {rule} is better on the validation split than the starting model, so the finished model "
                "equals it. More images help most."
            )
        return " ".join([chosen, *self.notes])


def interpolate(
    start: Mapping[str, Tensor], end: Mapping[str, Tensor], weight: float
) -> dict[str, Tensor]:
    """Interpolate the weights of two models; the text tower moves `TEXT_SHARE` as far. Integers are the end's.

    Args:
        start: Weights of the starting model by name.
        end: Weights at the end of training by the same names.
        weight: Weight of the end, 0..1.
    """
    shares = {name: TEXT_SHARE if name.startswith("text_") else 1.0 for name in end}
    return {
        name: start[name].lerp(tensor, shares[name] * weight)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in end.items()
    }


def choose(points: Sequence[Point], queries: Mapping[str, int], max_loss: float) -> Point:
    """The point that is best on the validation split among those that keep every accuracy.

    Of equally good points, the one nearest to the starting model is chosen.

    Args:
        points: Points in ascending order of their weight, the starting model first.
        queries: Number of queries of each accuracy, by name. Of n lost queries, sqrt(n) are chance: a standard error.
        max_loss: Largest loss of each accuracy, as a fraction.
    """
    start = points[0].general

    def keeps(name: str, value: float) -> bool:
        lost = max(0.0, start[name] - value) * queries[name]
        return lost - math.sqrt(lost) <= max_loss * queries[name] + TOLERANCE

    kept = [
        point
        for point in points
        if all(keeps(name, value) for name, value in point.general.items())
    ]
    return max(kept, key=lambda point: (point.validation, -point.weight))


def finish(
    options: FinetuneOptions,
    prepared: Prepared,
    recipe: AlignRecipe,
    measurer: Measurer,
    start: Start,
) -> Outcome:
    """Choose a point between the starting model and the end of training, and write it with its report."""
    model, processor = load_student(recipe.output_dir)
    end = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    points = [Point(0.0, mean_of(start.rows, VALIDATION), kept_values(start.rows))]
    measured = [([replace(row, stage=FINETUNED) for row in start.rows], start.embeddings)]
    for weight in WEIGHTS:
        model.load_state_dict(interpolate(start.weights, end, weight))
        rows, embeddings = measurer.measure(model, FINETUNED)
        points.append(Point(weight, mean_of(rows, VALIDATION), kept_values(rows)))
        measured.append((rows, embeddings))
    queries = {
        name_of(row): measurer.num_queries(row)
        for row in start.rows
        if name_of(row) in points[0].general
    }
    chosen = choose(points, queries, MAX_GENERAL_LOSS)
    after, embeddings = measured[points.index(chosen)]
    outcome = Outcome(start.rows, after, points, chosen, queries, _notes(measurer, queries))
    model.load_state_dict(interpolate(start.weights, end, chosen.weight))
    output_dir = Path(options.output_dir)
    final = partial(
        save_model,
        student=model,
        processor=processor,
        recipe=replace(recipe, output_dir=options.output_dir),
    )
    save_final(output_dir, final)
    name, loss = outcome.worst()
    languages = start.embeddings.captions
    facts = {
        "data": portable(options.data),
        "found": prepared.found,
        "notes": [*prepared.notes, *outcome.notes],
        "images": {"training": prepared.num_training, "validation": prepared.num_validation},
        "weight": chosen.weight,
        "curve": [asdict(point) for point in points],
        "kept": list(dict.fromkeys(name.partition(",")[0] for name in chosen.general)),
        "largest_loss": {"name": name, "value": loss, "queries": queries[name]},
        "cosine_to_start": {
            "images": mean_cosine([start.embeddings.images], [embeddings.images]),
            "texts": mean_cosine(
                [start.embeddings.captions[each] for each in languages],
                [embeddings.captions[each] for each in languages],
            ),
        },
    }
    meta = make_meta(
        options.data,
        options.seed,
        command_of("python training/finetune.py", options),
        finetune=facts,
    )
    results = Results(meta, [*outcome.before, *outcome.after])
    results.write(output_dir)
    results.plot(output_dir)
    write_text(output_dir / TABLE_FILE, f"{outcome.table()}\n\n{outcome.choice()}\n")
    write_card(output_dir)
    return outcome


def _notes(measurer: Measurer, queries: Mapping[str, int]) -> list[str]:
    """How the sets are counted, and which losses are too small for them to show."""
    coarse: dict[str, int] = {}
    for name, number in queries.items():
        if 1 / number > MAX_GENERAL_LOSS:
            coarse[name.partition(",")[0]] = number
    notes = [
        f"{name.capitalize()}: {number} queries cannot show a loss below {_percent(1 / number)} points."
        for name, number in coarse.items()
    ]
    if any(each.is_merged for each in measurer.sets):
        notes.append("Merged: a caption of several images is one text, which all of them match.")
    return notes


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
