"""The embedding space of a model: who may search an index, and who may add to it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .runtime_dcclip import Runtime

WEIGHTS = "model*.safetensors"
# fields of preprocessor_config.json that change pixels
PREPROCESSING = (
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)


@dataclass(frozen=True)
class Space:
    """Embedding space of a model, as the manifest of an index stores it.

    Args:
        model: Hub id of the model, or its folder.
        weights: Fingerprint of its weights, 16 hexadecimal digits.
        teacher: Hub id or folder of the teacher whose space it has; None if it has no teacher.
        dimension: Number of dimensions D of the embeddings.
        preprocessing: Content of preprocessor_config.json.
        rotation: Digest of the rotation from the teacher's space to this one; None if they are the same.
        projection_dim: Number of dimensions before the embeddings were truncated. None: they were not.
    """

    model: str
    weights: str
    teacher: str | None
    dimension: int
    preprocessing: Mapping[str, Any]
    rotation: str | None = None
    projection_dim: int | None = None

    @classmethod
    def of(cls, runtime: "Runtime", model: str | None = None) -> "Space":
        """Space of an exported model.

        Args:
            runtime: The model.
            model: Hub id of the model. Default: its folder.
        """
        return cls(
            model or str(runtime.folder.absolute()),
            fingerprint(runtime),
            runtime.config.get("teacher"),
            runtime.dimension,
            json.loads((runtime.folder / "preprocessor_config.json").read_text(encoding="utf-8")),
            runtime.config.get("rotation"),
            runtime.config["projection_dim"],
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)

    def shares(self, other: "Space") -> bool:
        """Whether embeddings of both are comparable: the same weights, teacher and student, or two students of one
        teacher, with as many dimensions and the same rotation.
        """
        rotations = self.rotations(other)
        return self.dimension == other.dimension and rotations is not None and rotations[0] == rotations[1]

    def change(self, other: "Space") -> str | None:
        """What gives an image another embedding than in the other space; None if its embedding is the same."""
        if self.weights != other.weights:
            return f"weights {self.weights} instead of {other.weights}"
        if self.dimension != other.dimension:
            return f"{self.dimension} dimensions instead of {other.dimension}"
        for field in PREPROCESSING:
            found, expected = self.preprocessing.get(field), other.preprocessing.get(field)
            if found != expected:
                return f"{field} {found} instead of {expected} in preprocessor_config.json"
        return None

    def rotations(self, other: "Space") -> tuple[str | None, str | None] | None:
        """Digests of the rotations from a common space to this one and to the other; None for a rotation that does
        nothing. Without a common space, None instead of both.
        """
        if (self.projection_dim or self.dimension) != (other.projection_dim or other.dimension):
            return None
        if self.weights == other.weights:
            return None, None
        if self.teacher is not None and self.teacher == other.teacher:
            return self.rotation, other.rotation
        if self._taught(other):
            return None, other.rotation
        return (self.rotation, None) if other._taught(self) else None

    def _taught(self, student: "Space") -> bool:
        """Whether this is the teacher of a student, by name or, for a folder, by weights."""
        if student.teacher is None:
            return False
        folder = Path(student.teacher)
        return student.teacher == self.model or (
            any(folder.glob(WEIGHTS)) and digest_files(sorted(folder.glob(WEIGHTS))) == self.weights
        )

    def difference(self, other: "Space") -> str:
        """One line that says how the other space differs."""
        return f"{self._description} and {other._description}"

    @property
    def _description(self) -> str:
        return (
            f"{self.model!r} (weights {self.weights}, {self.dimension} dimensions, teacher {self.teacher or 'none'}, "
            f"rotation {self.rotation or 'none'})"
        )


def fingerprint(runtime: "Runtime") -> str:
    """Digest of the weights of an exported model: of model.safetensors, or without it of the ONNX files in use."""
    files = sorted(runtime.folder.glob(WEIGHTS)) or [runtime.file("text"), runtime.file("vision")]
    return digest_files(files)


def digest_files(files: list[Path]) -> str:
    """Digest of files and their names, 16 hexadecimal digits; equals the digest of teachers in `training/`."""
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, hashlib.blake2b).digest())
    return digest.hexdigest()
