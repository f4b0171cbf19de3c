"""Options of an export. This module imports nothing heavy, so that `--help` answers at once."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export, and the data of the accuracy gate.

    Args:
        folder: Folder of a finished model, as `training/align.py` writes it.
        output_dir: Folder for the complete Hub repo with the exported files. It may be `folder` itself.
        format: Export format: `onnx` for ONNX Runtime and transformers.js, `executorch` or `litert` for apps, or the
            layout of another tool: `open_clip` or `immich`.
        towers: Towers to export: `vision`, `text` or `both`.
        variants: Number formats. ONNX has fp32, fp16, int8 and q4 (4 bits), ExecuTorch and LiteRT fp32 and
            int8. If none is given, all of them except q4.
        data: Labelled set for the accuracy gate: a parquet file, a folder, a Hub id or `module:function`. If none is
            given: the embedded corpus for a model of emoji, the validation split that fine-tuning left in `folder`, or
            the validation set of the model's recipe. Without any of these, accuracy is not checked and the files are
            marked as unchecked.
        class_names: Class names of `data`: a JSON list of {language: name} with English and Chinese names, one entry
            for each class, or the id of an ELEVATER set, such as cifar-100.
        calibration: Images that set the int8 ranges: any source, with the column `image_column`. If none is given,
            those of `data`. Without any, the image tower is not written in int8.
        split: Split of `data` and `calibration`.
        image_column: Column of the images in `data`.
        allow_urls: Whether images that `data` and `calibration` name by URL are fetched. Otherwise such data are
            refused.
        allow_paths: Whether image files outside the folder of the data, which the data name by path, are opened.
            Otherwise such data are refused.
        label_column: Column of the class names in `data`, in either language.
        threads: Threads of one operator during the latency measurement.
        overwrite: Replace files in `output_dir` that no export has written.
    """

    folder: str
    output_dir: str
    format: str = "onnx"
    towers: Literal["vision", "text", "both"] = "both"
    variants: list[str] | None = None
    data: str | None = None
    class_names: str | None = None
    calibration: str | None = None
    split: str = "test"
    image_column: str = "image"
    allow_urls: bool = False
    allow_paths: bool = False
    label_column: str = "label"
    threads: int = 1
    overwrite: bool = False
