"""Damage of files, and a judge of what a command made of it."""

import io
import os
import random
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

DAILY = ("half", "a_list", "missing", "flip_0")
LIMIT = 20  # seconds; what takes longer on these small files hangs


def flip(content: bytes, seed: int) -> bytes:
    """Flip one bit at a place that the seed chooses."""
    place = random.Random(seed).randrange(len(content) * 8)
    changed = bytearray(content)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


# what disks, editors, sync clients and downloads do to a file
BYTES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "without_its_last_byte": lambda content: content[:-1],
    "twice": lambda content: content * 2,
    "zeros": lambda content: bytes(len(content)),
    "a_block_of_zeros": lambda content: (
        content[: len(content) // 3] + bytes(64) + content[len(content) // 3 + 64 :]
    ),
    "noise": lambda content: random.Random(0).randbytes(len(content)),
    "a_web_page": lambda content: b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "a_pointer_of_git_lfs": lambda content: (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    ),
    "a_conflict": lambda content: b"<<<<<<< HEAD\n" + content + b"\n=======\n>>>>>>> main\n",
}
# what a program may write where an object of JSON belongs
JSON = {
    "null": "null",
    "a_list": "[]",
    "no_fields": "{}",
    "a_number": "1e999",
    "text": '"text"',
    "nested": "[" * 100_000,
    "not_a_number": '{"format": NaN}',
    "half_a_character": '{"format": "\\ud800"}',
}
PLACES = ("missing", "a_folder", "a_loop_of_links")
NAMED = (*PLACES, "a_fifo")  # where a user or a table names the file


def put(path: Path, name: str):
    """Damage a file, by the name of the damage; `flip_N` flips a bit."""
    content = path.read_bytes()
    if name.startswith("flip_"):
        path.write_bytes(flip(content, int(name.removeprefix("flip_"))))
    elif name in BYTES:
        path.write_bytes(BYTES[name](content))
    elif name in JSON:
        path.write_text(JSON[name])
    else:
        path.unlink()
        if name == "a_folder":
            path.mkdir()
        elif name == "a_fifo":
            os.mkfifo(path)
        elif name == "a_loop_of_links":
            path.symlink_to(path.name)


@contextmanager
def time_limit() -> Iterator[None]:
    """Turn a hang into an error."""

    def stop(*_: object):
        raise AssertionError(f"hangs: over {LIMIT} seconds")

    former = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


def run(main: Callable[[list[str]], None], *arguments: object) -> tuple[int, str, str]:
    """Run a command in this process; return its exit code and what it printed. Exceptions are unclear errors."""
    output, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code = 0
    with time_limit(), redirect_stdout(output), redirect_stderr(errors):
        try:
            main([str(each) for each in arguments])
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 1
    found, said = (each.buffer.getvalue().decode() for each in (output, errors))
    return code, found, said


def refused(program: str, errors: str) -> bool:
    """Whether a message is one line that names a field: `dcclip: model: ...`."""
    lines = [
        line for line in re.split(r"[\r\n]+", errors) if line.strip()
    ]  # a progress bar ends with \r
    head, _, rest = lines[-1].partition(": ") if lines else ("", "", "")
    return head == program and ": " in rest and len(rest) > 20 and "Traceback" not in errors


def cases(files: Iterable[str], flips: int, places: Iterable[str] = PLACES) -> list[Any]:
    """Every file with every damage that it can have, and with flipped bits; few of them belong to the daily suite."""
    return [
        pytest.param(
            file, damage, marks=() if damage in DAILY else pytest.mark.stress, id=f"{file}-{damage}"
        )
        for file in files
        for damage in [
            *BYTES,
            *(JSON if Path(file).suffix in (".json", ".jsonl", ".yaml") else ()),
            *places,
            *(f"flip_{seed}" for seed in range(flips)),
        ]
    ]
