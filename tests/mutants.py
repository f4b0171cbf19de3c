"""Put drawn faults into the code one at a time, run the tests, and print the share that they notice.

    python -m tests.mutants --seed 1 --count 200            with the tests of the same room
    python -m tests.mutants --seed 1 --count 200 --suite    with all tests, for those that the room misses

The operators are mutmut's, and swaps of the operators of SQL. Strings of prose and error messages are
left out. A fault whose tests do not end is not noticed. A draw is a pure
function of the code and the seed: a file by its size, and twice as often from the rooms in
`IMPORTANT`; then a kind of syntax; then a fault. The files are mutated in a copy of the tracked
files, and pytest runs in a fork of this process, which has the libraries already. Only tests that
execute the statement run (see `tests/line_map.py`): the suite runs once for that, before the first
draw of a commit. What no test notices, mypy may refuse, as it does before the tests in `.ci/run`.
The exit code is 1 if less than `GOAL` of the faults are noticed.
"""

import argparse
import gc
import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import libcst
from libcst import matchers
from mutmut.mutation.file_mutation import Mutation, create_mutations

from tests.forked_pytest import (
    MISSED,
    ROOT,
    TIMED_OUT,
    copy_tracked,
    library_caches,
    run_pytest,
)
from tests.line_map import ROOMS, LineMap

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
ELSEWHERE, REFUSED = "noticed outside its room", "refused by mypy"
UNNOTICED = (MISSED, TIMED_OUT)
SQL = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE|CREATE|WHERE|FROM|ORDER BY)\b|\?\d? ")
SQL_OPERATORS = {
    r" = ": " != ",
    r" != ": " = ",
    r" >= ": " > ",
    r" > ": " >= ",
    r" <= ": " < ",
    r" < ": " <= ",
    r"\bAND\b": "OR",
    r"\bNOT IN\b": "IN",
    r"\bNOT EXISTS\b": "EXISTS",
    r"\bmin\(": "max(",
    r" \+ ": " - ",
    r" DESC\b": "",
    r"\bOR REPLACE\b": "OR IGNORE",
    r"\bDISTINCT ": "",
}


@dataclass(frozen=True)
class Mutant:
    """One fault: a file, relative to the root, and its content with the fault."""

    file: str
    content: str

    def change(self) -> tuple[int, str, str]:
        """The number of the first changed line, and that line before and after."""
        before = (ROOT / self.file).read_text(encoding="utf-8").splitlines()
        after = self.content.splitlines()
        for number, (old, new) in enumerate(zip(before, after, strict=False), 1):
            if old != new:
                return number, old.strip(), new.strip()
        return len(after), "", ""


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
    if statements := [*_sql_mutations(module)]:
        kinds["SQL"] = statements
    return module, kinds


def _sql_mutations(module: libcst.Module) -> Iterator[Mutation]:
    """Faults of the SQL in strings: one operator at a time. In others a blank makes prose."""
    strings = matchers.SimpleString() | matchers.FormattedStringText()
    for node in matchers.findall(module, strings):
        if not SQL.search(node.value):
            continue
        for operator, other in SQL_OPERATORS.items():
            for place in re.finditer(operator, node.value):
                value = node.value[: place.start()] + other + node.value[place.end() :]
                yield Mutation(node, node.with_changes(value=value), None)


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


def mirror(name: str) -> tuple[str, ...]:
    """Tests of a file: beginnings of the paths of the test files, those of its room."""
    path = Path(name)
    if path.parts[0] == "modeling_dcclip":
        return ("tests/modeling/", "tests/search/", "tests/hub/test_handler.py")
    if len(path.parts) == 2:
        return ("tests/training/", "tests/hub/")
    room = path.parts[1]
    return (
        f"tests/training/{room}/",
        f"tests/training/test_{room}.py",
        *(["tests/hub/"] if room == "hub" else []),
    )


def passes_types(folder: Path) -> bool:
    """Whether mypy accepts a copy of the project."""
    command = [sys.executable, "-m", "mypy"]
    return not subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode


def main(argv: list[str] | None = None) -> int:
    """Try the faults of a draw, and print those that are missed and a table of the rooms."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seed", type=int, required=True, help="seed of the draw")
    parser.add_argument("--count", type=int, default=200, help="number of faults (default: 200)")
    parser.add_argument("--suite", action="store_true", help="run all tests on what a room misses")
    options = parser.parse_args(argv)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    sys.dont_write_bytecode = True
    faults = draw(options.seed)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    with copy_tracked() as folder:
        # the libraries read it when they are imported, which is before the tests set their own
        os.environ["HF_HOME"] = str(library_caches(folder))
        for name in LIBRARIES:
            import_module(name)
        gc.freeze()
        lines = LineMap.of(folder)
        if not passes_types(folder):
            parser.error("mypy refuses the code without a fault")
        for number in range(1, options.count + 1):
            fault = next(faults)
            line, before, after = fault.change()
            original = (folder / fault.file).read_text(encoding="utf-8")
            tests = lines.tests(original, fault.file, line, mirror(fault.file))
            (folder / fault.file).write_text(fault.content, encoding="utf-8")
            outcome = run_pytest(lines.fastest(tests, fault.file), folder)
            if outcome == MISSED and options.suite:
                others = lines.tests(original, fault.file, line, ("tests/",)) - tests
                if run_pytest(lines.fastest(others, fault.file), folder) != MISSED:
                    outcome = ELSEWHERE
            if outcome == MISSED and not passes_types(folder):
                outcome = REFUSED
            (folder / fault.file).write_text(original, encoding="utf-8")
            counts[Path(fault.file).parent.as_posix()][outcome] += 1
            print(f"{number} {outcome}, {len(tests)} tests: {fault.file}:{line}", flush=True)
            if outcome in UNNOTICED:
                print(f"    {before}\n    {after}", flush=True)
    for room, found in sorted(counts.items()):
        unnoticed = sum(found[each] for each in UNNOTICED)
        print(f"{room}: {found.total() - unnoticed} of {found.total()} noticed")
    total = sum(counts.values(), Counter())
    count = max(options.count, 1)
    share = 1 - sum(total[each] for each in UNNOTICED) / count
    kinds = (ELSEWHERE, REFUSED, TIMED_OUT)
    alone = [f"{total[each] / count:.0%} {each}" for each in kinds if total[each]]
    print(f"all: {', '.join([f'{share:.0%} of {count}', *alone])}, seed {options.seed}")
    return int(share < GOAL)


if __name__ == "__main__":
    sys.exit(main())
