"""The table of export formats.

A new format is one `Format` in `FORMATS`. Its file pattern goes to `OPTIONAL` in training/hub/folder.py, so that its
files are published. The functions of a format import its packages when they are called, so that this table works
without them.
"""

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from training.edge.layouts import LAYOUTS

if TYPE_CHECKING:
    import numpy as np

    from modeling_dcclip import DCCLIPModel
    from training.edge.exported_towers import Runner


@dataclass(frozen=True, kw_only=True)
class Format:
    """One export format.

    Args:
        name: Name of the format and of its folder in the repo.
        suffix: Suffix of the files, such as `.onnx`.
        variants: Number formats, mapped to the ending of the file name before the suffix. fp32 comes first.
        default_variants: Number formats that are exported if the user names none.
        extra: Extra of this package that installs `packages`.
        packages: Packages that this format imports.
        write: Writes one file. Arguments: the student, the tower, the number format, the path, and prepared
            calibration images (1, 3, S, S). The fp32 file is written first, to the same folder. Raises a ValueError
            if the tower cannot be exported.
        open: Opens a file on the CPU. Arguments: the path, and the threads of one operator (0 takes the default of
            the runtime). Returns a `Runner`. Raises a ValueError if this machine cannot run the file.
        join: Writes both towers to one file. Arguments: paths of image tower, text tower and output. None if the
            format has no such files.
    """

    name: str
    suffix: str
    variants: dict[str, str]
    default_variants: tuple[str, ...]
    extra: str
    packages: tuple[str, ...]
    write: "Callable[[DCCLIPModel, str, str, Path, Iterable[np.ndarray]], None]"
    open: "Callable[[Path, int], Runner]"
    join: Callable[[Path, Path, Path], None] | None = None

    def file_name(self, tower: str, variant: str) -> str:
        """Name of a file, such as `text_model_quantized.onnx`.

        Args:
            tower: The tower in the file: `vision`, `text` or `both`.
            variant: The number format.

        Returns:
            The file name.
        """
        return f"{'model' if tower == 'both' else f'{tower}_model'}{self.variants[variant]}{self.suffix}"

    def repo_path(self, path: Path) -> str:
        """Path of a file in the repo, such as `onnx/text_model.onnx`. Results and cards name files this way."""
        return f"{self.name}/{path.name}"

    def contains(self, repo_path: str) -> bool:
        """Whether a path in the repo is a file of this format."""
        return repo_path.startswith(f"{self.name}/")

    def check(self, variants: Iterable[str]):
        """Check that the number formats exist and the packages are installed.

        Args:
            variants: Number formats that the user named.

        Raises:
            ValueError: A number format does not exist, or a package is missing.
        """
        if unknown := [variant for variant in variants if variant not in self.variants]:
            raise ValueError(
                f"variants: --format {self.name} has no {', '.join(unknown)}. Expected: {', '.join(self.variants)}. "
                "Change --variants, or choose another --format."
            )
        if missing := [package for package in self.packages if importlib.util.find_spec(package) is None]:
            raise ValueError(
                f"format: {self.name!r} needs {', '.join(missing)}, which is not installed. "
                f'Run: pip install -e ".[{self.extra}]"'
            )


def find_format(name: str) -> Format:
    """The format of a name.

    Raises:
        ValueError: There is no such format.
    """
    if name not in FORMATS:
        raise ValueError(f"format: there is no format {name!r}. Expected: {', '.join((*FORMATS, *LAYOUTS))}.")
    return FORMATS[name]


def _write_onnx(student: "DCCLIPModel", tower: str, variant: str, path: Path, images: "Iterable[np.ndarray]"):
    from training.edge import graphs, variants

    if variant == "fp32":
        graphs.trace(student, tower, path)
    else:
        variants.make_variant(path.with_name(ONNX.file_name(tower, "fp32")), tower, variant, path, images)


def _join_onnx(vision: Path, text: Path, path: Path):
    from training.edge.graphs import join

    join(vision, text, path)


def _open_onnx(path: Path, threads: int) -> "Runner":
    from training.edge.sessions import open_session

    session = open_session(path, threads)
    return lambda inputs: session.run(None, inputs)[0]


def _write_executorch(student: "DCCLIPModel", tower: str, variant: str, path: Path, images: "Iterable[np.ndarray]"):
    from training.edge.programs import write_program

    write_program(student, tower, variant, path, images)


def _open_executorch(path: Path, threads: int) -> "Runner":
    from training.edge.programs import open_program

    return open_program(path, threads)


def _write_litert(student: "DCCLIPModel", tower: str, variant: str, path: Path, images: "Iterable[np.ndarray]"):
    from training.edge.litert import write_litert

    write_litert(student, tower, variant, path, images)


def _open_litert(path: Path, threads: int) -> "Runner":
    from training.edge.litert import open_litert

    return open_litert(path, threads)


ONNX = Format(
    name="onnx",
    suffix=".onnx",
    # the file names of transformers.js; its default, `q8`, is `_quantized`
    variants={"fp32": "", "fp16": "_fp16", "int8": "_quantized", "q4": "_q4"},
    default_variants=("fp32", "fp16", "int8"),
    extra="edge",
    packages=("onnx", "onnxscript", "onnxruntime"),
    write=_write_onnx,
    open=_open_onnx,
    join=_join_onnx,
)
EXECUTORCH = Format(
    name="executorch",
    suffix=".pte",
    variants={"fp32": "", "int8": "_quantized"},
    default_variants=("fp32", "int8"),
    extra="mobile",
    packages=("executorch", "torchao"),
    write=_write_executorch,
    open=_open_executorch,
)
LITERT = Format(
    name="litert",
    suffix=".tflite",
    variants={"fp32": "", "int8": "_quantized"},
    default_variants=("fp32", "int8"),
    extra="litert",
    packages=("litert_torch", "ai_edge_litert", "ai_edge_quantizer"),
    write=_write_litert,
    open=_open_litert,
)
FORMATS = {entry.name: entry for entry in (ONNX, EXECUTORCH, LITERT)}
