"""Output folders of the demo. A folder is removed or replaced only if every file in it was written by our commands."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from training.utils.files import recover_folder
from training.utils.output import check_replaceable, claim_folder

COMMAND = "demo"


@contextmanager
def claim_demo_folder(
    output_dir: Path, intermediate: Iterable[str], replaced: Iterable[str], files: Iterable[str]
) -> Iterator[None]:
    """Claim the output folder for the `with` block, and remove the intermediate folders of an earlier run.

    Args:
        output_dir: Output folder, which can also contain a user's own files.
        intermediate: Folders relative to it that each run writes anew.
        replaced: Folders relative to it that stay until the new ones are complete.
        files: Names of the files that a run writes to it.

    Raises:
        ValueError: A file of the user has one of these names, or is in one of these folders. Nothing is removed then.
    """
    intermediate, replaced = list(intermediate), list(replaced)
    names = {Path(name).parts[0] for name in (*intermediate, *replaced, *files)}
    for name in replaced:
        recover_folder(output_dir / name)
    with claim_folder(output_dir, sorted(names), command=COMMAND, flag=None):
        for name in (*intermediate, *replaced):
            check_replaceable(output_dir / name)
        for name in intermediate:
            shutil.rmtree(output_dir / name, ignore_errors=True)
        yield
