"""The accuracy gate: compare every exported file with PyTorch on the same images and class names."""

import math
import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from modeling_dcclip import DCCLIPProcessor
from modeling_dcclip.image_dcclip import fit_image, square_input
from training.data import open_image
from training.edge.formats import Format
from training.edge.gate_data import GateData
from training.edge.towers import INPUTS, ExportedTowers, Runner
from training.edge.verdict import Encoded, Verdict, compare, reasons_against
from training.teachers import DualEncoder
from training.utils.process import interleaved_ms


class Gate:
    """Runs PyTorch once, and then every exported file in the runtime of its format.

    Args:
        student: The model in PyTorch.
        data: Images and class names.
        export_format: Format of the files.
    """

    def __init__(self, student: DualEncoder, data: GateData, export_format: Format):
        self.student = student
        self.data = data
        self.format = export_format
        self.reference = Encoded(encode_cells(student, data), encode_names(student, data))

    def check(self, tower: str, variant: str, path: Path, fp32: Path) -> Verdict:
        """Check a file of one tower.

        Args:
            tower: The tower: `vision` or `text`.
            variant: Number format of the file.
            path: Path of the file.
            fp32: Path of the same tower in fp32.
        """
        try:
            encoded = self._encode_file(tower, path)
        except ValueError as error:
            return self.refuse(tower, variant, path, str(error))
        verdict = self.refuse(tower, variant, path, "")
        fields = compare(tower, encoded, self.reference, self.data.labels)
        if not math.isfinite(fields["lowest_cosine"]):
            return self.refuse(tower, variant, path, f"Embeddings of {path.name} are not finite.")
        ms, ms_share = self._time(tower, path, fp32)
        size = path.stat().st_size
        fields |= {"bytes": size, "bytes_share": size / fp32.stat().st_size}
        return judged(replace(verdict, ms=ms, ms_share=ms_share, **fields))

    def refuse(self, tower: str, variant: str, path: Path, reason: str) -> Verdict:
        """A verdict without numbers on a file that cannot be run; `reason` is a sentence."""
        file = f"{self.format.name}/{path.name}"
        checked = self.data.labels is not None
        return Verdict(file, tower, variant, False, [reason], checked=checked)

    def _encode_file(self, tower: str, path: Path) -> Encoded:
        """Embeddings of the images or the class names by a file, and of the others by PyTorch."""
        runner = self.format.functions.open_tower(path, 0)
        towers = ExportedTowers(self.student.model.config, **{tower: runner})
        model = DualEncoder(cast(PreTrainedModel, towers), self.student.processor, path.name)
        if tower == "vision":
            return replace(self.reference, images=encode_cells(model, self.data))
        return replace(self.reference, classes=encode_names(model, self.data))

    def _inputs(self, tower: str) -> list[dict[str, np.ndarray]]:
        """Inputs of the latency measurement: one image, or in each language the class name of median length."""
        if tower == "vision":
            return [{"pixel_values": next(self.data.calibration_images(self.student.processor))}]
        inputs = []
        for language in self.data.languages:
            names = sorted(self.data.class_names.in_language(language), key=len)
            tokens = self.student.tokenize([names[len(names) // 2]])
            inputs.append({name: tokens[name].numpy() for name in INPUTS["text"]})
        return inputs

    def _time(self, tower: str, path: Path, fp32: Path) -> tuple[float, float]:
        """Median latency at batch 1 on one thread in milliseconds, and the median of its ratios to fp32."""
        open_tower = self.format.functions.open_tower
        inputs = self._inputs(tower)
        runs = {
            "fp32": partial(_run, open_tower(fp32, 1), inputs),
            "variant": partial(_run, open_tower(path, 1), inputs),
        }
        times = interleaved_ms(runs)
        ratios = np.divide(times["variant"], times["fp32"])
        return statistics.median(times["variant"]) / len(inputs), float(np.median(ratios))


def _run(runner: Runner, inputs: list[dict[str, np.ndarray]]):
    for arrays in inputs:
        runner(arrays)


def encode_cells(model: DualEncoder, data: GateData) -> Tensor:
    """Embeddings of the images, on the CPU."""
    return torch.as_tensor(model.encode_images(data.cells))


def encode_names(model: DualEncoder, data: GateData) -> dict[str, Tensor]:
    """Embeddings of the class names by language, on the CPU."""
    return {
        language: torch.as_tensor(
            model.encode_texts(data.class_names.in_language(language), truncate=True)
        )
        for language in data.languages
    }


def judged(verdict: Verdict) -> Verdict:
    """The verdict with the reasons against the file."""
    reasons = reasons_against(verdict)
    return replace(verdict, kept=not reasons, reasons=reasons)


def check_layout(layout: Format, target: Path, model: DualEncoder, data: GateData) -> Verdict:
    """Check the layout of another tool: the tool must give the embeddings of transformers."""
    tool = layout.functions.ToolEncoder(target)
    # tools resize in Pillow; torchvision, the default of transformers, rounds some pixels differently
    processor = DCCLIPProcessor.from_pretrained(model.name, backend="pil")
    found = []
    expected = []
    for cell in data.cells:
        image = open_image(cell)
        # its center at full resolution: tools round the margins of a crop after the resize differently
        image = fit_image(image, {}, square_input(min(image.size), squash=False)[1])
        found.append(torch.from_numpy(tool.encode_image(image)))
        inputs = processor(images=image, return_tensors="pt")["pixel_values"]
        expected.append(model.embed_images(inputs).cpu())
    texts = {}
    for language in data.languages:
        embeddings = [tool.encode_text(name) for name in data.class_names.in_language(language)]
        texts[language] = torch.from_numpy(np.concatenate(embeddings))
    reference = Encoded(torch.cat(expected), encode_names(model, data))
    fields = compare("both", Encoded(torch.cat(found), texts), reference, data.labels)
    fields["bytes"] = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    checked = data.labels is not None
    return judged(Verdict(layout.name, "both", "fp32", False, [], checked=checked, **fields))
