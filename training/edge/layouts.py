"""Model folders in the layouts of other tools. A new layout is one entry of `LAYOUTS`.

Tools that load the model folder itself need no layout. The packages of a layout are imported when its functions are
called, because the command line lists the layouts without them.
"""

import importlib.util
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training.utils.files import write_text

if TYPE_CHECKING:
    import onnx
    from PIL import Image

EXTRA = "edge"
TEXT_INPUT, IMAGE_INPUT = "text", "image"
BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One layout.

    Args:
        name: Name of the layout and of its folder in the model folder.
        packages: Packages that write and check the layout: import names, mapped to names on PyPI.
        graphs: Whether the layout is made from the ONNX graphs of both towers.
        write: Writes the layout. Arguments: the model folder, the fp32 graphs by tower (empty without `graphs`), and
            the output folder. Raises a ValueError if the tool cannot represent the model.
        open: Opens a written layout as the tool does: an object with `encode_images` (RGB images of any size) and
            `encode_texts`, which return (N, D) float32, L2-normalised.
    """

    name: str
    packages: dict[str, str]
    graphs: bool
    write: Callable[[Path, dict[str, Path], Path], None]
    open: Callable[[Path], Any]

    def check(self):
        """Check that the packages are installed.

        Raises:
            ValueError: A package is missing.
        """
        missing = [name for package, name in self.packages.items() if importlib.util.find_spec(package) is None]
        if missing:
            raise ValueError(
                f"format: {self.name!r} needs {', '.join(missing)}, which is not installed. "
                f'Run: pip install -e ".[{EXTRA}]"'
            )


def write_open_clip(folder: Path, graphs: dict[str, Path], output_dir: Path):
    """Convert a model folder to the layout of open_clip; see `Layout.write`."""
    from modeling_dcclip.integrations.open_clip import convert

    convert(folder, output_dir)


class OpenClipEncoder:
    """A converted model in open_clip, with open_clip's image transform and tokenizer.

    Args:
        folder: Folder of the converted model.
    """

    def __init__(self, folder: Path):
        import open_clip

        name = f"local-dir:{folder}"
        self.model, _, self.transform = open_clip.create_model_and_transforms(name)
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(name)

    def encode_images(self, images: "Sequence[Image.Image]") -> np.ndarray:
        """Encode RGB images of any size to (N, D) float32, L2-normalised."""
        import torch

        parts = [images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE)]
        batches = (torch.stack([self.transform(image) for image in part]) for part in parts)
        with torch.inference_mode():
            return torch.cat([self.model.encode_image(batch, normalize=True) for batch in batches]).numpy()

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts of any length to (N, D) float32, L2-normalised."""
        import torch

        parts = [list(texts[start : start + BATCH_SIZE]) for start in range(0, len(texts), BATCH_SIZE)]
        with torch.inference_mode():
            return torch.cat([self.model.encode_text(self.tokenizer(part), normalize=True) for part in parts]).numpy()


def write_immich(folder: Path, graphs: dict[str, Path], output_dir: Path):
    """Write the folder that Immich's machine learning server loads: ONNX graphs with fixed shapes.

    Args:
        folder: Finished model folder.
        graphs: Graphs in fp32 by tower, with the input names of transformers.js and L2-normalised outputs.
        output_dir: Folder to write.

    Raises:
        ValueError: Immich has no such image preprocessing, or the tokenizer has no padding token.
    """
    import onnx
    from tokenizers import Tokenizer

    from modeling_dcclip.integrations.open_clip import preprocess_config

    names = ("config.json", "preprocessor_config.json", "tokenizer_config.json")
    config, image_processor, tokenizer = (_read(folder / name) for name in names)
    size, length = config["image_size"], config["max_text_length"]
    preprocess = preprocess_config(image_processor, size)
    pad_id = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(tokenizer["pad_token"])
    if pad_id is None:
        raise ValueError(
            f"tokenizer.json: has no token {tokenizer['pad_token']!r}, the pad_token of tokenizer_config.json. Save "
            "the processor again."
        )
    textual, visual = output_dir / "textual", output_dir / "visual"
    textual.mkdir(parents=True)
    visual.mkdir()
    onnx.save(_with_text_input(onnx.load(graphs["text"]), length, pad_id), textual / "model.onnx")
    onnx.save(_with_image_input(onnx.load(graphs["vision"]), size), visual / "model.onnx")
    shutil.copyfile(folder / "tokenizer.json", textual / "tokenizer.json")
    _write(textual / "tokenizer_config.json", {"pad_token": tokenizer["pad_token"]})
    _write(visual / "preprocess_cfg.json", preprocess)
    width = config.get("truncate_dim") or config["projection_dim"]
    _write(output_dir / "config.json", {"embed_dim": width, "text_cfg": {"context_length": length}})


