"""Lineage of a model: its revision, a fingerprint of its weights, and their license."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
import yaml
from huggingface_hub import hf_hub_download, metadata_load, resolve_revision
from huggingface_hub.errors import HFValidationError, RevisionResolutionError
from torch import Tensor, nn

from modeling_dcclip.runtime_dcclip import digest_files
from training.utils.keys import Digest
from training.utils.reading import read_mapping

# names that transformers writes, in the order of its search
WEIGHT_FILES = ("model*.safetensors", "pytorch_model*.bin")
# in the licenses of several models
SEPARATOR = " and "
UNKNOWN = "unknown"
OTHER_LICENSE = "other"  # the Hub's identifier for terms that are not on its list


def find_commit(name: str, revision: str | None = None) -> str | None:
    """Look up the commit of a Hub id.

    Args:
        name: Hub id or folder.
        revision: Branch, tag or commit of the Hub id. Default: the newest commit.

    Returns:
        The commit; None for a folder.

    Raises:
        OSError: Neither the Hub nor its local cache has the model.
    """
    if Path(name).is_dir():
        return None
    try:
        return resolve_revision(name, revision=revision).resolved
    except (HFValidationError, RevisionResolutionError) as error:
        raise OSError(error) from error


def digest_folder(folder: str | Path) -> str:
    """Digest of the weight files of a checkpoint; no weights are loaded.

    Raises:
        ValueError: The folder has no weight files.
    """
    for pattern in WEIGHT_FILES:
        files = sorted(Path(folder).glob(pattern))
        if files:
            return digest_files(files)
    raise ValueError(
        f"teacher: {str(folder)!r} has no weights ({' or '.join(WEIGHT_FILES)}). Name a checkpoint."
    )


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Digest of tensors and their names, on any device and in any order."""
    digest = Digest()
    for name, tensor in sorted(tensors.items()):
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.add(name, content.numpy())
    return digest.hex()


def weights_fingerprint(model: nn.Module) -> str:
    """Digest of all weights of a model, as a key for what is computed with it."""
    return digest_tensors(model.state_dict())[:16]


def read_license(name: str, commit: str | None) -> str | None:
    """License of a model, from its card or, if that names none or several, from the config of our own models.

    Args:
        name: Hub id or folder.
        commit: Commit of the Hub id; None for a folder.

    Returns:
        The license; None if none is stated or the card is not available now.

    Raises:
        ValueError: The config is damaged.
    """

    def find(file: str) -> Path:
        return Path(hf_hub_download(name, file, revision=commit)) if commit else Path(name, file)

    license = None
    with suppress(OSError):  # no card, or offline and not in the cache
        license = card_license(find("README.md"))
    if license not in (None, OTHER_LICENSE):
        return license
    with suppress(OSError):
        config = find("config.json")
        if config.is_file():
            fields = read_mapping(config, "teacher")
            origins = [fields.get("teacher_license"), fields.get("base_model_license")]
            license = join_licenses([origin for origin in origins if origin]) or license
    return license


def card_license(card: Path) -> str | None:
    """License in the metadata of a card; None if there is none."""
    try:
        metadata = (metadata_load(card) if card.is_file() else None) or {}
    except (ValueError, yaml.YAMLError):  # damaged by hand
        return None
    license = metadata.get("license")
    if license == OTHER_LICENSE and "license_name" in metadata:
        license = f"{OTHER_LICENSE}: {metadata['license_name']}"
    return license if isinstance(license, str) else None


def join_licenses(licenses: Sequence[str | None]) -> str | None:
    """Join the licenses of all models that weights come from, each once.

    Args:
        licenses: License of each model, which may be a joined one; None if it is unknown.

    Returns:
        The licenses, including `unknown` if some are unknown; None without models.
    """
    parts = [part for license in licenses for part in split_licenses(license or UNKNOWN)]
    return SEPARATOR.join(dict.fromkeys(parts)) or None


def split_licenses(licenses: str) -> list[str]:
    """The licenses of a text that `join_licenses` has made."""
    return licenses.split(SEPARATOR)
