"""Work in a thread or in a process of its own."""

import sys
import threading
from pathlib import Path


def command_of_main(module: str) -> list[str]:
    """Command that runs the function `main` of a module of this package; more arguments begin at `sys.argv[2]`."""
    # not -m, which would import what lies in the current folder
    code = f"import sys; sys.path.insert(0, sys.argv[1]); from {module} import main; main()"
    return [sys.executable, "-P", "-c", code, str(Path(__file__).parents[2])]


class Background(threading.Thread):
    """A thread from the beginning of a `with` block to its end. It stops once `stopping` is set."""

    def __init__(self):
        super().__init__()
        self.stopping = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error: object):
        self.stopping.set()
        self.join()
