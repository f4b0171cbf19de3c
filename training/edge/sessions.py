"""A graph in ONNX Runtime. Nothing here imports PyTorch, so that who measures ONNX Runtime alone can use it."""

from pathlib import Path

import onnxruntime


def open_session(path: Path, threads: int = 0) -> onnxruntime.InferenceSession:
    """Open a graph on the CPU.

    Args:
        path: of the file.
        threads: within one operator; 0 takes all cores.

    Raises:
        ValueError: this machine cannot run it, such as for want of an int8 kernel.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; it warns of every constant that it folds
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own kinds share no base class
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{path.name}: ONNX Runtime {onnxruntime.__version__} on this machine has no kernel for it ({reason})."
        ) from error
