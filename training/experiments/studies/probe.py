"""Measure one model on one backend in a process of its own, and print the values as JSON. `budget` starts it.

    python -m training.experiments.studies.probe '{"folder": ..., "backend": ..., ...}'

Nothing here imports PyTorch, so that the cold start and the memory are those of ONNX Runtime.
"""

import json
import statistics
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from training.edge.session import open_session
from training.utils.process import interleaved_ms, peak_bytes

IMAGE_MS, TEXT_MS = "ms_per_image_p50", "ms_per_text_p50"


def main(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Measure cold start, latency at batch 1, and peak memory.

    Args:
        spec: `folder`, `backend`, `threads`, `repeats`, `image_size`, `texts` as token ids by language, and `began`,
            the value of `time.monotonic()` when the process was started.

    Returns:
        `metric`, `value` and, for texts, `language` of each measurement.
    """
    vision, text = (
        open_session(Path(spec["folder"], f"{tower}-{spec['backend']}.onnx"), spec["threads"])
        for tower in ("vision", "text")
    )
    size = spec["image_size"]
    pixels = np.random.default_rng(0).standard_normal((1, 3, size, size), dtype=np.float32)

    def encode_image():
        vision.run(None, {"pixel_values": pixels})

    def encode_text(ids: list[int]):
        inputs = np.array([ids], np.int64)
        text.run(None, {"input_ids": inputs, "attention_mask": np.ones_like(inputs)})

    encode_image()
    encode_text(spec["texts"]["en"][0])
    cold_start = round(time.monotonic() - spec["began"], 3)
    measured: list[dict[str, Any]] = [{"metric": "cold_start_s", "value": cold_start}]
    measured.append({"metric": IMAGE_MS, "value": median_ms(encode_image, spec["repeats"])})
    for language, texts in spec["texts"].items():
        turns = cycle(texts)
        value = median_ms(lambda turns=turns: encode_text(next(turns)), spec["repeats"])
        measured.append({"metric": TEXT_MS, "value": value, "language": language})
    return [*measured, {"metric": "peak_bytes", "value": peak_bytes()}]


def median_ms(call: Any, repeats: int) -> float:
    """Median milliseconds of a call."""
    return round(statistics.median(interleaved_ms({"call": call}, repeats)["call"]), 3)


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
