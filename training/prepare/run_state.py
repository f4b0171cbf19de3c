"""The state of a resumable run: the options that its result depends on, and where its numbers come from."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from training.utils.files import write_text

STATE_FOLDER, STATE_FILE = "state", "run.json"


def start_or_resume(folder: Path, key: Mapping[str, Any], make_meta: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Store the key and provenance of a new run, or compare the key with that of the run to resume.

    Args:
        folder: Output folder of the run.
        key: Everything that the result depends on, as JSON values by name.
        make_meta: Makes the provenance of a new run.

    Returns:
        The provenance. A resumed run keeps the command, date and commit of its start.

    Raises:
        ValueError: The file is damaged, or the run was started with another key.
    """
    path = folder / STATE_FOLDER / STATE_FILE
    if not path.exists():
        write_text(path, json.dumps({"key": key, "meta": make_meta()}, indent=1, ensure_ascii=False))
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        stored, meta = state["key"], state["meta"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"output_dir: {path} is damaged ({error}). Delete {str(folder)!r} and run again.") from error
    for name, value in key.items():
        if stored.get(name) != value:
            raise ValueError(
                f"{name}: the folder was started with {stored.get(name)!r}, this run has {value!r}. Use the same "
                f"value, another output_dir, or delete {str(folder)!r}."
            )
    return meta
