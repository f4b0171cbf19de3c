"""Licences of weights that come from several models, in one text."""

from collections.abc import Sequence

SEPARATOR = " and "
UNKNOWN = "unknown"


def join_licenses(licenses: Sequence[str | None]) -> str | None:
    """Licences of all models that weights come from, each once.

    Args:
        licenses: Licence of each model, which may be several joined in this way; None if it is unknown.

    Returns:
        The licences, with `unknown` among them if some are unknown; None if all are, or there is no model.
    """
    parts = [part for license in licenses for part in split_licenses(license or UNKNOWN)]
    return SEPARATOR.join(dict.fromkeys(parts)) if set(parts) - {UNKNOWN} else None


def split_licenses(licenses: str) -> list[str]:
    """The licences of a text that `join_licenses` has made."""
    return licenses.split(SEPARATOR)
