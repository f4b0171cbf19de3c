"""Output folders of the demo. A folder is removed only if an earlier run of the demo wrote it."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from training.utils.files import write_text

RECORD = ".demo_folders"


class OwnFolders:
    """Folders that the demo writes and replaces.

    The names of the folders that the demo wrote are in a file `.demo_folders` in the output folder.

    Args:
        output_dir: Output folder, which can also contain a user's own files.
    """

    def __init__(self, output_dir: Path):
        self.output_dir, self.record = output_dir, output_dir / RECORD

    def claim(self, names: Iterable[str]):
        """Remove the folders of an earlier run and record the names for the next one.

        Args:
            names: Folder names relative to the output folder.

        Raises:
            ValueError: One of the folders exists and was not written by the demo. Nothing is removed then.
        """
        names = list(names)
        known = set(self.record.read_text(encoding="utf-8").splitlines()) if self.record.exists() else set()
        for name in names:
            if (self.output_dir / name).exists() and name not in known:
                raise ValueError(
                    f"output_dir: {str(self.output_dir / name)!r} was not written by the demo, but has the name "
                    "of one of its folders. Move it, or choose another --output_dir."
                )
        self.output_dir.mkdir(parents=True, exist_ok=True)
        write_text(self.record, "".join(f"{name}\n" for name in sorted(known | set(names))))
        for name in names:
            self.remove(name)

    def remove(self, name: str):
        """Remove a claimed folder."""
        shutil.rmtree(self.output_dir / name, ignore_errors=True)
