"""What a tower is exported to: how its files are named, written and run in each format."""

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modeling_dcclip import DCCLIPModel
from training.edge.exported_towers import Runner
from training.edge.graphs import trace
from training.edge.programs import lower, open_program
from training.edge.sessions import open_session
from training.edge.variants import make_variant


@dataclass(frozen=True)
class Format:
    """One format.

    Args:
        name: also of the folder.
        ending: of its files.
        suffixes: of its files, before the ending, by number format; fp32 first.
        usual: number formats that are made where none are named.
        extra: of this package, which installs what it needs.
        packages: these.
        joins: whether both towers also come in one file.
        write: (student, tower, number format, file, prepared real images (1, 3, S, S)), which writes the file; fp32
            is written first and lies beside it. Raises ValueError where the tower cannot be written so.
        open: (file, threads within one operator, 0 for what the runtime takes of itself), which opens it for the CPU.
            Raises ValueError where this machine cannot run it.
    """

    name: str
    ending: str
    suffixes: dict[str, str]
    usual: tuple[str, ...]
    extra: str
    packages: tuple[str, ...]
    joins: bool
    write: Callable[[DCCLIPModel, str, str, Path, Iterable[np.ndarray]], None]
    open: Callable[[Path, int], Runner]

    def file_name(self, tower: str, variant: str) -> str:
        """Of a tower, or of `both`, such as `text_model_quantized.onnx`."""
        return f"{'model' if tower == 'both' else f'{tower}_model'}{self.suffixes[variant]}{self.ending}"

    def file(self, path: Path) -> str:
        """What results and cards call a file, such as `onnx/text_model.onnx`."""
        return f"{self.name}/{path.name}"

    def owns(self, file: str) -> bool:
        """Whether that is the name of a file of this format."""
        return file.startswith(f"{self.name}/")

    def check(self, wanted: Iterable[str]):
        """Look before the work whether it can be done.

        Args:
            wanted: number formats.

        Raises:
            ValueError: it has no such number format, or a package is missing.
        """
        if unknown := [variant for variant in wanted if variant not in self.suffixes]:
            raise ValueError(
                f"variants: {', '.join(unknown)} cannot be had with --format {self.name}, only "
                f"{', '.join(self.suffixes)}. Name these in --variants, or choose another --format."
            )
        if missing := [package for package in self.packages if importlib.util.find_spec(package) is None]:
            raise ValueError(
                f"format: {self.name!r} needs {', '.join(missing)}, which is not installed: "
                f'pip install -e ".[{self.extra}]".'
            )


def _write_graph(student: DCCLIPModel, tower: str, variant: str, path: Path, images: Iterable[np.ndarray]):
    if variant == "fp32":
        trace(student, tower, path)
    else:
        make_variant(path.with_name(ONNX.file_name(tower, "fp32")), tower, variant, path, images)


def _open_graph(path: Path, threads: int) -> Runner:
    session = open_session(path, threads)
    return lambda feeds: session.run(None, feeds)[0]


ONNX = Format(
    name="onnx",
    ending=".onnx",
    # as transformers.js completes names; `q8`, its default, is `_quantized`
    suffixes={"fp32": "", "fp16": "_fp16", "int8": "_quantized", "q4": "_q4"},
    usual=("fp32", "fp16", "int8"),
    extra="edge",
    packages=("onnx", "onnxscript", "onnxruntime"),
    joins=True,
    write=_write_graph,
    open=_open_graph,
)
EXECUTORCH = Format(
    name="executorch",
    ending=".pte",
    suffixes={"fp32": "", "int8": "_quantized"},
    usual=("fp32", "int8"),
    extra="mobile",
    packages=("executorch", "torchao"),
    joins=False,
    write=lower,
    open=open_program,
)
FORMATS = {each.name: each for each in (ONNX, EXECUTORCH)}
