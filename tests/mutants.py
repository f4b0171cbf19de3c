"""Put drawn faults into the code one at a time, run the tests, and print the share that they notice.

    python -m tests.mutants --seed 1 --count 200            with the tests of the same room
    python -m tests.mutants --seed 1 --count 200 --suite    with all tests, for those that the room misses

The operators are mutmut's. Strings of prose and error messages are left out. A draw is a pure
function of the code and the seed: a file by its size, and twice as often from the rooms in
`IMPORTANT`; then a kind of syntax; then a fault. The files are mutated in a copy of the tracked
files, and pytest runs in a fork of this process, which has the libraries already. The exit code is
1 if less than `GOAL` of the faults are noticed.
"""

import argparse
import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import libcst
import pytest
from mutmut.mutation.file_mutation import Mutation, create_mutations
from tqdm.auto import tqdm

ROOT = Path(__file__).parents[1]
ROOMS = ("modeling_dcclip", "training")
IMPORTANT = (
    "modeling_dcclip",
    "training/engine",
    "training/hub",
    "training/tasks",
    "training/teachers",
)
LIBRARIES = (
    "accelerate",
    "datasets",
    "onnxruntime",
    "timm",
    "torchvision.io",
    "transformers.models.altclip.modeling_altclip",
    "transformers.models.auto.processing_auto",
    "transformers.models.chinese_clip.modeling_chinese_clip",
    "transformers.models.clip.image_processing_clip",
    "transformers.models.metaclip_2.modeling_metaclip_2",
    "transformers.models.siglip.modeling_siglip",
)
GOAL = 0.75
TIMEOUT_S = 300
NOTICED, MISSED, TIMED_OUT = "noticed", "missed", "timed out"


@dataclass(frozen=True)
class Mutant:
    """One fault: a file, relative to the root, and its content with the fault."""

    file: str
    content: str

    def difference(self) -> str:
        """The first changed line, before and after."""
        before = (ROOT / self.file).read_text(encoding="utf-8").splitlines()
        after = self.content.splitlines()
        for number, (old, new) in enumerate(zip(before, after, strict=False), 1):
            if old != new:
                return f"{self.file}:{number}: {old.strip()}  ->  {new.strip()}"
        return self.file


def draw(seed: int) -> Iterator[Mutant]:
    """Draw faults without end; a fault is not drawn twice."""
    random_numbers = random.Random(seed)
    files = [
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
    ]
    weights = [
        (ROOT / name).stat().st_size * (2 if name.startswith(IMPORTANT) else 1) for name in files
    ]
    drawn = set()
    while True:
        [name] = random_numbers.choices(files, weights)
        module, kinds = mutations_of(name)
        if not kinds:
            continue
        mutations = kinds[random_numbers.choice(sorted(kinds))]
        number = random_numbers.randrange(len(mutations))
        mutation = mutations[number]
        content = module.deep_replace(mutation.original_node, mutation.mutated_node).code
        if (name, content) not in drawn:
            drawn.add((name, content))
            yield Mutant(name, content)


@cache
def mutations_of(name: str) -> tuple[libcst.Module, dict[str, list[Mutation]]]:
    """Parse a file, and list its faults by kind of syntax."""
    code = (ROOT / name).read_text(encoding="utf-8")
    module, mutations, *_ = create_mutations(name, code)
    messages = _Messages()
    module.visit(messages)
    kinds: dict[str, list[Mutation]] = defaultdict(list)
    for mutation in mutations:
        node = mutation.original_node
        is_prose = isinstance(node, libcst.SimpleString) and " " in node.value
        if not is_prose and id(node) not in messages.nodes:
            kinds[type(node).__name__].append(mutation)
    return module, kinds


