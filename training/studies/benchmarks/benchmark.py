"""Collecting, printing and writing of results, shared by the benchmarks."""

from pathlib import Path
from typing import Protocol

import torch

from training.demo.make_teacher import TEACHER_FOLDER
from training.utils.cli import command_of
from training.utils.results import Results, Row, make_meta

# covers text in both languages, and needs no download
TOKENIZER = str(TEACHER_FOLDER)


class BenchmarkOptions(Protocol):
    """Fields that the options of all benchmarks have."""

    @property
    def output_dir(self) -> str:
        """Folder of the results."""


class Benchmark:
    """One run of a benchmark; collects result rows.

    Args:
        options: Options of the command, a dataclass.
        program: Command as users type it, without options.
    """

    def __init__(self, options: BenchmarkOptions, program: str):
        self.program, self.command = program, command_of(program, options)
        self.folder = Path(options.output_dir)
        self.rows: list[Row] = []

    def add(self, model: str, metric: str, value: float):
        """Collect and print one number.

        Args:
            model: What was measured, such as a model's name.
            metric: Name of the metric.
            value: The number; rounded to four digits.
        """
        self.rows.append(Row(model=model, metric=metric, value=round(value, 4)))
        print(f"{model}: {metric} {value:.4g}", flush=True)

    def write(self, data: str, **more: str) -> Results:
        """Write results.json with the provenance of the numbers.

        Args:
            data: Source of the images.
            more: Further entries of the provenance.
        """
        meta = make_meta(
            data=data,
            seed=0,
            command=self.command,
            threads=torch.get_num_threads(),
            **more,
        )
        results = Results(meta, self.rows)
        results.write(self.folder)
        return results
