"""Put drawn faults into the code one at a time, run the tests, and print the share that they notice.

    python -m tests.mutants --seed 1 --count 200

The operators are mutmut's, and swaps of the operators of SQL. Strings of prose and error messages are
left out. A draw is a pure function of the code and the seed: a file by its size, then a kind of
syntax, then a fault. The files are mutated in a copy of the tracked files. Up to `MAX_TESTS` of the
tests that execute the statement run. The suite runs once to know them, unless `.coverage` is newer
than the code. A fault is noticed if a test fails that passes without it; a time-out is counted apart.
What no test notices, mypy may refuse, as it does before the tests in `.ci/run`. The exit code is 1 if
less than `GOAL` of the faults are noticed.
"""

import argparse
import ast
import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import libcst
import pytest
from coverage import CoverageData
from libcst import matchers
from mutmut.mutation.file_mutation import Mutation, create_mutations

from tests.tracked import ROOT, copy_tracked

FOLDERS = ("modeling_dcclip", "training")
MAP = ROOT / ".coverage"
RECORD = ("-n", "auto", "--dist", "loadfile", "--cov", "--cov-context=test", "--cov-report=")
MAX_TESTS = 100
TIMEOUT_S = 300
GOAL = 0.75
NOTICED, REFUSED, MISSED = "noticed", "refused by mypy", "missed"
TIMED_OUT, UNSURE = "timed out", "noticed by a test that fails without it"
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
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    sizes = [path.stat().st_size for path in paths]
    drawn = set()
    while True:
        [path] = random_numbers.choices(paths, sizes)
        module, kinds = mutations_of(path)
        if not kinds:
            continue
        mutation = random_numbers.choice(kinds[random_numbers.choice(sorted(kinds))])
        content = module.deep_replace(mutation.original_node, mutation.mutated_node).code
        mutant = Mutant(path.relative_to(ROOT).as_posix(), content)
        if mutant not in drawn:
            drawn.add(mutant)
            yield mutant


@cache
def mutations_of(path: Path) -> tuple[libcst.Module, dict[str, list[Mutation]]]:
    """Parse a file, and list its faults by kind of syntax."""
    code = path.read_text(encoding="utf-8")
    module, mutations, *_ = create_mutations(str(path), code)
    anything = matchers.MatchIfTrue(lambda node: True)
    raised = {
        id(node)
        for statement in matchers.findall(module, matchers.Raise())
        for node in matchers.findall(statement, anything)
    }
    kinds: dict[str, list[Mutation]] = defaultdict(list)
    for mutation in mutations:
        node = mutation.original_node
        is_prose = isinstance(node, libcst.SimpleString) and " " in node.value
        if not is_prose and id(node) not in raised:
            kinds[type(node).__name__].append(mutation)
    strings = matchers.SimpleString() | matchers.FormattedStringText()
    for node in matchers.findall(module, strings):
        if not SQL.search(node.value):
            continue
        for operator, other in SQL_OPERATORS.items():
            for place in re.finditer(operator, node.value):
                value = node.value[: place.start()] + other + node.value[place.end() :]
                kinds["SQL"].append(Mutation(node, node.with_changes(value=value), None))
    return module, kinds


def line_map() -> CoverageData:
    """The lines that each test executes, from a run of the suite."""
    sources = [path for folder in (*FOLDERS, "tests") for path in (ROOT / folder).rglob("*.py")]
    if not MAP.exists() or MAP.stat().st_mtime < max(path.stat().st_mtime for path in sources):
        subprocess.run([sys.executable, "-m", "pytest", *RECORD], cwd=ROOT, check=False)
    lines = CoverageData(str(MAP))
    lines.read()
    return lines


