"""Write and run towers as ExecuTorch programs for native apps. XNNPACK runs them on the CPU.

ExecuTorch is in an extra of its own, so the functions import it.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from modeling_dcclip import DCCLIPModel
from training.edge.exported_towers import Runner
from training.edge.towers import describe_tower, trace_inputs
from training.utils.quiet import EXECUTORCH_LINES, quiet_export, quiet_native

MAX_BATCH = 8  # the memory of a program is planned for its largest input


def write_program(student: DCCLIPModel, tower: str, variant: str, path: Path, images: Iterable[np.ndarray]):
    """Write one tower as a program for up to `MAX_BATCH` images, or texts of any supported length.

    Its method `forward` returns L2-normalised embeddings, and `logit_scale` the factor that turns cosines into logits.

    Args:
        student: The model, on the CPU, in eval mode and float32. It is not changed.
        tower: The tower: `vision` or `text`.
        variant: Number format: `fp32` or `int8`.
        path: Path of the program.
        images: Prepared calibration images, (1, 3, S, S) float32 each, for the int8 ranges of the image tower.

    Raises:
        ValueError: The tower cannot be lowered.
    """
    module, example, shapes = trace_inputs(student, tower, MAX_BATCH)
    try:
        with quiet_export(), torch.no_grad():
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
    except Exception as error:  # the exceptions of exporter, quantiser and backend have no common base class
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        fp32_only = ", or only fp32 with --variants fp32" if variant != "fp32" else ""
        raise ValueError(
            f"towers: the {describe_tower(student, tower)} cannot be lowered to an ExecuTorch program in {variant} "
            f"({reason}). Export only the other tower with --towers {'text' if tower == 'vision' else 'vision'}"
            f"{fp32_only}."
        ) from error
    with path.open("wb") as file:
        program.write_to_file(file)


def open_program(path: Path, threads: int = 0) -> Runner:
    """Open a program on the CPU for any number of images or texts. Larger inputs are split into batches.

    Args:
        path: Path of the program.
        threads: Threads of one operator; 0 takes the number of PyTorch. The number applies to the whole process: a
            program that was opened with another number must not be run any more.

    Returns:
        A function from inputs by name to embeddings.

    Raises:
        ValueError: This machine cannot run the program.
    """
    with quiet_export(), quiet_native(EXECUTORCH_LINES):
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

    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        batches = zip(*(torch.from_numpy(array).split(MAX_BATCH) for array in inputs.values()), strict=True)
        return np.concatenate([method.execute(batch)[0].numpy() for batch in batches])

    return run
