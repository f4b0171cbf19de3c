"""Where a teacher comes from: the licence of its weights, and what tells one state of them from another."""

import hashlib
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download, metadata_load, resolve_revision
from huggingface_hub.errors import HFValidationError, RevisionResolutionError
from torch import nn

# as transformers names them, in the order in which it looks for them
WEIGHT_FILES = ("model*.safetensors", "pytorch_model*.bin")


def find_commit(name: str, revision: str | None = None) -> str | None:
    """The commit of a Hub id, or None for a folder.

    Args:
        name: Hub id or folder.
        revision: branch, tag or commit. Default: the newest.

    Raises:
        OSError: the Hub or its cache does not have it.
    """
    if Path(name).is_dir():
        return None
    try:
        return resolve_revision(name, revision=revision).resolved
    except (HFValidationError, RevisionResolutionError) as error:
        raise OSError(error) from error


def digest_folder(folder: str | Path) -> str:
    """A digest of a checkpoint's weight files, at the speed of the disk: nothing is loaded.

    Raises:
        ValueError: there are none.
    """
    files = next((found for pattern in WEIGHT_FILES if (found := sorted(Path(folder).glob(pattern)))), None)
    if files is None:
        raise ValueError(f"teacher: {str(folder)!r} has no weights ({' or '.join(WEIGHT_FILES)}). Name a checkpoint.")
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, hashlib.blake2b).digest())
    return digest.hexdigest()


def read_license(name: str, commit: str | None) -> str | None:
    """The licence in the metadata of a checkpoint's model card, or None if there is none or it cannot be had now.

    Args:
        name: Hub id or folder.
        commit: of the Hub id.
    """
    card = Path(name, "README.md")
    if commit:
        try:
            card = Path(hf_hub_download(name, "README.md", revision=commit))
        except OSError:  # no card, or offline and not in the cache
            return None
    metadata = (metadata_load(card) if card.is_file() else None) or {}
    license = metadata.get("license")
    # a licence that the Hub has no identifier for is called "other" and named beside it
    return metadata.get("license_name", license) if license == "other" else license


def weights_fingerprint(model: nn.Module) -> str:
    """A digest of all weights, to tell whose targets a cache holds."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
