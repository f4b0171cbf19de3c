"""Whether the image tower of a model is accurate enough in bfloat16, by the gate that exported files pass."""

import logging
from dataclasses import replace

import torch

from training.edge.formats import ExportOptions
from training.edge.gate import encode_cells, encode_names, judged
from training.edge.gate_data import GateData
from training.edge.verdict import Encoded, Verdict, compare
from training.embedding import EmbedOptions
from training.teachers import DualEncoder

log = logging.getLogger(__name__)


def passes_in_half_precision(options: EmbedOptions, device: torch.device) -> bool:
    """Whether the image tower may run in bfloat16 on a device: compared with float32, with the same text embeddings.

    The reasons against it are logged.

    Raises:
        ValueError: The labeled set of the options cannot be used.
    """
    data = GateData.from_options(
        ExportOptions(
            folder=options.model,
            output_dir=options.output_dir,
            data=options.gate_data,
            class_names=options.class_names,
        ),
        field="gate_data",
    )
    if data.labels is None:
        log.warning(
            "The weights run in float32: the folder of the model names no labeled data to check bfloat16 with. Name "
            "some: --gate_data PATH --class_names NAMES.json"
        )
        return False
    full = DualEncoder.from_pretrained(options.model, device=device)
    reference = Encoded(encode_cells(full, data), encode_names(full, data))
    half = DualEncoder.from_pretrained(options.model, ["vision"], torch.bfloat16, device)
    encoded = replace(reference, images=encode_cells(half, data))
    fields = compare("vision", encoded, reference, data.labels)
    fields |= {"bytes": half.model.get_memory_footprint(), "bytes_share": 0.5}
    verdict = judged(Verdict("bfloat16", "vision", "bfloat16", False, [], **fields))
    log.warning("%s", verdict.line() if verdict.kept else " ".join(verdict.reasons))
    return verdict.kept
