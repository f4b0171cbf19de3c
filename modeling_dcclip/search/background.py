"""Work in a thread of its own."""

import threading


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
