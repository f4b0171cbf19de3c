"""The layout of Immich's machine learning server: ONNX graphs with fixed shapes, one image or text at a time.

The server is not on PyPI. The check runs the graphs as the runtime of this package prepares images and texts.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from modeling_dcclip import DCCLIPModel
from modeling_dcclip.integrations.open_clip import preprocess_config
from modeling_dcclip.runtime_dcclip import ImagePreprocessor
from training.edge.graphs import write_graph
from training.edge.session import open_session
from training.edge.towers import TextTower, VisionTower
from training.utils.files import write_json
from training.utils.reading import read_mapping

TEXT_INPUT = "text"
IMAGE_INPUT = "image"


class _PaddedTextTower(TextTower):
    """A text tower whose only input are int32 token ids; its mask is 0 at padding."""

    def __init__(self, student: DCCLIPModel, pad_id: int):
        super().__init__(student)
        self.pad_id = pad_id

    def forward(self, text: Tensor) -> Tensor:  # type: ignore[override]
        ids = text.long()
        return super().forward(ids, (ids != self.pad_id).long())


def write(folder: Path, student: DCCLIPModel, target: Path):
    """Write the folder that the server loads.

    Args:
        folder: Finished model folder.
        student: Its model, on the CPU, in eval mode and float32.
        target: Folder to write.

    Raises:
        ValueError: Immich has no such image preprocessing, or a tower cannot be traced.
    """
    config = read_mapping(folder / "config.json", "folder")
    size = config["image_size"]
    length = config["max_text_length"]
    image_processor = read_mapping(folder / "preprocessor_config.json", "folder")
    preprocess = preprocess_config(image_processor, size)
    pad = read_mapping(folder / "tokenizer_config.json", "folder")["pad_token"]
    pad_id = int(config["text_config"]["pad_token_id"])
    textual = target / "textual"
    visual = target / "visual"
    textual.mkdir(parents=True)
    visual.mkdir()
    tokens = torch.full((1, length), pad_id + 1, dtype=torch.int32)
    images = torch.zeros(1, 3, size, size)
    text_path = textual / "model.onnx"
    image_path = visual / "model.onnx"
    write_graph(_PaddedTextTower(student, pad_id), "text", (tokens,), None, text_path, [TEXT_INPUT])
    write_graph(VisionTower(student), "vision", (images,), None, image_path, [IMAGE_INPUT])
    shutil.copyfile(folder / "tokenizer.json", textual / "tokenizer.json")
    write_json(textual / "tokenizer_config.json", {"pad_token": pad})
    write_json(visual / "preprocess_cfg.json", preprocess)
    write_json(
        target / "config.json",
        {"embed_dim": config["projection_dim"], "text_cfg": {"context_length": length}},
    )


class ToolEncoder:
    """The graphs of a written folder, with images and texts as this package prepares them.

    Args:
        target: Folder that `write` wrote: `CACHE/clip/NAME` on a server.
        folder: Folder of the model.
    """

    def __init__(self, target: Path, folder: Path):
        self.preprocess = ImagePreprocessor(
            read_mapping(folder / "preprocessor_config.json", "folder")
        )
        self.tokenizer = Tokenizer.from_file(str(target / "textual/tokenizer.json"))
        length = read_mapping(target / "config.json", "folder")["text_cfg"]["context_length"]
        pad = read_mapping(target / "textual/tokenizer_config.json", "folder")["pad_token"]
        pad_id = self.tokenizer.token_to_id(pad)
        self.tokenizer.enable_padding(length=length, pad_token=pad, pad_id=pad_id)
        self.tokenizer.enable_truncation(max_length=length)
        self.textual = open_session(target / "textual/model.onnx")
        self.visual = open_session(target / "visual/model.onnx")

    def encode_image(self, image: Image.Image) -> np.ndarray:
        """Encode an RGB image of any size to (1, D) float32."""
        return self.visual.run(None, {IMAGE_INPUT: self.preprocess(image)[None]})[0]

    def encode_text(self, text: str) -> np.ndarray:
        """Encode a text of any length to (1, D) float32."""
        ids = np.array([self.tokenizer.encode(text).ids], np.int32)
        return self.textual.run(None, {TEXT_INPUT: ids})[0]
