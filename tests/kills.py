"""Kill training runs with SIGKILL at random moments, resume them, and compare their final weights.

    python -m tests.kills --kills 20
    python -m tests.kills --kills 20 --processes 2
    python -m tests.kills --kills 20 --streamed
    python -m tests.kills --kills 20 --indexing

Every run is stage 2 with gradient caching and dropout. It is killed with all its processes after its first checkpoint,
or while it writes another one, and started again with `--resume`. The bytes of `model.safetensors` must equal those of
an unbroken run. With `--indexing`, every run indexes photographs, and its index must equal that of an unbroken run
(index_kills.py). The exit code is 1 if any of them differ.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from transformers import PreTrainedTokenizerBase

from modeling_dcclip import DCCLIPProcessor
from tests import index_kills
from tests.index_kills import IndexCounts
from tests.tiny import RESNET, ROOT, XLM_ROBERTA, make_image_processor, make_model
from tests.training.data.shards import read_samples, write_shards
from training.corpus.emoji import build_corpus
from training.data import load_source
from training.demo.make_teacher import train_tokenizer
from training.engine.checkpoint import last_checkpoint
from training.utils.cli import command_of, parse_options
from training.utils.results import Results, make_meta

PROGRAM = "python -m tests.kills"
POLL_S = 0.002
INCOMPLETE = ".checkpoint-*.dcclip-tmp"
TIMEOUT_S = 600.0
STREAM = [
    "--data.streaming", "true", "--data.image_column", "png", "--data.shuffle_buffer", "16",
    "--data.caption_columns", '{"en": "en.txt", "zh": "zh.txt"}',
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the kill test.

    Args:
        kills: Number of runs to kill.
        kills_in_save: Number of them to kill while a checkpoint is being written.
        processes: Number of processes of each run.
        max_steps: Number of steps of each run, at least 8.
        seed: Seed of the random moments.
        streamed: Whether to train on a stream of tar shards.
        indexing: Whether to index photographs instead of training; of the other options, `kills`, `seed` and
            `output_dir` apply.
        output_dir: Folder for results.json of `indexing`. None writes no file.
    """

    kills: int = 20
    kills_in_save: int = 5
    processes: int = 1
    max_steps: int = 40
    seed: int = 0
    streamed: bool = False
    indexing: bool = False
    output_dir: str | None = None

    def __post_init__(self):
        if self.output_dir is not None and not self.indexing:
            raise ValueError("output_dir: only --indexing writes results. Leave it out.")


@dataclass
class Counts:
    """Result of the kill test.

    Args:
        kills: Number of runs that were killed.
        in_save: Number of them that left an incomplete checkpoint.
        resumed: Number of them that resumed at a step above 0.
        identical: Number of them whose final weights have the expected bytes.
    """

    kills: int = 0
    in_save: int = 0
    resumed: int = 0
    identical: int = 0

    @property
    def is_good(self) -> bool:
        """Whether every run resumed and ended with the expected weights."""
        return self.kills == self.resumed == self.identical


