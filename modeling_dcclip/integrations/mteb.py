"""Describe a model folder for mteb, whose tasks on images and texts then run on both towers.

    from modeling_dcclip.integrations.mteb import model_meta

    model = model_meta("FOLDER", "NAME/MODEL").load_model()
    mteb.evaluate(model, tasks)

mteb loads the folder with sentence-transformers.
"""

import json
import math
import struct
from pathlib import Path
from typing import Any, get_args

from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
from mteb.types import Licenses

LANGUAGES = {"en": "eng-Latn", "zh": "zho-Hans"}
# BatchNorm statistics and the rotation of the teacher's space, which are stored with the parameters
BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "rotation")


def model_meta(
    folder: str | Path, name: str, revision: str | None = None, release_date: str | None = None
) -> ModelMeta:
    """The metadata of a model, whose `load_model` loads its folder.

    Args:
        folder: Finished model folder.
        name: Name in results, such as the Hub id NAMESPACE/NAME.
        revision: Commit of the folder on the Hub.
        release_date: Date of the release, YYYY-MM-DD.
    """
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text, weights = config["text_config"], folder / "model.safetensors"
    license_id = (config.get("teacher_license") or "").lower()

    def load(name: str, revision: str | None = None, **options: Any) -> SentenceTransformerEncoderWrapper:
        return SentenceTransformerEncoderWrapper(str(folder), trust_remote_code=True, **options)

    return ModelMeta(
        loader=load,
        name=name,
        revision=revision,
        release_date=release_date,
        languages=[LANGUAGES[language] for language in config["languages"] if language in LANGUAGES],
        modalities=["image", "text"],
        n_parameters=_count_parameters(weights),
        n_embedding_parameters=text["vocab_size"] * text["hidden_size"],
        memory_usage_mb=round(weights.stat().st_size / 2**20, 1),
        max_tokens=config["max_text_length"],
        embed_dim=config.get("truncate_dim") or config["projection_dim"],
        license=license_id if license_id in _licenses() else None,
        open_weights=True,
        public_training_code=None,
        public_training_data=None,
        framework=["Sentence Transformers", "PyTorch", "safetensors"],
        similarity_fn_name=ScoringFunction.COSINE,
        use_instructions=False,
        training_datasets=None,
    )


def _count_parameters(weights: Path) -> int:
    """Number of parameters of both towers, from the header of a safetensors file."""
    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    return sum(math.prod(entry["shape"]) for name, entry in tensors.items() if not name.endswith(BUFFERS))


def _licenses() -> set[str]:
    """Identifiers of licences that mteb knows."""
    literals = [Licenses, *get_args(Licenses)]
    return {value for literal in literals for value in get_args(literal) if isinstance(value, str)}
