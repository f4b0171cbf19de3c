"""From the end of training to the finished model: interpolate, choose, write the Hub folder and the report.

Source of the interpolation: WiSE-FT (Wortsman et al., arXiv 2109.01903).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean

from torch import Tensor

from training.config import AlignRecipe
from training.engine.checkpoint import save_final
from training.finetuning.finetune_options import MAX_GENERAL_LOSS, TABLE_FILE, FinetuneOptions
from training.finetuning.measure import (
    VALIDATION,
    Measurer,
    kept_values,
    name_of,
)
from training.finetuning.splits import Prepared
from training.hub import save_model, write_card
from training.students import load_student
from training.students.average import average_weights
from training.utils.cli import command_of
from training.utils.files import portable, write_text
from training.utils.results import Results, Row, make_meta

START = "start"
FINETUNED = "finetuned"
WEIGHTS = tuple(0.15 * number for number in range(1, 7))  # at 1, recall on photographs fell further
# the text tower moves this share: changing it costs photographs more than it gains
TEXT_SHARE = 0.7
TOLERANCE = 1e-9  # rounding error when numbers of queries are compared


@dataclass(frozen=True)
class Point:
    """One interpolation between the starting model and the end of training.

    Args:
        weight: Weight of the end of training, 0..1, of the image tower; 0 is the starting model.
        rows: Its accuracy.
        embeddings: Its embeddings of the images and of the captions of the validation split, (N, D) and (T, D).
    """

    weight: float
    rows: Sequence[Row]
    embeddings: Sequence[Tensor] = ()

    @property
    def validation(self) -> float:
        """Mean accuracy on the validation split, 0..1."""
        return fmean(row.value for row in self.rows if row.set == VALIDATION)

    @property
    def general(self) -> dict[str, float]:
        """Every accuracy that should be kept, 0..1, by its name."""
        return kept_values(self.rows)


def interpolate(
    start: Mapping[str, Tensor], end: Mapping[str, Tensor], weight: float
) -> dict[str, Tensor]:
    """Interpolate the weights of two models; the text tower moves `TEXT_SHARE` as far. Integers are the end's.

    Args:
        start: Weights of the starting model by name.
        end: Weights at the end of training by the same names.
        weight: Weight of the end, 0..1.
    """

    def shares(name: str) -> tuple[float, float]:
        share = weight * (TEXT_SHARE if name.startswith("text_") else 1.0)
        return share, 1 - share

    return average_weights([end, start], shares)


def choose(points: Sequence[Point], queries: Mapping[str, int], max_loss: float) -> Point:
    """The point that is best on the validation split among those that keep every accuracy.

    Of equally good points, the one nearest to the starting model is chosen.

    Args:
        points: Points in ascending order of their weight, the starting model first.
        queries: Number of queries of each accuracy, by name. Of n lost queries, sqrt(n) are chance: a standard error.
        max_loss: Largest loss of each accuracy, as a fraction.
    """
    start = points[0].general

    def keeps(point: Point) -> bool:
        for name, value in point.general.items():
            lost = max(0.0, start[name] - value) * queries[name]
            if lost - math.sqrt(lost) > max_loss * queries[name] + TOLERANCE:
                return False
        return True

    kept = filter(keeps, points)
    return max(kept, key=lambda point: (point.validation, -point.weight))


def largest_loss(start: Point, chosen: Point) -> tuple[str, float]:
    """Name of the accuracy that fell most, and its loss, 0..1 (below 0 if all rose)."""
    losses = {name: value - chosen.general[name] for name, value in start.general.items()}
    name = max(losses, key=losses.__getitem__)
    return name, losses[name]


def describe(start: Point, chosen: Point, queries: Mapping[str, int]) -> str:
    """Sentences about the chosen point, about the largest loss, and about losses that the sets cannot show."""
    rule = f"at which no other measure falls by more than {100 * MAX_GENERAL_LOSS:.1f} points beyond chance"
    if chosen.weight:
        first = (
            f"The finished model is the starting model plus {chosen.weight:.2f} of the change in training "
            f"({TEXT_SHARE * chosen.weight:.2f} in the text tower), the best point on the validation split {rule}."
        )
    else:
        first = (
            f"No point {rule} is better on the validation split than the starting model, so the finished model equals "
            "it. More images help most."
        )
    name, loss = largest_loss(start, chosen)
    fell = f"{100 * max(0.0, loss):.1f} points, {name} ({queries[name]} queries)"
    sentences = [first, f"Largest loss: {fell}."]
    sizes = {name.partition(",")[0]: number for name, number in queries.items()}
    for name, number in sizes.items():
        if 1 / number > MAX_GENERAL_LOSS:
            sentences.append(
                f"{name.capitalize()} cannot show a loss below {100 / number:.1f} points."
            )
    return " ".join(sentences)


def finish(
    options: FinetuneOptions,
    prepared: Prepared,
    recipe: AlignRecipe,
    measurer: Measurer,
    weights: Mapping[str, Tensor],
    start: Point,
) -> str:
    """Choose a point between the starting model and the end of training, and write it with its report.

    Args:
        options: Options of the command.
        prepared: The user's images and captions.
        recipe: Recipe of the training.
        measurer: Measures the points.
        weights: Weights of the starting model by name, on the CPU.
        start: The starting model.

    Returns:
        The table of accuracy before and after, and sentences about the choice.
    """
    model, processor = load_student(recipe.output_dir)
    end = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    points = [start]
    for weight in WEIGHTS:
        model.load_state_dict(interpolate(weights, end, weight))
        points.append(Point(weight, *measurer.measure(model, FINETUNED)))
    queries = {}
    for row in start.rows:
        if name_of(row) in start.general:
            queries[name_of(row)] = measurer.num_queries(row)
    chosen = choose(points, queries, MAX_GENERAL_LOSS)
    model.load_state_dict(interpolate(weights, end, chosen.weight))
    output_dir = Path(options.output_dir)
    recipe = replace(recipe, output_dir=options.output_dir)
    save = partial(save_model, student=model, processor=processor, recipe=recipe)
    save_final(output_dir, save)
    name, loss = largest_loss(start, chosen)
    images, texts = (
        float((before * after).sum(-1).mean())
        for before, after in zip(start.embeddings, chosen.embeddings, strict=True)
    )
    facts = {
        "data": portable(options.data),
        "found": prepared.found,
        "notes": prepared.notes,
        "images": {"training": prepared.num_training, "validation": prepared.num_validation},
        "weight": chosen.weight,
        "curve": [
            {"weight": each.weight, "validation": each.validation, "general": each.general}
            for each in points
        ],
        "kept": list(dict.fromkeys(name.partition(",")[0] for name in queries)),
        "largest_loss": {"name": name, "value": loss, "queries": queries[name]},
        "cosine_to_start": {"images": images, "texts": texts},
    }
    command = command_of("python training/finetune.py", options)
    meta = make_meta(options.data, options.seed, command, finetune=facts)
    finished = [replace(row, stage=FINETUNED) for row in chosen.rows]
    results = Results(meta, [*start.rows, *finished])
    results.write(output_dir)
    results.plot(output_dir)
    text = f"{results.table()}\n\n{describe(start, chosen, queries)}"
    write_text(output_dir / TABLE_FILE, f"{text}\n")
    write_card(output_dir)
    return text
