"""Tools that talk of their own affairs, kept quiet."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back warnings and whatever is logged below an error, on which nobody here can act: the exporter's on its
    own deprecations, the quantisers' on every node that they leave alone.
    """
    root, before = logging.getLogger(), logging.root.manager.disable
    # a quantiser configures the root logger when it is imported, unless that has a handler
    placeholder = logging.NullHandler()
    root.addHandler(placeholder)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        root.removeHandler(placeholder)
