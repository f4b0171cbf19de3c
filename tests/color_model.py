"""An exported model that knows colors: a real folder for the runtime, built in milliseconds and without training.

The image tower averages the four quarters of an image; the text tower sums the colors that its words name. A text so
finds the images of its color, and every expectation of a test can be computed by hand.
"""

import json
from pathlib import Path

import numpy as np
import onnx.numpy_helper
import onnx.parser
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
SIZE = 8
DIMENSION = 16
MAX_TEXT_LENGTH = 6
VISION_TOWER = """
tower (float[batch, 3, 8, 8] pixel_values) => (float[batch, 16] embeds) {
    pooled = AveragePool <kernel_shape = [4, 4], strides = [4, 4]> (pixel_values)
    flat = Flatten (pooled)
    projected = MatMul (flat, projection)
    embeds = LpNormalization <axis = -1, p = 2> (projected)
}
"""
TEXT_TOWER = """
tower (int64[batch, length] input_ids, int64[batch, length] attention_mask)
    => (float[batch, 16] embeds) {
    tokens = Gather (table, input_ids)
    mask = Cast <to = 1> (attention_mask)
    weights = Unsqueeze (mask, last)
    attended = Mul (tokens, weights)
    total = ReduceSum <keepdims = 0> (attended, second)
    embeds = LpNormalization <axis = -1, p = 2> (total)
}
"""
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
        "teacher_weights": "a commit" if teacher else None,
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
    table[1, 15] = 0.1  # an unknown word is no color
    table = np.roll(table, turn, 1)
    last = np.array([-1])
    second = np.array([1])
    text = folder / "onnx" / "text_model.onnx"
    _save_tower(text, TEXT_TOWER, table=table, last=last, second=second)
    projection = np.roll(np.eye(12, DIMENSION, dtype=np.float32), turn, 1)
    _save_tower(folder / "onnx" / "vision_model.onnx", VISION_TOWER, projection=projection)
    return folder


def _save_tower(path: Path, graph: str, **constants: np.ndarray):
    head = '<ir_version: 8, opset_import: ["" : 17], metadata_props: ["logit_scale": "10.0"]>'
    model = onnx.parser.parse_model(head + graph)
    for name, value in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    onnx.save(model, path)