class _Messages(libcst.CSTVisitor):
    """Collects the nodes of raise statements, whose texts are not behavior."""

    def __init__(self):
        super().__init__()
        self.nodes: set[int] = set()
        self._depth = 0

    def visit_Raise(self, node: libcst.Raise):
        self._depth += 1

    def leave_Raise(self, node: libcst.Raise):
        self._depth -= 1

    def on_visit(self, node: libcst.CSTNode) -> bool:
        if self._depth:
            self.nodes.add(id(node))
        return super().on_visit(node)


def mirror(name: str) -> list[str]:
    """Tests of a file: those of the same name first, then those of its room."""
    path = Path(name)
    if path.parts[0] == "modeling_dcclip":
        room = Path("tests/modeling")
    else:
        room = Path("tests", *path.parts[:2]) if len(path.parts) > 2 else Path("tests/training")
    twin = room.joinpath(*path.parts[2:-1], f"test_{path.name}")
    return [each.as_posix() for each in (twin, room) if (ROOT / each).exists()]


def copy_tracked(folder: Path):
    """Copy the tracked files to an empty folder."""
    command = ["git", "ls-files", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def run_tests(tests: str, folder: Path) -> str:
    """Run tests in a copy of the project: whether they notice a fault, miss it, or do not end."""
    log = folder.with_name(f"{folder.name}.log")
    process = os.fork()
    if not process:
        _run_pytest(["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", tests], folder, log)
    deadline = time.monotonic() + TIMEOUT_S
    while (ended := os.waitpid(process, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return TIMED_OUT
        time.sleep(0.05)
    return NOTICED if os.waitstatus_to_exitcode(ended[1]) else MISSED


def _run_pytest(arguments: list[str], folder: Path, log: Path):
    """Run pytest in this process, which ends with its exit code."""
    os.setsid()
    file = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(folder)
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.path[:] = [str(folder), *(path for path in sys.path if Path(path).resolve() != ROOT)]
    sys.modules.pop("tests", None)
    code = 3
    try:
        code = pytest.main(arguments)
    finally:
        os._exit(code)


def main(argv: list[str] | None = None) -> int:
    """Try the faults of a draw, and print those that are missed and a table of the rooms."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seed", type=int, required=True, help="seed of the draw")
    parser.add_argument("--count", type=int, default=200, help="number of faults (default: 200)")
    parser.add_argument("--suite", action="store_true", help="run all tests on what a room misses")
    options = parser.parse_args(argv)
    faults = draw(options.seed)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    with tempfile.TemporaryDirectory(prefix="dcclip-mutants-") as scratch:
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": f"{scratch}/hf", "OMP_NUM_THREADS": "1"}
        sys.dont_write_bytecode = True
        for name in LIBRARIES:
            import_module(name)
        gc.freeze()
        folder = Path(scratch, "project")
        folder.mkdir()
        copy_tracked(folder)
        clean: dict[str, str] = {}
        for _ in tqdm(range(options.count), desc="faults", unit="fault"):
            fault = next(faults)
            path = folder / fault.file
            original = path.read_text(encoding="utf-8")
            outcome = MISSED
            for tests in [*mirror(fault.file), *(["tests"] if options.suite else [])]:
                if tests not in clean:
                    clean[tests] = run_tests(tests, folder)
                    if clean[tests] != MISSED:
                        raise SystemExit(f"mutants: {tests} fails without a fault.")
                path.write_text(fault.content, encoding="utf-8")
                outcome = run_tests(tests, folder)
                path.write_text(original, encoding="utf-8")
                if outcome != MISSED:
                    break
            counts[Path(fault.file).parent.as_posix()][outcome] += 1
            if outcome == MISSED:
                tqdm.write(f"{outcome}: {fault.difference()}")
    for room, found in sorted(counts.items()):
        print(f"{room}: {found.total() - found[MISSED]} of {found.total()} noticed")
    share = 1 - sum(found[MISSED] for found in counts.values()) / max(options.count, 1)
    print(f"all: {share:.0%} of {options.count}, seed {options.seed}")
    return int(share < GOAL)


if __name__ == "__main__":
    sys.exit(main())
