"""What the benchmarks have in common: numbers that are collected and shown on the way, and what made them."""

from pathlib import Path
from typing import Any

import torch

from training.demo.make_teacher import TEACHER_FOLDER
from training.utils.cli import command_of
from training.utils.results import Results, Row, make_meta

# real text in both languages, and nothing that has to be fetched
TOKENIZER = str(TEACHER_FOLDER)


class Benchmark:
    """One run of a benchmark: it collects rows while it goes.

    Args:
        module: its command, such as `training.studies.benchmarks.stage1`.
        options: a dataclass with, among others, `data` and `output_dir`.
    """

    def __init__(self, module: str, options: Any):
        self.module, self.options, self.folder = module, options, Path(options.output_dir)
        self.rows: list[Row] = []

    def add(self, model: str, metric: str, value: float):
        """Keep and print one number."""
        self.rows.append(Row(model=model, metric=metric, value=round(value, 4)))
        print(f"{model}: {metric} {value:.4g}", flush=True)

    def write(self, data: str | None = None, **more: Any) -> Results:
        """Write results.json with what made the numbers.

        Args:
            data: where the images came from, if the options do not say it.
            more: for the meta.
        """
        meta = make_meta(
            data=data or self.options.data,
            seed=0,
            command=command_of(f"python -m {self.module}", self.options),
            threads=torch.get_num_threads(),
            **more,
        )
        results = Results(meta, self.rows)
        results.write(self.folder)
        return results
