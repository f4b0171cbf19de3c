"""Models that a study compares, as the command line names them."""

from collections.abc import Sequence


def named_models(entries: Sequence[str]) -> list[tuple[str, str]]:
    """Split the values of the option `models`.

    Args:
        entries: Each NAME=FOLDER.

    Returns:
        Name and folder of each model.

    Raises:
        ValueError: An entry has no name or no folder.
    """
    pairs = []
    for entry in entries:
        name, _, folder = entry.partition("=")
        if not name or not folder:
            raise ValueError(f"models: {entry!r} is not NAME=FOLDER. Write for example mine=runs/mine/model.")
        pairs.append((name, folder))
    return pairs
