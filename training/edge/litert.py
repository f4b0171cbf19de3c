"""LiteRT: write, quantise and run towers as files for Android and iOS. XNNPACK runs them on the CPU.

A file encodes one image, or one text padded to the model's longest: the converter has no dynamic shapes. LiteRT is in
an extra of its own, so the functions import it.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel
from training.edge.towers import INPUTS, OUTPUTS, Runner, TextTower, VisionTower, cannot_export

SIGNATURE = "serving_default"
# names of the outputs of pooling and L2 normalisation, which stay in float32: in int8, the lengths of the embeddings
# would differ from 1, which changes rankings
HEAD = rf"{VisionTower.__name__}_tower;\d+|{OUTPUTS['vision']}"


class _Text(nn.Module):
    """The text tower for int32 ids of any value at padding, so that an app needs no padding id."""

    def __init__(self, student: DCCLIPModel):
        super().__init__()
        self.tower = TextTower(student)
        self.pad_id = getattr(student.config.text_config, "pad_token_id", None) or 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        ids = torch.where(attention_mask == 1, input_ids, self.pad_id)
        return {OUTPUTS["text"]: self.tower(ids.long(), attention_mask.long())}


class _Vision(nn.Module):
    def __init__(self, student: DCCLIPModel):
        super().__init__()
        self.tower = VisionTower(student)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {OUTPUTS["vision"]: self.tower(pixel_values)}


def write_tower(student: DCCLIPModel, tower: str, variant: str, path: Path, images: Iterable[np.ndarray]):
    """Write one tower. The file of fp32 is written first, to the same folder, and the int8 file is made from it.

    Inputs and outputs have the names of the ONNX graphs; ids and mask are int32. Embeddings are L2-normalised.

    Args:
        student: The model, on the CPU, in eval mode and float32. It is not changed.
        tower: The tower: `vision` or `text`.
        variant: Number format: `fp32` or `int8`.
        path: Path of the file.
        images: Prepared calibration images, (1, 3, S, S) float32 each, for the int8 ranges of the image tower.

    Raises:
        ValueError: The tower cannot be converted.
    """
    try:
        if variant == "fp32":
            _convert(student, tower, path)
        else:
            _quantise(path.with_name(f"{tower}_model{path.suffix}"), tower, path, images)
    except Exception as error:  # the exceptions of exporter, converter and quantiser have no common base class
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise cannot_export(student, tower, f"converted to LiteRT in {variant}", reason) from error


def _convert(student: DCCLIPModel, tower: str, path: Path):
    import litert_torch
    from litert_torch import progress

    progress.config.show_progress = False
    config = student.config
    module: nn.Module
    if tower == "vision":
        module, examples = _Vision(student), [torch.zeros(1, 3, config.image_size, config.image_size)]
    else:
        mask = torch.ones(1, config.max_text_length, dtype=torch.int32)
        mask[0, config.max_text_length // 2 + 1 :] = 0  # without padding, the tracer would take the mask as constant
        module, examples = _Text(student), [torch.ones_like(mask), mask]
    with torch.no_grad():
        converted = litert_torch.convert(module.eval(), sample_kwargs=dict(zip(INPUTS[tower], examples, strict=True)))
    converted.export(str(path))


def _quantise(source: Path, tower: str, path: Path, images: Iterable[np.ndarray]):
    """Store weights in int8 per channel.

    Activations of the image tower have ranges measured on calibration images; its input and its last operators stay
    in float32. Activations of the text tower are quantised at run time by their own range.
    """
    from ai_edge_quantizer import algorithm_manager, calibrator, qtyping, quantizer, recipe, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    rules = recipe_manager.RecipeManager()
    rules.load_quantization_recipe(recipe.dynamic_wi8_afp32() if tower == "text" else recipe.static_wi8_ai8())
    names = qtyping.TFLOperationName
    for operators, pattern in ((names.INPUT, ".*"), (names.OUTPUT, ".*"), (names.ALL_SUPPORTED, HEAD)):
        rules.add_quantization_config(
            regex=pattern, operation_name=operators, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE
        )
    quantiser = quantizer.Quantizer(str(source), rules.get_quantization_recipe())
    ranges = None
    if quantiser.need_calibration:
        (name,) = INPUTS["vision"]
        # the quantizer's own calibration averages the ranges of the images, which cuts off a part of most images
        calibration = calibrator.Calibrator(
            str(source),
            mode=calibrator.CalibrationMode.CALIBRATION_PRESERVE_ALL_TENSORS,
            qsv_update_func=qsv_utils.min_max_update,
        )
        calibration.calibrate({SIGNATURE: [{name: image} for image in images]}, rules)
        ranges = calibration.get_model_qsvs()
    with np.errstate(invalid="ignore"):  # a row of zeros, such as the padding token's, gives 0 / 0
        quantised = quantiser.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    path.write_bytes(quantised.quantized_model)


def open_tower(path: Path, threads: int = 0) -> Runner:
    """Open a file on the CPU for any number of images or texts, which run one after another.

    Args:
        path: Path of the file.
        threads: Threads of one operator; 0 takes the default of LiteRT.

    Returns:
        A function from inputs by name to embeddings.

    Raises:
        ValueError: This machine cannot run the file.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=str(path), num_threads=threads or None)
        interpreter.allocate_tensors()
        signature = interpreter.get_signature_runner(SIGNATURE)
        details = signature.get_input_details()
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path.name}: LiteRT on this machine cannot run it ({reason}).") from error

    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        rows = []
        for parts in zip(*inputs.values(), strict=True):
            arrays = {name: _fitted(part[None], details[name]) for name, part in zip(inputs, parts, strict=True)}
            (output,) = signature(**arrays).values()
            rows.append(output.copy())
        return np.concatenate(rows)

    return run


def _fitted(array: np.ndarray, detail: dict) -> np.ndarray:
    """One image, or the ids or the mask of one text, (1, L) padded with zeros to the length of the file."""
    missing = [(0, size - length) for size, length in zip(detail["shape"], array.shape, strict=True)]
    return np.pad(array, missing).astype(detail["dtype"])