@dataclass
class Killer:
    """Starts and kills runs.

    Args:
        folder: Folder for the student, the runs and their output.
        data: Options of the training data.
        processes: Number of processes of each run.
        max_steps: Number of steps of each run.
        rng: Generator of the random moments.
        counts: Result so far.
    """

    folder: Path
    data: list[str]
    processes: int
    max_steps: int
    rng: random.Random
    counts: Counts = field(default_factory=Counts)

    def start(self, output_dir: Path, *more: str) -> subprocess.Popen:
        """Start a run as a user does."""
        launcher = [sys.executable]
        if self.processes > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.processes}"]
        command = [
            *launcher, "training/align.py", "--student", str(self.folder / "student"), "--output_dir", str(output_dir),
            "--max_steps", str(self.max_steps), "--batch_size", "8", "--chunk_size", "3", "--log_every", "1",
            "--save_every", "2", "--warmup_steps", "2", *self.data, *more,
        ]  # fmt: skip
        environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with (self.folder / "output.txt").open("a", encoding="utf-8") as log:
            return subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stdout=log, stderr=log)

    def finish(self, process: subprocess.Popen):
        """Wait for the end of a run.

        Raises:
            RuntimeError: The run failed.
        """
        if process.wait(TIMEOUT_S):
            tail = (self.folder / "output.txt").read_text(encoding="utf-8", errors="replace")[-3000:]
            raise RuntimeError(f"A run failed:\n{tail}")

    def kill(self, output_dir: Path, process: subprocess.Popen, in_save: bool) -> bool:
        """Kill a run after its first checkpoint.

        Args:
            output_dir: Output folder of the run.
            process: Process of the run.
            in_save: Whether to wait for a moment in which another checkpoint is being written.

        Returns:
            False if the run ended before it could be killed.
        """
        min_lines = self.rng.randint(3, self.max_steps - 4)
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            is_due = last_checkpoint(output_dir) is not None and len(_lines(output_dir)) > min_lines
            if is_due and (not in_save or list(output_dir.glob(INCOMPLETE))):
                time.sleep(self.rng.uniform(0, 0.005 if in_save else 0.2))
                break
            time.sleep(POLL_S)
        if process.poll() is not None:
            self.finish(process)
            return False
        for running in [*psutil.Process(process.pid).children(recursive=True), process]:
            running.kill()
        process.wait()
        self.counts.kills += 1
        self.counts.in_save += bool(list(output_dir.glob(INCOMPLETE)))
        return True

    def run(self, kills: int, kills_in_save: int) -> Counts:
        """Kill and resume runs until both numbers are reached."""
        unbroken = self.folder / "unbroken"
        self.finish(self.start(unbroken))
        expected = (unbroken / "model.safetensors").read_bytes()
        while self.counts.kills < kills or self.counts.in_save < kills_in_save:
            output_dir = self.folder / "killed"
            if self.kill(output_dir, self.start(output_dir), self.counts.in_save < kills_in_save):
                self.finish(self.start(output_dir, "--resume"))
                self.counts.resumed += any(line.get("event") == "resumed" for line in _lines(output_dir))
                self.counts.identical += (output_dir / "model.safetensors").read_bytes() == expected
                print(self.counts, flush=True)
            shutil.rmtree(output_dir)
        return self.counts


def _lines(output_dir: Path) -> list[dict]:
    path = output_dir / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def save_student(folder: Path, tokenizer: PreTrainedTokenizerBase):
    """Save a tiny student with dropout."""
    make_model(RESNET, XLM_ROBERTA, vocabulary=len(tokenizer), seed=3).save_pretrained(folder / "student")
    DCCLIPProcessor(make_image_processor(), tokenizer).save_pretrained(folder / "student")


def main(argv: list[str] | None = None) -> Counts | IndexCounts:
    """Parse the options, run the test and print the counts."""
    options = parse_options(Options, argv, prog=PROGRAM, description=__doc__)
    with tempfile.TemporaryDirectory(prefix="dcclip-kills-") as scratch:
        folder = Path(scratch)
        if options.indexing:
            counts = index_kills.run(folder, options.kills, options.seed)
            if options.output_dir is not None:
                meta = make_meta("generated images", options.seed, command_of(PROGRAM, options))
                Results(meta, counts.rows).write(options.output_dir)
            return counts
        corpus = build_corpus(folder / "corpora", size=64, every=40) / "train.parquet"
        rows = load_source(str(corpus))
        save_student(folder, train_tokenizer([*rows["en"], *rows["zh"]], 600))
        data = ["--data.train", str(corpus)]
        if options.streamed:
            data = ["--data.train", write_shards(folder / "shards", read_samples(rows, len(rows)), 4), *STREAM]
        killer = Killer(folder, data, options.processes, options.max_steps, random.Random(options.seed))
        counts = killer.run(options.kills, options.kills_in_save)
    print(
        f"{counts.kills} kills, {counts.in_save} while a checkpoint was being written, {counts.resumed} resumed at a "
        f"step above 0, {counts.identical} with identical weights"
    )
    return counts


if __name__ == "__main__":
    found = main()
    sys.exit(not found.is_good)
