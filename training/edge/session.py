"""A graph in ONNX Runtime, without PyTorch."""

from pathlib import Path

import onnxruntime


def open_session(path: Path, threads: int = 0) -> onnxruntime.InferenceSession:
    """Open a graph on the CPU.

    Args:
        path: Path of the file.
        threads: Threads of one operator; 0 takes all cores.

    Raises:
        ValueError: This machine cannot run the graph, for example because it has no int8 kernel.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # errors only: ONNX Runtime warns of every constant that it folds
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the exceptions of ONNX Runtime have no common base class
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{path.name}: ONNX Runtime {onnxruntime.__version__} on this machine has no kernel for it ({reason})."
        ) from error
