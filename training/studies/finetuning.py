r"""Measure what fine-tuning gains on new images and loses on photographs that it never sees.

Examples:
  python -m training.studies finetuning --data stamps.parquet --photographs photos.parquet --labelled classes.parquet
  python -m training.studies finetuning --data stamps.parquet --photographs photos.parquet --labelled classes.parquet \
      --sizes 200 --seeds 1 --max_steps 50

`default` is `training/finetune.py` as users run it. `plain` has no anchors. All arms train on the
same pairs. A test split of `data`, photographs with captions and photographs with class names are measured before and
after, in recall at 1, 5 and 10 in both directions and in top-1. The table has the loss of the worst row in points.
"""

import shutil
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset

from training import finetune
from training.data import evenly_spaced_rows
from training.evaluation import retrieval
from training.evaluation.classify import class_embeddings, measure
from training.evaluation.retrieval import RetrievalSet, make_retrieval_set
from training.finetuning.finetune_options import FinetuneOptions
from training.studies.harness import CAPTIONED, Study, StudyOptions, mean_and_spread, open_rows
from training.teachers import DualEncoder
from training.teachers.lineage import weights_fingerprint
from training.text.writing_systems import LANGUAGES
from training.utils.results import Results, Row, markdown_table
from training.utils.rng import keyed_uniform

START, TEST, PHOTOGRAPHS, LABELLED = "start", "test split", "photographs", "labelled photographs"
NAMES = {language: language for language in LANGUAGES}
TEST_SHARE = 0.15
ARMS: dict[str, dict[str, Any]] = {
    "default": {},
    "plain": {"anchor_weight": 0.0, "general_weight": 0.0, "photo_weight": 0.0},
}


@dataclass(frozen=True, kw_only=True)
class Options(StudyOptions):
    """What to train on, and where to measure.

    Args:
        data: New images with captions: a source with the columns `image`, `en` and `zh`. 15 % of them are the test
            split.
        photographs: Photographs with captions, in the same columns, on which no arm trains.
        labelled: Photographs with class names: the columns `image`, `label`, `en` and `zh`.
        model: Folder of the starting model.
        arms: Ways to fine-tune: `default`, `plain`.
        sizes: Numbers of pairs, drawn from the images that are not in the test split.
        seeds: Seeds of the draw and of the training.
        max_steps: Optimizer steps of every run. Default: chosen by `training/finetune.py`.
        num_general: Largest number of images of `photographs` and of `labelled`, evenly spaced.
    """

    data: str
    photographs: str
    labelled: str
    model: str = "model_cards/dcclip-tiny-photo"
    arms: list[str] = field(default_factory=lambda: list(ARMS))
    sizes: list[int] = field(default_factory=lambda: [200, 1000])
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    max_steps: int | None = None
    num_general: int = 700
    output_dir: str = "runs/studies/finetuning"

    def __post_init__(self):
        self.require_at_least(20, "sizes", "num_general")
        if unknown := [arm for arm in self.arms if arm not in ARMS]:
            raise ValueError(
                f"arms: there is no {unknown[0]!r}, only {', '.join(ARMS)}. Name one of these."
            )


