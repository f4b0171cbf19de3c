"""What a layout is: how its folder is written, and how the tool encodes images and texts from it."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image


class Encoder(Protocol):
    """A tool that encodes images and texts with its own preprocessing."""

    def encode_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Encode RGB images of any size to (N, D) float32, L2-normalised."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts of any length to (N, D) float32, L2-normalised."""
        ...


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One layout. Its functions import its packages when they are called.

    Args:
        name: Name of the layout and of its folder in the model folder.
        extra: Extra of this package that installs `packages`.
        packages: Packages that write and check the layout, by import name, with the name of their distribution.
        graphs: Whether the layout is made from the ONNX graphs of both towers.
        write: Writes the layout. Arguments: the model folder, the fp32 graphs by tower (empty without `graphs`), and
            the output folder. Raises a ValueError if the tool cannot represent the model.
        open: Opens a written layout as the tool does. Argument: the output folder of `write`.
    """

    name: str
    extra: str
    packages: dict[str, str]
    graphs: bool
    write: Callable[[Path, dict[str, Path], Path], None]
    open: Callable[[Path], Encoder]

    def check(self):
        """Check that the packages are installed.

        Raises:
            ValueError: A package is missing.
        """
        missing = [name for package, name in self.packages.items() if importlib.util.find_spec(package) is None]
        if missing:
            raise ValueError(
                f"format: {self.name!r} needs {', '.join(missing)}, which is not installed. "
                f'Run: pip install -e ".[{self.extra}]"'
            )
