"""Indexing and queries of `dcclip` and `rclip`, each in processes of its own."""

import json
import os
import shutil
import statistics
import time
from dataclasses import replace
from pathlib import Path

import open_clip
import torch
from torch import nn
from torch.export import Dim

from training.studies.search.child import run, run_dcclip
from training.studies.search.options import RclipOptions
from training.studies.search.photo_files import encode_photos, write_photos
from training.utils.cli import command_of
from training.utils.files import scratch_folder
from training.utils.quiet import quiet_export
from training.utils.results import Results, Row, make_meta

ARCHITECTURE, FOLDER = "ViT-B-32-256", "ViT-B-32-256-datacomp_s34b_b86k"  # the name of rclip's own folder
SIZE, NUM_TOKENS = 256, 77
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
QUERY = "a dog in the snow"
OPSET = 18


def measure_rclip(options: RclipOptions, program: str) -> Results:
    """Index the same files with both programs, search, and write results.json.

    Args:
        options: Options of the command.
        program: Command as users type it, without options.

    Raises:
        ValueError: There is no program, or an image cannot be read.
        RuntimeError: A program failed.
    """
    if shutil.which(options.rclip) is None:
        raise ValueError(f"rclip: {options.rclip!r} is no program. Install rclip in an environment of its own.")
    version = run([options.rclip, "--version"]).output.split()[-1]
    folder = Path(options.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    command = command_of(program, replace(options, rclip=Path(options.rclip).name))  # without a path of this machine
    results = Results(make_meta(options.data, None, command, model=options.model, rclip=version))
    encoded = encode_photos(options.data, options.num_images, options.width)
    with scratch_folder(folder / ".rclip") as scratch:
        write_photos(scratch / "photos", encoded, range(options.num_images))
        write_random_model(scratch / "rclip")
        found = {"dcclip": measure_dcclip(scratch, options), "rclip": measure_other(scratch, options)}
    size = f"{options.num_images:,} files"
    for name, numbers in found.items():
        for metric, value in numbers.items():
            results.rows.append(Row(model=name, metric=metric, set=size, value=round(value, 4)))
            print(f"{name}: {metric} {value:.4g}", flush=True)
    results.write(folder)
    return results


def measure_dcclip(scratch: Path, options: RclipOptions) -> dict[str, float]:
    """Seconds of `dcclip index` with its start, and of `dcclip search`."""
    index = ["--index", str(scratch / "index")]
    finished = run_dcclip("index", str(scratch / "photos"), "--model", options.model, "--json", *index)
    if json.loads(finished.output)["embedded"] != options.num_images:
        raise RuntimeError("dcclip index did not embed all files.")
    answers = [run_dcclip("search", QUERY, *index).seconds for _ in range(options.rounds)]
    return {
        "images_per_s": options.num_images / finished.seconds,
        "query_s": statistics.median(answers),
        "model_bytes": sum(path.stat().st_size for path in _graphs(Path(options.model))),
    }


def measure_other(scratch: Path, options: RclipOptions) -> dict[str, float]:
    """The same of rclip, which indexes the working folder in front of its first query."""
    settings = {"cwd": scratch / "photos", "env": os.environ | {"RCLIP_DATADIR": str((scratch / "rclip").absolute())}}
    program = str(Path(shutil.which(options.rclip) or options.rclip).absolute())
    start = time.perf_counter()
    run([program, QUERY, "--filepath-only"], **settings)
    seconds = time.perf_counter() - start
    answers = [run([program, QUERY, "--filepath-only", "--no-indexing"], **settings) for _ in range(options.rounds)]
    query = statistics.median(answer.seconds for answer in answers)
    if len(answers[-1].output.splitlines()) != min(10, options.num_images):
        raise RuntimeError("rclip did not find the files.")
    return {
        "images_per_s": options.num_images / (seconds - query),  # the first run ends with a query
        "query_s": query,
        "model_bytes": sum(path.stat().st_size for path in (scratch / "rclip" / FOLDER).iterdir()),
    }


def write_random_model(folder: Path):
    """Write the files that rclip downloads, with random weights.

    Args:
        folder: Folder for the files.
    """
    torch.manual_seed(0)
    model = open_clip.create_model(ARCHITECTURE, pretrained=None).eval()
    (folder / FOLDER).mkdir(parents=True)
    (folder / "tokenizer").mkdir()
    shutil.copyfile(Path(open_clip.__file__).parent / VOCABULARY, folder / "tokenizer" / VOCABULARY)
    images, tokens = torch.zeros(2, 3, SIZE, SIZE), torch.ones(2, NUM_TOKENS, dtype=torch.long)
    for name, method, example in (("visual", model.encode_image, images), ("textual", model.encode_text, tokens)):
        with quiet_export():
            torch.onnx.export(
                _Tower(model, method).eval(),
                (example,),
                folder / FOLDER / f"{name}.onnx",
                dynamo=True,
                opset_version=OPSET,
                input_names=["input"],
                output_names=["output"],
                dynamic_shapes=(({0: Dim("batch")},),),
                external_data=False,
                verbose=False,
            )


class _Tower(nn.Module):
    """One method of the model as a module."""

    def __init__(self, model: nn.Module, method):
        super().__init__()
        self.model, self.method = model, method

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.method(*inputs)


def _graphs(folder: Path) -> list[Path]:
    from modeling_dcclip.runtime_dcclip import Runtime

    runtime = Runtime(folder)
    return [runtime.file(tower) for tower in ("vision", "text")]
