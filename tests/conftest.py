"""A tiny real corpus, its tokenizer, and tiny models and teachers, made once a session."""
# ruff: noqa: E402

import os
import tempfile

# before any library reads them: nothing is fetched, and nobody's caches are touched
_SCRATCH = tempfile.mkdtemp(prefix="dcclip-tests-")
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HOME": f"{_SCRATCH}/hf",
    "HF_DATASETS_CACHE": f"{_SCRATCH}/datasets",
    "HF_MODULES_CACHE": f"{_SCRATCH}/modules",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "DCCLIP_CACHE": f"{_SCRATCH}/corpora",
    "ACCELERATE_USE_CPU": "true",
}

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from filelock import FileLock
from transformers import PreTrainedTokenizerBase

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from tests.browser import open_browser
from tests.color_model import save_color_model
from tests.tiny import (
    ROOT,
    SMALL_MOBILENET,
    SMALL_XLM_ROBERTA,
    WHOLE_MOBILENET,
    make_image_processor,
    make_model,
    save_student,
)
from tests.tiny_teachers import save_teacher
from training.data import load_source
from training.experiments.corpus.emoji import build_corpus
from training.experiments.demo.make_teacher import train_tokenizer
from training.teachers import DualEncoder

torch.set_num_threads(1)  # tiny models gain nothing from more


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]):
    """Leave out the tests marked `stress`, unless the command line names the marker.

    Files with slow tests start first, because one that starts last would keep one core busy alone.
    """
    if "stress" not in config.option.markexpr:
        stress = [item for item in items if item.get_closest_marker("stress")]
        items[:] = [item for item in items if not item.get_closest_marker("stress")]
        config.hook.pytest_deselected(items=stress)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_sessionfinish():
    shutil.rmtree(_SCRATCH, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def measured_processes(request: pytest.FixtureRequest):
    """With `--cov`, the processes that tests start are measured too."""
    if request.config.pluginmanager.hasplugin("_cov"):
        os.environ |= {
            "COVERAGE_PROCESS_START": f"{ROOT}/setup.cfg",
            "COVERAGE_FILE": f"{ROOT}/.coverage",
        }


@pytest.fixture
def fresh_accelerator():
    """Accelerate keeps the settings of the first run in a process; such a test simulates a new process."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Every 40th concept of the real corpus, at the size of the tiny models."""
    return build_corpus(f"{_SCRATCH}/corpora", size=64, every=40)


@pytest.fixture(scope="session")
def train_rows(corpus: Path) -> Dataset:
    return load_source(str(corpus / "train.parquet"))


@pytest.fixture(scope="session")
def tokenizer(train_rows: Dataset) -> PreTrainedTokenizerBase:
    return train_tokenizer([*train_rows["en"], *train_rows["zh"]], 600)


@pytest.fixture(scope="session")
def other_tokenizer(train_rows: Dataset) -> PreTrainedTokenizerBase:
    """Of the same kind, with another vocabulary."""
    return train_tokenizer([*train_rows["en"], *train_rows["zh"]], 400)


@pytest.fixture(scope="session")
def processor(tokenizer: PreTrainedTokenizerBase) -> DCCLIPProcessor:
    return DCCLIPProcessor(make_image_processor(), tokenizer)


@pytest.fixture(scope="session")
def teacher_folder(processor: DCCLIPProcessor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of our own family. Tests must not write into it."""
    folder = tmp_path_factory.mktemp("teacher")
    model: DCCLIPModel = make_model(WHOLE_MOBILENET, seed=7)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def altclip_folder(
    other_tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A teacher of the paper's family, whose tokens are others than the student's. Tests must not write into it."""
    return save_teacher("altclip", tmp_path_factory.mktemp("altclip"), other_tokenizer)


@pytest.fixture(scope="session")
def teacher(teacher_folder: Path) -> DualEncoder:
    return DualEncoder.from_pretrained(str(teacher_folder))


@pytest.fixture(scope="session")
def images(train_rows: Dataset) -> list:
    """Eight real drawings, as PIL images."""
    return [train_rows[row]["image"].convert("RGB") for row in range(0, 80, 10)]


@pytest.fixture(scope="session")
def texts(train_rows: Dataset) -> list[str]:
    """Their names, of different lengths and in both languages."""
    return [train_rows[row]["en" if row % 20 else "zh"] for row in range(0, 80, 10)]


@pytest.fixture(scope="session")
def inputs(processor: DCCLIPProcessor, images: list, texts: list[str]) -> dict[str, torch.Tensor]:
    """Eight images with their names, prepared and padded."""
    return dict(processor(images=images, text=texts, return_tensors="pt"))


@pytest.fixture(scope="session")
def run_python():
    """Run Python in a process of its own, from the repository root, and return what it printed."""

    def run(*arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            output, errors = process.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            process.terminate()  # a launcher ends the processes that it started, if it is asked and not killed
            process.wait(30)
            raise
        process = subprocess.CompletedProcess(process.args, process.returncode, output, errors)
        if check and process.returncode:
            printed = f"{process.stdout[-2000:]}\n{process.stderr[-4000:]}"
            raise AssertionError(f"{arguments} exited with {process.returncode}:\n{printed}")
        return process

    return run


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]):
    """Run a command that must be refused, and return its message."""

    def run(main: Callable[[list[str]], object], *arguments: object) -> str:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        assert stopped.value.code == 2
        return capsys.readouterr().err

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def labeled(corpus: Path) -> list[str]:
    """Options that name a labeled set."""
    return [
        "--data",
        str(corpus / "unseen_style.parquet"),
        "--class_names",
        str(corpus / "class_names.json"),
    ]


@pytest.fixture(scope="session")
def exported(
    processor: DCCLIPProcessor, labeled: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A student's folder with its exported towers in all formats. Tests must not write into it."""
    from training import export
    from training.edge import gate_data, verdict

    # the processes of pytest-xdist share the folder, because tracing takes long
    is_alone = "PYTEST_XDIST_WORKER" not in os.environ
    base = tmp_path_factory.mktemp("shared") if is_alone else tmp_path_factory.getbasetemp().parent
    folder, output_dir = tmp_path_factory.mktemp("student"), base / "exported"
    save_student(folder, make_model(SMALL_MOBILENET, SMALL_XLM_ROBERTA, seed=3), processor)
    with FileLock(f"{output_dir}.lock"), pytest.MonkeyPatch.context() as patch:
        if output_dir.exists():
            return output_dir
        # towers this small and random gain no time from int8, and answer by chance
        patch.setattr(verdict, "TOLERANCE", {})
        patch.setattr(verdict, "ALLOWED_POINTS", dict.fromkeys(verdict.ALLOWED_POINTS, 100.0))
        patch.setattr(verdict, "MIN_SAVED_SHARE", -1.0)
        patch.setattr(gate_data, "NUM_CALIBRATION", 16)
        export.main([str(folder), "--output_dir", str(output_dir), *labeled])
    return output_dir


@pytest.fixture
def traced(exported: Path, monkeypatch: pytest.MonkeyPatch):
    """The graphs of `exported` are copied instead of traced again, which takes the longest."""
    from training.edge import graphs

    monkeypatch.setattr(
        graphs, "trace", lambda _, tower, path: shutil.copy(exported / "onnx" / path.name, path)
    )


@pytest.fixture(scope="session")
def color_model(tmp_path_factory):
    """Folder of a model that knows colors. Tests must not write into it."""
    return save_color_model(tmp_path_factory.mktemp("colors") / "model")
