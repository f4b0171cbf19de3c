"""What a tool is: it encodes image files and texts, and ranks the images for each text."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

TOP = 10


class Encoder:
    """A model in a tool, with the image and text preparation of the tool.

    A tool that ranks by itself overrides `rank`.
    """

    def encode_images(self, paths: Sequence[str]) -> np.ndarray:
        """Encode image files to (N, D) float32, L2-normalised."""
        raise NotImplementedError

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts to (Q, D) float32, L2-normalised."""
        raise NotImplementedError

    def rank(
        self, paths: Sequence[str], images: np.ndarray, texts: Sequence[str], embeddings: np.ndarray
    ) -> np.ndarray:
        """The ten best images of each text.

        Args:
            paths: The image files.
            images: Output of `encode_images` on them, (N, D).
            texts: The queries.
            embeddings: Output of `encode_texts` on them, (Q, D).

        Returns:
            Numbers of image files, the best first, (Q, 10) int64.
        """
        return best_rows(embeddings @ images.T)


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One tool. `open` imports its packages.

    Args:
        name: Name, as in the table of model_cards/README.md.
        packages: Distributions whose versions are recorded, the tool's own first. Empty if it has none.
        modules: Modules that must be installed.
        variants: Number formats of the files that the tool runs.
        files: Files of the model folder that the tool needs, by number format.
        open: Opens the model folder. Arguments: the folder, and the number format.
    """

    name: str
    packages: tuple[str, ...]
    modules: tuple[str, ...] = ()
    variants: tuple[str, ...] = ("fp32",)
    files: dict[str, tuple[str, ...]]
    open: Callable[[Path, str], Encoder]

    def check(self, folder: Path):
        """Check that the packages are installed and the folder has the files.

        Raises:
            ValueError: A package or a file is missing.
        """
        missing = [name for name in self.modules if importlib.util.find_spec(name.partition(".")[0]) is None]
        if missing:
            raise ValueError(
                f"tools: {self.name!r} needs the module {', '.join(missing)}, which is not installed. Run "
                "python -m tests.tools --rankings --data DATA, which installs the tools, or name others with --tools."
            )
        names = dict.fromkeys(name for variant in self.variants for name in self.files.get(variant, ()))
        absent = [name for name in names if not (folder / name).exists()]
        if absent:
            raise ValueError(
                f"model: {str(folder)!r} has no {absent[0]}, which {self.name!r} runs. Write it with "
                "training/export.py, or name other tools with --tools."
            )

    def versions(self) -> dict[str, str]:
        """Versions of the packages, by distribution."""
        found = {}
        for name in self.packages:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                continue
        return found


def best_rows(scores: np.ndarray) -> np.ndarray:
    """Numbers of the ten largest scores of each row, (Q, 10); of equal ones the lower number first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :TOP]


def normalized(embeddings: Sequence | np.ndarray) -> np.ndarray:
    """Embeddings as float32 rows of unit length."""
    array = np.asarray(embeddings, np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)
