"""Immich: two ONNX graphs with fixed shapes, and the session code of its machine learning server.

The server is no package on PyPI. `ImmichEncoder` re-creates what it does with the folder (machine learning server of
September 2026): the same files and the same operations, one image or text at a time.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from PIL import Image
from tokenizers import Tokenizer

from modeling_dcclip.integrations.open_clip import preprocess_config
from training.utils.files import write_text

TEXT_INPUT, IMAGE_INPUT = "text", "image"


def write(folder: Path, graphs: dict[str, Path], output_dir: Path):
    """Write the folder that Immich's server loads.

    Args:
        folder: Finished model folder.
        graphs: Graphs in fp32 by tower, with the input names of transformers.js and L2-normalised outputs.
        output_dir: Folder to write.

    Raises:
        ValueError: Immich has no such image preprocessing, or the tokenizer has no padding token.
    """
    config, image_processor, tokenizer = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json")
    )
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


def _with_text_input(model: onnx.ModelProto, length: int, pad_id: int) -> onnx.ModelProto:
    """A text graph whose only input is `text`, (1, length) int32; the mask is 0 at padding."""
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


def _with_image_input(model: onnx.ModelProto, size: int) -> onnx.ModelProto:
    """An image graph whose input is `image`, (1, 3, size, size) float32."""
    graph = model.graph
    value = helper.make_tensor_value_info(IMAGE_INPUT, TensorProto.FLOAT, [1, 3, size, size])
    rename = helper.make_node("Identity", [IMAGE_INPUT], [graph.input[0].name])
    return _with_input(model, [value], [rename, *graph.node], list(graph.initializer))


def _with_input(model: onnx.ModelProto, inputs: list, nodes: list, initializers: list) -> onnx.ModelProto:
    """The model with other inputs, a batch of one, and no dimension left open."""
    (output,) = model.graph.output
    width = output.type.tensor_type.shape.dim[1].dim_value
    outputs = [helper.make_tensor_value_info(output.name, TensorProto.FLOAT, [1, width])]
    graph = helper.make_graph(nodes, model.graph.name, inputs, outputs, initializers)
    wrapped = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(wrapped)
    return wrapped


class ImmichEncoder:
    """The two encoders of Immich's server on the CPU, re-created from its code.

    Args:
        folder: Folder that `write` wrote: `CACHE/clip/NAME` on a server.
    """

    def __init__(self, folder: Path):
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

    def encode_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Encode RGB images of any size to (N, D) float32, as the server does."""
        inputs = ({IMAGE_INPUT: self._pixels(image)} for image in images)
        return np.stack([self.visual.run(None, each)[0][0] for each in inputs])

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts of any length to (N, D) float32, as the server does."""
        ids = (self.tokenizer.encode(" ".join(text.split())).ids for text in texts)
        return np.stack([self.textual.run(None, {TEXT_INPUT: np.array([row], np.int32)})[0][0] for row in ids])

    def _pixels(self, image: Image.Image) -> np.ndarray:
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


def _open(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
