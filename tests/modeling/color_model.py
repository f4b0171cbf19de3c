"""An exported model that knows colours: a real folder for the runtime, built in milliseconds and without training.

The image tower averages the four quarters of an image; the text tower sums the colours that its words name. A text so
finds the images of its colour, and every expectation of a test can be computed by hand.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

COLORS = {
    "red": (1, -1, -1),
    "green": (-1, 1, -1),
    "blue": (-1, -1, 1),
    "yellow": (1, 1, -1),
    "white": (1, 1, 1),
}
CHINESE = dict(zip("红绿蓝黄白", COLORS, strict=True))
SIZE, DIMENSION, MAX_TEXT_LENGTH = 8, 16, 6
PREPROCESSING = {
    "do_resize": True,
    "size": {"height": SIZE, "width": SIZE},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}


def save_color_model(
    folder: Path,
    teacher: str | None = None,
    turn: int = 0,
    rotated: bool = False,
    teacher_weights: str | None = None,
) -> Path:
    """Write the model folder, with embeddings rotated by `turn` dimensions: a different number, a different space.

    If `rotated`, the folder states this rotation, as a student that was trained with prefixes does.
    """
    (folder / "onnx").mkdir(parents=True)
    config = {
        "max_text_length": MAX_TEXT_LENGTH,
        "projection_dim": DIMENSION,
        "text_config": {"pad_token_id": 0},
        "languages": ["zh", "en"],
        "teacher": teacher,
        "teacher_weights": teacher_weights,
    }
    if rotated:
        config["rotation"] = f"turn {turn}"
        save_file(
            {"a": np.zeros(3), "rotation": np.roll(np.eye(DIMENSION, dtype=np.float16), turn, 1)},
            folder / "model.safetensors",
        )
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING))
    words = ["[PAD]", "[UNK]", *COLORS, *CHINESE]
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, "[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    values = [COLORS.get(CHINESE.get(word, word), (0, 0, 0)) for word in words]
    table = np.zeros((len(words), DIMENSION), np.float32)
    table[:, :12] = np.repeat(
        np.array(values, np.float32), 4, axis=1
    )  # each channel in each quarter
    table[1, 15] = 0.1  # an unknown word is no colour
    onnx.save(_text_tower(np.roll(table, turn, 1)), folder / "onnx" / "text_model.onnx")
    projection = np.roll(np.eye(12, DIMENSION, dtype=np.float32), turn, 1)
    onnx.save(_vision_tower(projection), folder / "onnx" / "vision_model.onnx")
    return folder


def _vision_tower(projection: np.ndarray) -> onnx.ModelProto:
    half = SIZE // 2
    nodes = [
        helper.make_node(
            "AveragePool", ["pixel_values"], ["pooled"], kernel_shape=[half] * 2, strides=[half] * 2
        ),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "projection"], ["projected"]),
        helper.make_node("LpNormalization", ["projected"], ["embeds"], axis=-1, p=2),
    ]
    pixels = helper.make_tensor_value_info(
        "pixel_values", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE]
    )
    return _model(nodes, [pixels], {"projection": projection})


def _text_tower(table: np.ndarray) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["tokens"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["weights"]),
        helper.make_node("Mul", ["tokens", "weights"], ["attended"]),
        helper.make_node("ReduceSum", ["attended", "second"], ["total"], keepdims=0),
        helper.make_node("LpNormalization", ["total"], ["embeds"], axis=-1, p=2),
    ]
    shape = ["batch", "length"]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, shape)
        for name in ("input_ids", "attention_mask")
    ]
    return _model(nodes, inputs, {"table": table, "last": np.array([-1]), "second": np.array([1])})


def _model(
    nodes: Sequence[onnx.NodeProto], inputs: Sequence, constants: dict[str, np.ndarray]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "tower",
        inputs,
        [helper.make_tensor_value_info("embeds", TensorProto.FLOAT, ["batch", DIMENSION])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.metadata_props.add(key="logit_scale", value="10.0")
    return model
