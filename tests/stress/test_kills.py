"""Kill commands at random moments, run them again, and compare what they write with an unbroken run."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from modeling_dcclip import DCCLIPProcessor
from tests.color_model import save_color_model
from tests.tiny import MOBILENET, ROOT, XLM_ROBERTA, save_untrained
from tests.training.data.shards import read_samples, write_shards

pytestmark = pytest.mark.stress

KILLS = 6  # kills of each command
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TIMEOUT_S = 600.0
EARLIER = 0.8  # factor of the moment if a command ended before it
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
DCCLIP = ["-m", "modeling_dcclip.search.command"]


@dataclass(frozen=True)
class Job:
    """A command that writes an output.

    Args:
        command: Arguments of Python.
        output: File or folder that it writes.
        read: Function that returns what must be equal.
        resume: Arguments that are added after a kill.
        is_ready: Function that tells when a kill would interrupt work that can be resumed.
    """

    command: list[str]
    output: Path
    read: Callable[[], object]
    resume: tuple[str, ...] = ()
    is_ready: Callable[[], bool] = lambda: True

    def start(self, log: Path, *more: str) -> subprocess.Popen:
        environment = os.environ | {
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        with log.open("a", encoding="utf-8") as file:
            return subprocess.Popen(
                [sys.executable, *self.command, *more],
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=file,
            )

    def finish(self, log: Path, *more: str):
        assert self.start(log, *more).wait(TIMEOUT_S) == 0, log.read_text(
            encoding="utf-8", errors="replace"
        )[-3000:]

    def kill(self, log: Path, moment_s: float, number: signal.Signals) -> float:
        """Start the command, wait until it is ready, and end it with all its processes after a time.

        Returns:
            The moment, which is earlier if the command ended before.
        """
        while True:
            shutil.rmtree(self.output, ignore_errors=True)
            process = self.start(log)
            until = time.monotonic() + TIMEOUT_S
            while not self.is_ready() and process.poll() is None and time.monotonic() < until:
                time.sleep(0.005)
            time.sleep(moment_s)
            if process.poll() is None:
                family = [
                    *psutil.Process(process.pid).children(recursive=True),
                    psutil.Process(process.pid),
                ]
                for each in family if number == signal.SIGKILL else family[-1:]:
                    each.send_signal(number)
                if process.wait(TIMEOUT_S):
                    return moment_s
            moment_s *= EARLIER


@pytest.fixture(scope="module")
def student(processor: DCCLIPProcessor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny student with dropout."""
    return Path(save_untrained(tmp_path_factory.mktemp("student"), processor))


def training_job(
    script: str, output: Path, arguments: list[str], launcher: tuple[str, ...] = ()
) -> Job:
    common = [
        "--max_steps",
        "24",
        "--save_every",
        "2",
        "--log_every",
        "1",
        "--warmup_steps",
        "2",
        "--batch_size",
        "8",
    ]
    return Job(
        [*launcher, f"training/{script}.py", *arguments, *common, "--output_dir", str(output)],
        output,
        read=(output / "model.safetensors").read_bytes,
        resume=("--resume",),
        is_ready=lambda: any(output.glob("checkpoint-*")),
    )


def align_job(folder: Path, student: Path, corpus: Path) -> Job:
    data = ["--data.train", str(corpus / "train.parquet"), "--chunk_size", "3"]
    return training_job("align", folder / "out", ["--student", str(student), *data])


def streamed_job(folder: Path, student: Path, corpus: Path) -> Job:
    from training.data import load_source

    rows = load_source(str(corpus / "train.parquet"))
    shards = write_shards(folder / "shards", read_samples(rows, len(rows)), 4)
    data = ["--data.train", shards, "--data.streaming", "true", "--data.image_column", "png"]
    data += [
        "--data.shuffle_buffer",
        "16",
        "--data.caption_columns",
        '{"en": "en.txt", "zh": "zh.txt"}',
    ]
    return training_job(
        "align", folder / "out", ["--student", str(student), *data], tuple(TORCHRUN)
    )


def distill_job(folder: Path, teacher: Path, corpus: Path) -> Job:
    recipe = {
        "student": {"vision_config": MOBILENET, "text_config": XLM_ROBERTA, "max_text_length": 32}
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    data = ["--data.train", str(corpus / "train.parquet"), "--teacher", str(teacher)]
    return training_job("distill", folder / "out", ["--config", str(folder / "recipe.yaml"), *data])


def index_job(folder: Path) -> Job:
    """Index 300 images of one color each, with a damaged file; searches must find the same with the same scores."""
    rng, photos, index = np.random.default_rng(0), folder / "photos", folder / "out"
    for number in range(300):
        path = photos / f"{number % 7}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 24, 3), np.uint8)).save(path)
    (photos / "broken.jpg").write_bytes(b"no")
    model = save_color_model(folder / "model")

    def read() -> list[str]:
        search = [*DCCLIP, "search", "--index", str(index), "--json", "--top", "400"]
        runs = [
            subprocess.run(
                [sys.executable, *search, word],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            )
            for word in ("red", "green", "blue")
        ]
        return [run.stdout for run in runs]

    return Job(
        [*DCCLIP, "index", str(photos), "--index", str(index), "--model", str(model)], index, read
    )


@pytest.mark.parametrize("name", ["align", "streamed on two processes", "distill", "index"])
def test_a_killed_command_ends_like_an_unbroken_one(
    name, student, teacher_folder, corpus, tmp_path
):
    job = {
        "align": lambda: align_job(tmp_path, student, corpus),
        "streamed on two processes": lambda: streamed_job(tmp_path, student, corpus),
        "distill": lambda: distill_job(tmp_path, teacher_folder, corpus),
        "index": lambda: index_job(tmp_path),
    }[name]()
    log, rng = tmp_path / "log.txt", random.Random(name)
    started = time.monotonic()
    job.finish(log)
    duration_s = time.monotonic() - started
    expected = job.read()
    for number in range(KILLS):
        job.kill(log, rng.uniform(0, duration_s), SIGNALS[number % len(SIGNALS)])
        job.finish(log, *job.resume)
        assert job.read() == expected
