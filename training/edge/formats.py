"""Options of an export, and the table of export formats.

A new format is one `Format` in `FORMATS`. If its files are to be published, their suffix is in `EXPORTS` of
training/hub/files.py. The module of a format is imported when it is used, so that `--help` works without its packages.
"""

import importlib.metadata
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Literal

TOWERS = ("vision", "text")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export, and the data of the accuracy gate.

    Args:
        folder: Folder of a finished model, as `training/align.py` writes it.
        output_dir: Folder for the complete Hub repo with the exported files. It may be `folder` itself.
        format: Export format: `onnx` for ONNX Runtime and transformers.js, `executorch` for apps, or the layout of
            another tool: `open_clip`.
        towers: Towers to export: `vision`, `text` or `both`.
        variants: Number formats, `fp32` and `int8`. Default: all of the format.
        data: Labeled set for the accuracy gate: a parquet file, a folder, a Hub id or `module:function`. Default: the
            validation split that fine-tuning left in `folder`, or the validation set of its recipe. Without these,
            accuracy is not checked and the files are marked as unchecked.
        class_names: Class names of `data`: a JSON list of {language: name} with English and Chinese names, one entry
            for each class, or the id of an ELEVATER set, such as cifar-100.
        calibration: Images that set the int8 ranges: any source, with the column `image_column`. Default: the images
            of `data`. Without any, the image tower is not written in int8.
        split: Split of `data` and `calibration`. Default: test, if they have splits.
        image_column: Column of the images. Default: the first usual name that exists.
        allow_paths: Whether image files outside the folder of the data, which the data name by path, are opened.
            Otherwise such data are refused.
        label_column: Column of the class names in `data`, in either language. Default: the first usual name whose
            labels are class names.
        overwrite: Replace files in `output_dir` that an export did not write.
    """

    folder: str
    output_dir: str
    format: str = "onnx"
    towers: Literal["vision", "text", "both"] = "both"
    variants: list[str] | None = None
    data: str | None = None
    class_names: str | None = None
    calibration: str | None = None
    split: str | None = None
    image_column: str | None = None
    allow_paths: bool = False
    label_column: str | None = None
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class Format:
    """One export format.

    The module of a format of files has two functions. `write_tower(student, tower, variant, path, images)` writes one
    file; `images` are prepared calibration images (1, 3, S, S), and the fp32 file is written first, to the same
    folder. `open_tower(path, threads)` opens a file on the CPU and returns a `Runner`; 0 threads take the default of
    the runtime. Both raise a ValueError for what they cannot write or run.

    The module of a layout, a folder with both towers that another tool loads, has `write(folder, target)` and the
    class `ToolEncoder(target)`. Its methods `encode_image` (an RGB image of any size) and `encode_text`
    return a (1, D) float32 embedding, L2-normalized.

    Args:
        name: Name of the format and of its folder in the repo.
        module: Module with the functions.
        packages: Packages that this format imports, by their names on PyPI.
        extra: Extra of this package that installs `packages`.
        suffix: Suffix of the files, such as `.onnx`; empty for a layout.
        variants: Number formats, mapped to the ending of the file name before the suffix. fp32 comes first.
        tags: Tools that load the files, as tags of the Hub.
        use: Sentence of the model card about the files.
    """

    name: str
    module: str
    packages: tuple[str, ...]
    extra: str = "edge"
    suffix: str = ""
    variants: dict[str, str] = field(default_factory=lambda: {"fp32": ""})
    tags: tuple[str, ...] = ()
    use: str = ""

    @property
    def functions(self) -> ModuleType:
        """The module."""
        return import_module(self.module)

    def file_name(self, tower: str, variant: str) -> str:
        """Name of the file of a tower, such as `text_model_quantized.onnx`."""
        return f"{tower}_model{self.variants[variant]}{self.suffix}"

    def files(self) -> list[str]:
        """Paths in the repo of all files that an export may write; the folder of a layout."""
        if not self.suffix:
            return [self.name]
        return [
            f"{self.name}/{self.file_name(tower, variant)}"
            for tower in TOWERS
            for variant in self.variants
        ]

    def check(self, options: ExportOptions):
        """Check that the number formats exist and the packages are installed.

        Raises:
            ValueError: A number format does not exist, or a layout is exported in parts.
            ModuleNotFoundError: A package is missing.
        """
        parts = "" if self.suffix else " of both towers together"
        is_part = not self.suffix and options.towers != "both"
        if is_part or not {*(options.variants or ())} <= {*self.variants}:
            raise ValueError(
                f"format: {self.name} has {', '.join(self.variants)}{parts}. Change --variants or --towers, or choose "
                "another --format."
            )
        self.versions()

    def versions(self) -> dict[str, str]:
        """Version of each package, for results."""
        return {name: importlib.metadata.version(name) for name in self.packages}


FORMATS = {
    entry.name: entry
    for entry in (
        Format(
            name="onnx",
            module="training.edge.graphs",
            packages=("onnx", "onnxscript", "onnxruntime"),
            suffix=".onnx",
            variants={"fp32": "", "int8": "_quantized"},  # the file names of transformers.js
            # transformers.js loads each tower; its tag would offer the pipeline, which takes one file of both
            tags=("onnx",),
            use="`onnx/` is for ONNX Runtime and transformers.js; `runtime_dcclip.py` runs these files without "
            "PyTorch.",
        ),
        Format(
            name="executorch",
            module="training.edge.programs",
            extra="mobile",
            packages=("executorch", "torchao"),
            suffix=".pte",
            variants={"fp32": "", "int8": "_quantized"},
            tags=("executorch",),
            use="`executorch/` is for native apps: ExecuTorch with XNNPACK, up to eight images or texts at once.",
        ),
        Format(
            name="open_clip",
            module="training.edge.open_clip_layout",
            packages=("open-clip-torch", "timm"),
        ),
    )
}


def find_format(name: str) -> Format:
    """The format of a name.

    Raises:
        ValueError: The format does not exist.
    """
    if name not in FORMATS:
        raise ValueError(f"format: {name!r} does not exist. Expected: {', '.join(FORMATS)}.")
    return FORMATS[name]
