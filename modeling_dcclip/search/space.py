"""The embedding space of a model, which tells who may search an index and who may add to it."""

from dataclasses import dataclass

from modeling_dcclip.runtime_dcclip import Runtime, digest_files
from modeling_dcclip.search.messages import Message

WEIGHTS = "model*.safetensors"


@dataclass(frozen=True)
class Space:
    """Embedding space of a model: who may search an index, and who may add to it.

    Args:
        model: Hub id of the model, or its folder.
        weights: Fingerprint of its weights, 16 hexadecimal digits.
        files: Fingerprint of the files that encode: both ONNX files, the tokenizer and the preprocessing, 16
            hexadecimal digits.
        teacher: Name of the teacher whose space it has; None if it has no teacher.
        teacher_weights: Fingerprint of the teacher's weights; None if the embeddings are not in the teacher's space.
        dimension: Number of dimensions D of the embeddings.
        rotation: Digest of the rotation from the teacher's space to this one; None if they are the same.
        projection_dim: Number of dimensions before the embeddings were truncated.
    """

    model: str
    weights: str
    files: str
    teacher: str | None
    teacher_weights: str | None
    dimension: int
    rotation: str | None
    projection_dim: int

    @classmethod
    def of(cls, runtime: Runtime, model: str | None = None) -> "Space":
        """Space of an exported model."""
        files = [runtime.file("text"), runtime.file("vision")]
        return cls(
            model or str(runtime.folder.absolute()),
            # without model.safetensors, the ONNX files are all there is
            digest_files(sorted(runtime.folder.glob(WEIGHTS)) or files),
            digest_files(
                [
                    *files,
                    runtime.folder / "tokenizer.json",
                    runtime.folder / "preprocessor_config.json",
                ]
            ),
            runtime.config.get("teacher"),
            runtime.config.get("teacher_weights"),
            runtime.dimension,
            runtime.config.get("rotation"),
            runtime.config["projection_dim"],
        )

    def change(self, other: "Space") -> str | None:
        """What gives an image a different embedding than in the other space; None if the embedding is the same."""
        if self.dimension != other.dimension:
            return Message("dimension: {} instead of {}", self.dimension, other.dimension)
        if self.files != other.files:
            return Message(
                "fingerprint of the ONNX files, the tokenizer and the preprocessing: {} instead of {}",
                self.files,
                other.files,
            )
        return None

    def rotations(self, other: "Space") -> tuple[str | None, str | None] | None:
        """Digests of the rotations from a common space to this one and to the other; None for an identity."""
        if self.projection_dim != other.projection_dim:
            return None
        # the wheel has no model.safetensors, so its weights have a different fingerprint than those of a checkout
        if self.weights == other.weights or self.files == other.files:
            return None, None
        if self.teacher_weights is not None and self.teacher_weights == other.teacher_weights:
            return self.rotation, other.rotation
        if self._taught(other):
            return None, other.rotation
        return (self.rotation, None) if other._taught(self) else None

    def _taught(self, student: "Space") -> bool:
        """Whether a student has the space of this model: by weights, or by name if they are a commit of the Hub."""
        if student.teacher_weights is None:
            return False
        return self.weights == student.teacher_weights or self.model == student.teacher
