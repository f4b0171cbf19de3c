"""Towers as ExecuTorch programs, which a native app runs: XNNPACK computes on the processor.

ExecuTorch is an extra of its own, so it is imported where it is used.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from modeling_dcclip import DCCLIPModel
from training.edge.exported_towers import Runner
from training.edge.quiet import quiet
from training.edge.towers import describe_tower, traceable

MAX_BATCH = 8  # a program plans its memory for the largest input when it is made


def lower(student: DCCLIPModel, tower: str, variant: str, path: Path, images: Iterable[np.ndarray]):
    """Write one tower as a program that takes up to `MAX_BATCH` images, or texts of any length it can read.

    Its method `forward` gives embeddings of unit length, `logit_scale` the factor on their cosines.

    Args:
        student: on the CPU, in eval mode and float32; it stays as it is.
        tower: `vision` or `text`.
        variant: `fp32` or `int8`.
        path: of the file.
        images: prepared real images (1, 3, S, S), by which the image tower's int8 ranges are set.

    Raises:
        ValueError: the tower cannot be written so.
    """
    module, example, shapes = traceable(student, tower, MAX_BATCH)
    try:
        with quiet(), torch.no_grad():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            if variant == "int8":
                from training.edge.program_int8 import to_int8

                module = to_int8(module, tower, example, shapes, images)
            program = to_edge_transform_and_lower(
                torch.export.export(module, example, dynamic_shapes=shapes),
                partitioner=[XnnpackPartitioner()],
                constant_methods={"logit_scale": student.logit_scale.exp().item()},
            ).to_executorch()
    except Exception as error:  # exporter, quantiser and backend share no base class
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        others = ", or fp32 alone with --variants fp32" if variant != "fp32" else ""
        raise ValueError(
            f"towers: the {describe_tower(student, tower)} cannot be an ExecuTorch program in {variant} ({reason}). "
            f"Export the other tower alone with --towers {'text' if tower == 'vision' else 'vision'}{others}."
        ) from error
    with path.open("wb") as file:
        program.write_to_file(file)


def open_program(path: Path, threads: int = 0) -> Runner:
    """Open a program on the CPU, for any number of images or texts: they go through in batches that it takes.

    Args:
        path: of the file.
        threads: within one operator; 0 takes as many as PyTorch. A process has one number for all its programs: one
            that was opened with another number must not be run any more.

    Raises:
        ValueError: this machine cannot run it.
    """
    with quiet():
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

    threads = threads or torch.get_num_threads()
    if portable_lib._threadpool_get_thread_count() != threads:
        portable_lib._unsafe_reset_threadpool(threads)
    try:
        program = Runtime.get().load_program(path)
        method = program.load_method("forward")
    except RuntimeError as error:
        raise ValueError(f"{path.name}: ExecuTorch on this machine cannot run it ({error}).") from error

    def run(feeds: dict[str, np.ndarray]) -> np.ndarray:
        batches = zip(*(torch.from_numpy(array).split(MAX_BATCH) for array in feeds.values()), strict=True)
        return np.concatenate([method.execute(batch)[0].numpy() for batch in batches])

    return run