def _write(path: Path, content: dict):
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def _with_text_input(model: "onnx.ModelProto", length: int, pad_id: int) -> "onnx.ModelProto":
    """A text graph whose only input is `text`, (1, length) int32; the mask is 0 at padding."""
    from onnx import TensorProto, helper

    graph = model.graph
    pad = helper.make_tensor("pad_id", TensorProto.INT64, [], [pad_id])
    nodes = [
        helper.make_node("Cast", [TEXT_INPUT], ["input_ids"], to=TensorProto.INT64),
        helper.make_node("Equal", ["input_ids", "pad_id"], ["is_pad"]),
        helper.make_node("Not", ["is_pad"], ["is_text"]),
        helper.make_node("Cast", ["is_text"], ["attention_mask"], to=TensorProto.INT64),
    ]
    value = helper.make_tensor_value_info(TEXT_INPUT, TensorProto.INT32, [1, length])
    return _with_input(model, [value], [*nodes, *graph.node], [*graph.initializer, pad])


def _with_image_input(model: "onnx.ModelProto", size: int) -> "onnx.ModelProto":
    """An image graph whose input is `image`, (1, 3, size, size) float32."""
    from onnx import TensorProto, helper

    graph = model.graph
    value = helper.make_tensor_value_info(IMAGE_INPUT, TensorProto.FLOAT, [1, 3, size, size])
    rename = helper.make_node("Identity", [IMAGE_INPUT], [graph.input[0].name])
    return _with_input(model, [value], [rename, *graph.node], list(graph.initializer))


def _with_input(model: "onnx.ModelProto", inputs: list, nodes: list, initializers: list) -> "onnx.ModelProto":
    """The model with new inputs, a batch of one and fixed shapes."""
    import onnx
    from onnx import TensorProto, helper

    (output,) = model.graph.output
    width = output.type.tensor_type.shape.dim[1].dim_value
    outputs = [helper.make_tensor_value_info(output.name, TensorProto.FLOAT, [1, width])]
    graph = helper.make_graph(nodes, model.graph.name, inputs, outputs, initializers)
    wrapped = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(wrapped)
    return wrapped


class ImmichEncoder:
    """The encoders of Immich's machine learning server (September 2026) on the CPU.

    The server is not on PyPI. This class re-creates its image and text preprocessing, one image or text at a time.

    Args:
        folder: Folder that `write` wrote: `CACHE/clip/NAME` on a server.
    """

    def __init__(self, folder: Path):
        from PIL import Image
        from tokenizers import Tokenizer

        text_config = _read(folder / "config.json")["text_cfg"]
        length, pad_token = text_config.get("context_length", 77), _read(folder / "textual/tokenizer_config.json")
        self.tokenizer = Tokenizer.from_file(str(folder / "textual/tokenizer.json"))
        pad = pad_token["pad_token"]
        self.tokenizer.enable_padding(length=length, pad_token=pad, pad_id=self.tokenizer.token_to_id(pad))
        self.tokenizer.enable_truncation(max_length=length)
        preprocess = _read(folder / "visual/preprocess_cfg.json")
        self.size, self.mode = preprocess["size"], preprocess.get("resize_mode", "shortest")
        self.resampling = Image.Resampling[preprocess["interpolation"].upper()]
        self.mean, self.std = (np.array(preprocess[name], np.float32) for name in ("mean", "std"))
        self.textual, self.visual = (_open(folder / tower / "model.onnx") for tower in ("textual", "visual"))

    def encode_images(self, images: "Sequence[Image.Image]") -> np.ndarray:
        """Encode RGB images of any size to (N, D) float32, as the server does."""
        inputs = ({IMAGE_INPUT: self._pixels(image)} for image in images)
        return np.stack([self.visual.run(None, each)[0][0] for each in inputs])

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts of any length to (N, D) float32, as the server does."""
        ids = (self.tokenizer.encode(" ".join(text.split())).ids for text in texts)
        return np.stack([self.textual.run(None, {TEXT_INPUT: np.array([row], np.int32)})[0][0] for row in ids])

    def _pixels(self, image: "Image.Image") -> np.ndarray:
        width, height = image.size
        if self.mode == "squash":
            image = image.resize((self.size, self.size), self.resampling)
        else:
            short = min(width, height)
            image = image.resize((int(width / short * self.size), int(height / short * self.size)), self.resampling)
            left, top = (int(edge / 2 - self.size / 2) for edge in image.size)
            image = image.crop((left, top, left + self.size, top + self.size))
        pixels = np.asarray(image.convert("RGB"), np.float32) / 255
        return ((pixels - self.mean) / self.std).transpose(2, 0, 1)[None]


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _open(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            name="open_clip",
            packages={"open_clip": "open-clip-torch", "timm": "timm", "transformers": "transformers"},
            graphs=False,
            write=write_open_clip,
            open=OpenClipEncoder,
        ),
        Layout(
            name="immich",
            packages={"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"},
            graphs=True,
            write=write_immich,
            open=ImmichEncoder,
        ),
    )
}