def statement(code: str, line: int) -> range:
    """Lines of the smallest statement of a function around a line; none for what runs on import.

    The body of a compound statement does not belong to it, but the body of a function stands for
    its head.
    """
    own, size = range(0), code.count("\n") + 1
    for function in ast.walk(ast.parse(code)):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(function):
            lines = range(getattr(node, "lineno", 0), (getattr(node, "end_lineno", 0) or 0) + 1)
            if isinstance(node, ast.stmt) and line in lines and len(lines) <= size:
                body = getattr(node, "body", [])
                own, size = lines, len(lines)
                if node is function:
                    own = range(body[0].lineno, lines.stop)
                elif body:
                    own = range(lines.start, body[0].lineno)
    return own


def covering_tests(lines: CoverageData, path: Path, line: int) -> list[str]:
    """Tests that execute the statement at a line of a file, without parameters.

    What runs on import can be noticed by every test that executes anything of the file. If only
    fixtures execute a statement, the whole test file stands for them, because its tests share them.
    """
    contexts = lines.contexts_by_lineno(str(path))
    own = statement(path.read_text(encoding="utf-8"), line) or contexts
    found = {context for number in own for context in contexts.get(number, ()) if context}
    # pytest-cov appends "|setup" to the ID of a test, and pytest " (setup)" in a child process
    setups = {context for context in found if context.endswith(("|setup", "(setup)"))}
    if found == setups:
        return sorted({context.partition("::")[0] for context in setups})
    # a fault can change the parameters in an ID
    return sorted({re.split(r"\[|\|| \(", context)[0] for context in found - setups})


def run_tests(folder: Path, arguments: list[str]) -> int | None:
    """Exit code of pytest in a copy of the project, none if it does not end."""
    command = [sys.executable, "-m", "pytest", "-x", "--assert=plain", *arguments]
    # a change within a second of the last one would not be seen in the cache of bytecode
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(
        command, cwd=folder, env=environment, process_group=0, **output
    ) as process:
        try:
            return process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that the tests started
            return None


def outcome_of(mutant: Mutant, folder: Path, tests: list[str]) -> str:
    """What becomes of a fault in a copy of the project."""
    path = folder / mutant.file
    original = path.read_text(encoding="utf-8")
    path.write_text(mutant.content, encoding="utf-8")
    try:
        code = run_tests(folder, tests) if tests else pytest.ExitCode.OK
        if code is None:
            return TIMED_OUT
        if code in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            types = subprocess.run(
                [sys.executable, "-m", "mypy"], cwd=folder, capture_output=True, check=False
            )
            return REFUSED if types.returncode else MISSED
    finally:
        path.write_text(original, encoding="utf-8")
    again = run_tests(folder, ["--last-failed", "--last-failed-no-failures=none"])
    return NOTICED if again == pytest.ExitCode.OK else UNSURE


def main(argv: list[str] | None = None) -> int:
    """Try the faults of a draw, and print those that are missed and a table of the rooms."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--seed", type=int, required=True, help="seed of the draw")
    parser.add_argument("--count", type=int, default=200, help="number of faults (default: 200)")
    options = parser.parse_args(argv)
    lines = line_map()
    random_numbers = random.Random(options.seed)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    with copy_tracked() as folder:
        for number, mutant in enumerate(islice(draw(options.seed), options.count), 1):
            line, before, after = mutant.change()
            tests = covering_tests(lines, ROOT / mutant.file, line)
            tests = random_numbers.sample(tests, min(len(tests), MAX_TESTS))
            own = f"/test_{Path(mutant.file).name}"
            outcome = outcome_of(mutant, folder, sorted(tests, key=lambda test: own not in test))
            counts[Path(mutant.file).parent.as_posix()][outcome] += 1
            print(f"{number} {outcome}, {len(tests)} tests: {mutant.file}:{line}", flush=True)
            if outcome not in (NOTICED, REFUSED):
                print(f"    {before}\n    {after}", flush=True)
    total = sum(counts.values(), Counter())
    for room, found in [*sorted(counts.items()), ("all", total)]:
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in found.most_common())
        print(f"{room}: {outcomes}")
    return int(total[NOTICED] + total[REFUSED] < GOAL * total.total())


if __name__ == "__main__":
    sys.exit(main())
