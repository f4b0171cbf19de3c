"""Suppress known messages of third-party libraries. All other messages are shown.

Every entry has the upstream reason. An entry that no longer matches can be deleted.
"""

import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# (category, start of the message): warnings of exporters and quantisers
EXPORT_WARNINGS: tuple[tuple[type[Warning], str], ...] = (
    # torch.export copies pytree specs through copyreg, which calls isinstance with torch's own deprecated LeafSpec
    (FutureWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated"),
    # torch.onnx has one name for dimensions of equal size; ids and mask share batch and length on purpose
    (UserWarning, r"# The axis name: .* will not be used, since it shares the same shape constraints"),
    # LiteRT's interpreter warns that ai-edge-quantizer keeps all tensors in order to measure their ranges
    (UserWarning, r"Warning: Enabling `experimental_preserve_all_tensors`"),
)
# (logger, start of the message): log records of exporters and quantisers
EXPORT_LOGS = (
    # onnxruntime.quantization logs this on the root logger for every model; its pre-processing is for graphs without
    # shapes, and ours come from torch.onnx with shapes
    ("root", r"Please consider (to run )?pre-processing before quantization"),
)
# (logger, start of the message): transformers imports torchao, which the extra `mobile` installs, with modeling_utils
TORCHAO_LOGS = (
    # torchao ships CUDA kernels for other machines in one wheel and tries to load each of them:
    # https://github.com/pytorch/ao/issues/2919
    ("torchao", r"Failed to load .*_C"),
    # torchao registers its enums as pytree constants, which current torch supports without that
    ("torch.utils._pytree", r".*Calling register_constant\(\) on Enum subclasses is deprecated"),
)
# start of a line: ExecuTorch's C++ runtime prints its search for ARM core types and the size of its thread pool
EXECUTORCH_LINES = r"\[(cpuinfo_utils|threadpool)\.cpp:\d+\]"
# LiteRT's C++ code logs at level I its delegates and the size of a graph, and at W what it cannot log before it starts
LITERT_LINES = r"(INFO: |[IW]\d{4} |WARNING: All log messages before absl)"


class _MessageFilter(logging.Filter):
    def __init__(self, pattern: str):
        super().__init__()
        self.pattern = re.compile(pattern)

    def filter(self, record: logging.LogRecord) -> bool:
        return self.pattern.match(record.getMessage()) is None


def hide_torchao_messages():
    """Suppress what torchao logs when transformers imports it. Call this before importing transformers."""
    for name, pattern in TORCHAO_LOGS:
        logging.getLogger(name).addFilter(_MessageFilter(pattern))


def hide_library_bars():
    """Disable the progress bars of transformers and datasets for this process, because commands show their own.

    Downloads keep their bars, which transformers would switch off too.
    """
    import datasets
    import transformers
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars

    were_disabled = are_progress_bars_disabled()
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    if not were_disabled:
        enable_progress_bars()


@contextmanager
def quiet_export() -> Iterator[None]:
    """Suppress the known warnings and log records of exporters and quantisers inside the block."""
    filters = [(logging.getLogger(None if name == "root" else name), _MessageFilter(p)) for name, p in EXPORT_LOGS]
    # logging.warning() configures a root logger without handlers, which would add a handler for the whole process
    placeholder = logging.NullHandler()
    logging.root.addHandler(placeholder)
    for logger, message_filter in filters:
        logger.addFilter(message_filter)
    try:
        with warnings.catch_warnings():
            for category, pattern in EXPORT_WARNINGS:
                warnings.filterwarnings("ignore", pattern, category)
            yield
    finally:
        for logger, message_filter in filters:
            logger.removeFilter(message_filter)
        logging.root.removeHandler(placeholder)


@contextmanager
def quiet_native(pattern: str) -> Iterator[None]:
    """Drop matching lines that native code writes to stderr inside the block. Other lines follow after the block.

    Args:
        pattern: Regular expression that matches the start of the lines to drop.
    """
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as capture:
        os.dup2(capture.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(original, 2)
            os.close(original)
            capture.seek(0)
            for line in capture:
                if re.match(pattern.encode(), line) is None:
                    os.write(2, line)
