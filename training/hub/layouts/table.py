"""The table of layouts."""

from pathlib import Path

from training.hub.layouts.layout import Encoder, Layout


def _write_open_clip(folder: Path, graphs: dict[str, Path], output_dir: Path):
    from training.hub.layouts.open_clip import write

    write(folder, graphs, output_dir)


def _open_open_clip(folder: Path) -> Encoder:
    from training.hub.layouts.open_clip import OpenClipEncoder

    return OpenClipEncoder(folder)


def _write_immich(folder: Path, graphs: dict[str, Path], output_dir: Path):
    from training.hub.layouts.immich import write

    write(folder, graphs, output_dir)


def _open_immich(folder: Path) -> Encoder:
    from training.hub.layouts.immich import ImmichEncoder

    return ImmichEncoder(folder)


OPEN_CLIP = Layout(
    name="open_clip",
    extra="layouts",
    packages={"open_clip": "open-clip-torch", "timm": "timm", "transformers": "transformers"},
    graphs=False,
    write=_write_open_clip,
    open=_open_open_clip,
)
IMMICH = Layout(
    name="immich",
    extra="layouts",
    packages={"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"},
    graphs=True,
    write=_write_immich,
    open=_open_immich,
)
LAYOUTS = {entry.name: entry for entry in (OPEN_CLIP, IMMICH)}
