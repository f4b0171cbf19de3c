"""A comparison of training runs, as small as it gets."""

from collections.abc import Collection
from pathlib import Path
from types import ModuleType

import pytest
from accelerate.state import AcceleratorState


def compare(module: ModuleType, labels: Collection[str], folder: Path, *options: str):
    """Run its command with these arms alone on a thinned corpus; the numbers and their plot go to `folder`."""
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ARMS", tuple(arm for arm in module.ARMS if arm.label in labels))
        module.main([*options, "--every", "40", "--output_dir", str(folder / "runs"), "--results_dir", str(folder)])
