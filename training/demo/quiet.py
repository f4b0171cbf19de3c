"""Silence log messages of other packages that a user cannot act on."""

import logging

# transformers imports torchao if it is installed, as by ExecuTorch. Without a GPU, torchao then logs that its CUDA
# libraries do not load, and torch logs that torchao registers enums in a deprecated way.
LOGGERS = ("torchao", "torch.utils._pytree")


def silence_libraries():
    """Raise the log level of these packages to ERROR. Call it before importing torch or transformers."""
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


def silence_progress_bars():
    """Disable the progress bars of transformers and datasets, next to which the demo shows its own."""
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
