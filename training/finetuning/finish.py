"""From the end of training to the finished model: interpolate, choose, write the Hub folder and the report."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.config import AlignRecipe
from training.engine.checkpoint import BEST_FOLDER, save_final
from training.engine.log import LOG_FILE
from training.finetuning.interpolate import WEIGHTS, Point, choose, interpolate, is_clearly_better
from training.finetuning.measure import VALIDATION, Embeddings, Measurer, compatibility, general_means, mean_of
from training.finetuning.options import MAX_GENERAL_LOSS, FinetuneOptions
from training.finetuning.prepare import Prepared
from training.finetuning.report import FINETUNED, Outcome, write_report
from training.hub import save_model, write_card
from training.students import load_student
from training.utils.cli import command_of
from training.utils.results import Row, make_meta


@dataclass(frozen=True)
class Start:
    """The starting model, and how long it was trained.

    Args:
        weights: Weights by name, on the CPU.
        rows: Its accuracy.
        embeddings: Its embeddings of the validation split.
        steps: Number of training steps, fewer than those of the recipe if training stopped early.
    """

    weights: Mapping[str, Tensor]
    rows: list[Row]
    embeddings: Embeddings
    steps: int


def finish(
    options: FinetuneOptions, prepared: Prepared, recipe: AlignRecipe, measurer: Measurer, start: Start, program: str
) -> Outcome:
    """Choose a point between the starting model and the end of training, and write it with its report.

    Args:
        options: Options of the command.
        prepared: Images and captions.
        recipe: Recipe of the training, whose `output_dir` has its end, and the best model on the validation split.
        measurer: Validation split, general images and general texts.
        start: Starting model.
        program: Command as users type it, for the results.
    """
    model, processor = _load_end(recipe, prepared.num_validation)
    end = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    points: list[Point] = []
    measured: list[tuple[list[Row], Embeddings]] = []
    for weight in WEIGHTS:
        if weight:
            model.load_state_dict(interpolate(start.weights, end, weight))
            embeddings = measurer.encode(model)
            rows = measurer.rows(model, FINETUNED, embeddings)
        else:
            embeddings, rows = start.embeddings, [replace(row, stage=FINETUNED) for row in start.rows]
        points.append(Point(weight, mean_of(rows, VALIDATION), general_means(rows)))
        measured.append((rows, embeddings))
    chosen = choose(points, MAX_GENERAL_LOSS)
    after, embeddings = measured[points.index(chosen)]
    chance = [measurer.chance(row) for row in after]
    outcome = Outcome(start.rows, after, chance, points, chosen)
    model.load_state_dict(interpolate(start.weights, end, chosen.weight))
    facts = {"steps": start.steps, "cosine_to_start": _cosines(start.embeddings, embeddings)} | outcome.describe()
    _write(options, prepared, recipe, outcome, facts, (model, processor), program)
    return outcome


def _load_end(recipe: AlignRecipe, num_validation: int) -> tuple[DCCLIPModel, DCCLIPProcessor]:
    """The last model, unless the best one is clearly better: the best of ten evaluations is often best by chance."""
    folder = Path(recipe.output_dir)
    entries = map(json.loads, (folder / LOG_FILE).read_text(encoding="utf-8").splitlines())
    values = [entry[VALIDATION] for entry in entries if entry.get("event") == "evaluated"]
    is_best = is_clearly_better(max(values), values[-1], num_validation)
    return load_student(folder / BEST_FOLDER if is_best else folder)


def _cosines(start: Embeddings, end: Embeddings) -> dict[str, float]:
    """Mean cosine of the embeddings of the validation split by both models."""
    captions = [(start.captions[language], end.captions[language]) for language in start.captions]
    return {
        "images": compatibility([start.images], [end.images]),
        "texts": compatibility([one for one, _ in captions], [other for _, other in captions]),
    }


def _write(
    options: FinetuneOptions,
    prepared: Prepared,
    recipe: AlignRecipe,
    outcome: Outcome,
    more: dict[str, Any],
    models: tuple[DCCLIPModel, DCCLIPProcessor],
    program: str,
):
    """Write the Hub folder, the report, and the card with the results."""
    output_dir = Path(options.output_dir)
    model, processor = models
    recipe = replace(recipe, output_dir=options.output_dir)
    save_final(output_dir, partial(save_model, student=model, processor=processor, recipe=recipe))
    facts = {
        # a relative path could be taken for a Hub id
        "data": Path(options.data).name if Path(options.data).exists() else options.data,
        "found": prepared.found,
        "notes": prepared.notes,
        "images": {"training": prepared.num_training, "validation": prepared.num_validation},
    } | more
    meta = make_meta(options.data, options.seed, command_of(program, options), finetune=facts)
    write_report(output_dir, outcome, meta)
    write_card(output_dir)
