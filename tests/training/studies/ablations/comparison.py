"""Runs a comparison with few arms and steps."""

from collections.abc import Collection
from pathlib import Path
from types import ModuleType

import pytest
from accelerate.state import AcceleratorState


def compare(command: ModuleType, arms: ModuleType, labels: Collection[str], folder: Path, *options: str):
    """Run a command with some of its arms on a part of the corpus; results go to `folder`."""
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arms, "ARMS", tuple(arm for arm in arms.ARMS if arm.label in labels))
        command.main([*options, "--every", "40", "--output_dir", str(folder / "runs"), "--results_dir", str(folder)])