def run(options: Options):
    """Train and measure what is missing in results.json, and print the table."""
    rows = open_rows(options.data, CAPTIONED, "data")
    order = keyed_uniform(0, np.arange(len(rows)), num=1)[:, 0].argsort()
    num_test = round(TEST_SHARE * len(rows))
    if max(options.sizes) > len(rows) - num_test:
        raise ValueError(
            f"sizes: only {len(rows) - num_test} pairs are not in the test split, got {options.sizes}."
        )
    tested = rows.select(sorted(order[:num_test].tolist()))
    photographs = open_rows(options.photographs, CAPTIONED, "photographs", options.num_general)
    sets = [
        make_retrieval_set(name, each, NAMES, "image", name)
        for name, each in ((TEST, tested), (PHOTOGRAPHS, photographs))
    ]
    labelled = open_rows(options.labelled, [*CAPTIONED, "label"], "labelled")
    weights = weights_fingerprint(DualEncoder.from_pretrained(options.model).model)
    study = Study("finetuning", options, options.data, weights=weights)

    def rows_of(
        folder: str, arm: str, stage: str | None = None, seed: int | None = None
    ) -> list[Row]:
        measured = measure_model(
            DualEncoder.from_pretrained(folder), sets, labelled, options.num_general
        )
        return [replace(row, model=arm, stage=stage, seed=seed) for row in measured]

    if not study.has(model=START):
        study.add(rows_of(options.model, START))
    scratch = study.folder / ".scratch"
    for size in options.sizes:
        for seed in options.seeds:
            for arm in options.arms:
                if study.has(model=arm, stage=f"{size} pairs", seed=seed):
                    continue
                shutil.rmtree(scratch, ignore_errors=True)
                scratch.mkdir(parents=True)
                pool = order[num_test:]
                drawn = pool[keyed_uniform(seed, pool, num=1)[:, 0].argsort()[:size]]
                rows.select(sorted(drawn.tolist())).to_parquet(scratch / "pairs.parquet")
                AcceleratorState._reset_state(reset_partial_state=True)
                finetune.run(
                    FinetuneOptions(
                        model=options.model,
                        data=str(scratch / "pairs.parquet"),
                        output_dir=str(scratch / "model"),
                        max_steps=options.max_steps,
                        seed=seed,
                        **ARMS[arm],
                    )
                )
                study.add(rows_of(str(scratch / "model"), arm, f"{size} pairs", seed))
    shutil.rmtree(scratch, ignore_errors=True)
    study.finish(table(study.results))


def measure_model(
    model: DualEncoder, sets: list[RetrievalSet], labelled: Dataset, num_labelled: int
) -> Iterator[Row]:
    """Recall on the sets, and top-1 on labelled photographs among the names of all their classes."""
    for each in sets:
        yield from retrieval.measure(model, each, "")
    classes = sorted(set(labelled["label"]))
    chosen = labelled.select(evenly_spaced_rows(len(labelled), num_labelled))
    positions = torch.tensor([classes.index(label) for label in chosen["label"]])
    images = model.encode_images(chosen)
    for language in LANGUAGES:
        names = dict(zip(labelled["label"], labelled[language], strict=True))
        embeddings = class_embeddings(model, [names[label] for label in classes])
        measured = measure(images, embeddings, positions, ("top1",))
        yield from measured.rows(model="", set=LABELLED, language=language, protocol="class names")


def table(results: Results) -> str:
    """Gain on the test split, and the worst loss on each kind of photographs, in points, mean over seeds.

    Returns:
        Markdown table with a line for each number of pairs and arm.
    """
    lines = [
        [
            "Pairs, arm",
            "Seeds",
            "Test split R@5, gain",
            "Worst loss on photographs",
            "Worst loss of top-1",
        ]
    ]
    lines.append(["---", *["---:"] * 4])
    for stage, arm in dict.fromkeys(
        (row.stage, row.model) for row in results.rows if row.stage is not None
    ):
        changes = {}
        for row in (row for row in results.rows if (row.stage, row.model) == (stage, arm)):
            (before,) = results.values(
                model=START, set=row.set, language=row.language, metric=row.metric
            )
            changes[row.set, row.seed, row.language, row.metric] = row.value - before
        seeds = sorted({seed for _, seed, _, _ in changes if seed is not None})
        gains = [
            statistics.fmean(
                change
                for (name, each, _, metric), change in changes.items()
                if (name, each) == (TEST, seed) and metric.endswith("@5")
            )
            for seed in seeds
        ]
        losses = [
            [
                max(
                    -change
                    for (each, own, _, _), change in changes.items()
                    if (each, own) == (name, seed)
                )
                for seed in seeds
            ]
            for name in (PHOTOGRAPHS, LABELLED)
        ]
        lines.append(
            [
                f"{stage}, {arm}",
                str(len(seeds)),
                *(mean_and_spread(values) for values in (gains, *losses)),
            ]
        )
    return markdown_table(lines)
