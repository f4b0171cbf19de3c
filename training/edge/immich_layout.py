"""The layout of Immich's machine learning server: ONNX graphs with fixed shapes, one image or text at a time.

The server is not on PyPI. The check runs the graphs as the runtime of this package prepares images and texts.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image
from tokenizers import Tokenizer

from modeling_dcclip import DCCLIPModel
from modeling_dcclip.integrations.open_clip import preprocess_config
from modeling_dcclip.runtime_dcclip import ImagePreprocessor
from training.edge.formats import TOWERS
from training.edge.graphs import trace
from training.edge.session import open_session
from training.utils.files import write_text

TEXT_INPUT, IMAGE_INPUT = "text", "image"


def write(folder: Path, student: DCCLIPModel, target: Path):
    """Write the folder that the server loads.

    Args:
        folder: Finished model folder.
        student: Its model, on the CPU, in eval mode and float32.
        target: Folder to write.

    Raises:
        ValueError: Immich has no such image preprocessing, the tokenizer has no padding token, or a tower cannot be
            traced.
    """
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
    graphs: dict[str, onnx.ModelProto] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for tower in TOWERS:
            trace(student, tower, path := Path(scratch, f"{tower}_model.onnx"))
            graphs[tower] = onnx.load(path)
    textual, visual = target / "textual", target / "visual"
    textual.mkdir(parents=True)
    visual.mkdir()
    onnx.save(_with_text_input(graphs["text"], length, pad_id), textual / "model.onnx")
    onnx.save(_with_image_input(graphs["vision"], size), visual / "model.onnx")
    shutil.copyfile(folder / "tokenizer.json", textual / "tokenizer.json")
    _write(textual / "tokenizer_config.json", {"pad_token": tokenizer["pad_token"]})
    _write(visual / "preprocess_cfg.json", preprocess)
    _write(
        target / "config.json",
        {"embed_dim": config["projection_dim"], "text_cfg": {"context_length": length}},
    )


def _write(path: Path, content: dict):
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


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
    return _with_input(model, value, [*nodes, *graph.node], [*graph.initializer, pad])


def _with_image_input(model: onnx.ModelProto, size: int) -> onnx.ModelProto:
    """An image graph whose input is `image`, (1, 3, size, size) float32."""
    graph = model.graph
    value = helper.make_tensor_value_info(IMAGE_INPUT, TensorProto.FLOAT, [1, 3, size, size])
    rename = helper.make_node("Identity", [IMAGE_INPUT], [graph.input[0].name])
    return _with_input(model, value, [rename, *graph.node], list(graph.initializer))


def _with_input(
    model: onnx.ModelProto, value: Any, nodes: list, initializers: list
) -> onnx.ModelProto:
    """The model with a new input, a batch of one and fixed shapes."""
    (output,) = model.graph.output
    width = output.type.tensor_type.shape.dim[1].dim_value
    outputs = [helper.make_tensor_value_info(output.name, TensorProto.FLOAT, [1, width])]
    graph = helper.make_graph(nodes, model.graph.name, [value], outputs, initializers)
    wrapped = helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )
    onnx.checker.check_model(wrapped)
    return wrapped


class ToolEncoder:
    """The graphs of a written folder, fed as the server feeds them.

    Args:
        target: Folder that `write` wrote: `CACHE/clip/NAME` on a server.
    """

    def __init__(self, target: Path):
        length = _read(target / "config.json")["text_cfg"]["context_length"]
        self.tokenizer = Tokenizer.from_file(str(target / "textual/tokenizer.json"))
        pad = _read(target / "textual/tokenizer_config.json")["pad_token"]
        self.tokenizer.enable_padding(
            length=length, pad_token=pad, pad_id=self.tokenizer.token_to_id(pad)
        )
        self.tokenizer.enable_truncation(max_length=length)
        preprocess = _read(target / "visual/preprocess_cfg.json")
        square = dict.fromkeys(("height", "width"), preprocess["size"])
        is_squashed = preprocess["resize_mode"] == "squash"
        self.preprocess = ImagePreprocessor(
            {
                **dict.fromkeys(("do_resize", "do_rescale", "do_normalize"), True),
                "size": square if is_squashed else {"shortest_edge": preprocess["size"]},
                "resample": Image.Resampling[preprocess["interpolation"].upper()],
                "do_center_crop": not is_squashed,
                "crop_size": square,
                "image_mean": preprocess["mean"],
                "image_std": preprocess["std"],
            }
        )
        self.textual = open_session(target / "textual/model.onnx")
        self.visual = open_session(target / "visual/model.onnx")

    def encode_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Encode RGB images of any size to (N, D) float32."""
        rows = [self.preprocess(image)[None] for image in images]
        return np.concatenate([self.visual.run(None, {IMAGE_INPUT: row})[0] for row in rows])

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts of any length to (N, D) float32."""
        rows = [np.array([self.tokenizer.encode(text).ids], np.int32) for text in texts]
        return np.concatenate([self.textual.run(None, {TEXT_INPUT: row})[0] for row in rows])
