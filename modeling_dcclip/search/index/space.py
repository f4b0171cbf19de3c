"""The embedding space of a model, which tells who may search an index and who may add to it."""

from dataclasses import dataclass

from modeling_dcclip.runtime_dcclip import Lineage, Runtime, digest_files
from modeling_dcclip.search.messages import Message

WEIGHTS = "model*.safetensors"


@dataclass(frozen=True)
class Space(Lineage):
    """Embedding space of a model: who may search an index, and who may add to it.

    Args:
        files: Fingerprint of the files that encode: both ONNX files, the tokenizer and the preprocessing, 16
            hexadecimal digits.
        dimension: Number of dimensions D of the embeddings.
        projection_dim: Number of dimensions before the embeddings were truncated.
    """

    files: str
    dimension: int
    projection_dim: int

    @classmethod
    def of(cls, runtime: Runtime, model: str | None = None) -> "Space":
        """Space of an exported model."""
        towers = [runtime.file("text"), runtime.file("vision")]
        prepared = [runtime.folder / "tokenizer.json", runtime.folder / "preprocessor_config.json"]
        return cls(
            model=model or str(runtime.folder.absolute()),
            # without model.safetensors, the ONNX files are all there is
            weights=digest_files(sorted(runtime.folder.glob(WEIGHTS)) or towers),
            teacher=runtime.config.get("teacher"),
            teacher_weights=runtime.config.get("teacher_weights"),
            rotation=runtime.config.get("rotation"),
            files=digest_files([*towers, *prepared]),
            dimension=runtime.dimension,
            projection_dim=runtime.config["projection_dim"],
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

    def rotations(self, other: Lineage) -> tuple[str | None, str | None] | None:
        """The same as for models, but for indexes of vectors with the same number of dimensions before truncation."""
        if isinstance(other, Space) and self.projection_dim != other.projection_dim:
            return None
        # the wheel has no model.safetensors, so its weights have a different fingerprint than those of a checkout
        if isinstance(other, Space) and self.files == other.files:
            return None, None
        return super().rotations(other)
