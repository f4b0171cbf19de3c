"""Kill runs at random moments, also while they save, and compare what they end with.

    python -m tests.kills --kills 20
    python -m tests.kills --kills 20 --processes 2
    python -m tests.kills --kills 20 --streamed

Each time, a run of stage 2 with gradient caching and dropout is killed with SIGKILL, with all its processes, at a
random moment after its first checkpoint or while it writes another, and started again with `--resume`. Every run must
end with the bytes of `model.safetensors` of one that was never stopped.
"""

import argparse
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
from tests.tiny import RESNET, ROOT, XLM_ROBERTA, make_image_processor, make_model
from tests.training.data.shards import read_samples, write_shards
from training.corpus.emoji import build_corpus
from training.data import load_source
from training.demo.make_teacher import train_tokenizer
from training.engine.checkpoint import last_checkpoint

POLL_S = 0.002
HALF = ".checkpoint-*.tmp"
PATIENCE_S = 600.0
STREAM = [
    "--data.streaming", "true", "--data.image_column", "png", "--data.shuffle_buffer", "16",
    "--data.caption_columns", '{"en": "en.txt", "zh": "zh.txt"}',
]  # fmt: skip


@dataclass
class Counts:
    """What happened.

    Args:
        kills: runs that were killed.
        in_save: those of them that left a half-written checkpoint.
        resumed: those that went on at a step above 0.
        identical: those that ended with the right bytes.
    """

    kills: int = 0
    in_save: int = 0
    resumed: int = 0
    identical: int = 0


@dataclass
class Killer:
    """Starts runs and kills them.

    Args:
        folder: for student, runs and logs.
        data: options of what they learn from.
        processes: of each run.
        max_steps: of each run.
        rng: of the moments.
    """

    folder: Path
    data: list[str]
    processes: int
    max_steps: int
    rng: random.Random
    counts: Counts = field(default_factory=Counts)

    def start(self, output_dir: Path, *more: str) -> subprocess.Popen:
        """A run as a user starts it."""
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
            RuntimeError: it failed.
        """
        if process.wait(PATIENCE_S):
            tail = (self.folder / "output.txt").read_text(encoding="utf-8", errors="replace")[-3000:]
            raise RuntimeError(f"A run failed:\n{tail}")

    def kill(self, output_dir: Path, process: subprocess.Popen, in_save: bool) -> bool:
        """Kill a run after its first checkpoint; False where it came to its end before.

        Args:
            output_dir: of the run.
            process: the run.
            in_save: wait for a moment in which another checkpoint is half written.
        """
        wanted = self.rng.randint(3, self.max_steps - 4)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and process.poll() is None:
            is_due = last_checkpoint(output_dir) is not None and len(_lines(output_dir)) > wanted
            if is_due and (not in_save or list(output_dir.glob(HALF))):
                time.sleep(self.rng.uniform(0, 0.005 if in_save else 0.2))
                break
            time.sleep(POLL_S)
        if process.poll() is not None:
            self.finish(process)
            return False
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.kill()
        process.wait()
        self.counts.kills += 1
        self.counts.in_save += bool(list(output_dir.glob(HALF)))
        return True

    def run(self, kills: int, kills_in_save: int) -> Counts:
        """Until as many runs were killed as wanted, and as many of them while they saved."""
        whole = self.folder / "whole"
        self.finish(self.start(whole))
        expected = (whole / "model.safetensors").read_bytes()
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
    """A tiny student with dropout."""
    make_model(RESNET, XLM_ROBERTA, vocabulary=len(tokenizer), seed=3).save_pretrained(folder / "student")
    DCCLIPProcessor(make_image_processor(), tokenizer).save_pretrained(folder / "student")


def main(argv: list[str] | None = None) -> Counts:
    """Parse, kill, print; ends with 1 where any ending differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kills_in_save", type=int, default=5, help="of them while a checkpoint is being written")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--max_steps", type=int, default=40, help="of a run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--streamed", action="store_true", help="learn from a stream of tar shards")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="dcclip-kills-") as scratch:
        folder = Path(scratch)
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
        f"step above 0, {counts.identical} identical endings"
    )
    return counts


if __name__ == "__main__":
    found = main()
    sys.exit(not found.kills == found.resumed == found.identical)
