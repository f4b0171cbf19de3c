"""Which tests execute a statement of the library, from one run of the suite under coverage."""

import ast
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from coverage import Coverage

from tests.forked_pytest import fork_pytest, function_of

ROOMS = ("modeling_dcclip", "training")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "dcclip-mutants")
BUDGET_S = 30.0  # processor time for the tests of one fault, by their times in the run of the suite
OUTSIDE = ""  # coverage's name of the context outside tests
# a process that a test starts measures itself
CHILD = "import coverage\ncoverage.process_startup()\n"
SETTINGS = """\
[run]
data_file = {data}
parallel = true
concurrency = multiprocessing, thread
sigterm = true
source = {source}
context = ${{PYTEST_CURRENT_TEST}}
disable_warnings = module-not-imported, no-data-collected
"""


@dataclass
class LineMap:
    """Tests by the lines that they execute. Tests are IDs without parameters.

    Args:
        seconds: Processor time of each test without the fixtures that it shares with others.
        shared: Processor time of each fixture that tests share, in seconds.
        fixtures: Names of the shared fixtures of each test.
        lines: Tests by file and line.
    """

    seconds: dict[str, float]
    shared: dict[str, float]
    fixtures: dict[str, list[str]]
    lines: dict[str, dict[str, list[str]]]

    @classmethod
    def of(cls, folder: Path) -> "LineMap":
        """Run the suite of a copy of the project, unless the cache has its content."""
        digest = hashlib.sha256()
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(path.read_bytes())
        cached = CACHE / f"{digest.hexdigest()}.json"
        if not cached.exists():
            recorded = folder.with_name("line_map.json")
            process = fork_pytest([], [_Recorder(folder, recorded)], folder)
            _, status = os.waitpid(process, 0)
            # a test that fails without a fault is left out; without any test, nothing would be noticed
            if os.waitstatus_to_exitcode(status) not in (
                pytest.ExitCode.OK,
                pytest.ExitCode.TESTS_FAILED,
            ):
                log = Path(f"{folder}.log").read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"the suite does not run:\n{log[-2000:]}")
            cached.parent.mkdir(parents=True, exist_ok=True)
            recorded.replace(cached)
        return cls(**json.loads(cached.read_text(encoding="utf-8")))

    def tests(self, code: str, file: str, line: int, folders: tuple[str, ...]) -> set[str]:
        """Tests in folders that execute the statement at a line.

        What runs on import can be noticed by each test that executes anything of the file, or, if
        there is none, by any.
        """
        lines = self.lines.get(file, {})
        own = statement(code, line)
        numbers = [str(number) for number in own] if own else list(lines)
        found = {test for number in numbers for test in lines.get(number, ())}
        found = {test for test in found if test.startswith(folders)}
        if found or own:
            return found
        return {test for test in self.seconds if test.startswith(folders)}

    def fastest(self, tests: Iterable[str], file: str) -> list[str]:
        """Tests that take less than the budget: first those in the file's own test file."""
        twin = f"/test_{Path(file).name}::"
        chosen: dict[str, list[str]] = defaultdict(list)
        paid: set[str] = set()
        left = BUDGET_S
        for test in sorted(tests, key=lambda test: (twin not in test, self._cost(test, set()))):
            left -= self._cost(test, paid)
            if left < 0 and chosen:
                break
            paid.update(self.fixtures[test])
            chosen[test.split("::")[0]].append(test)
        return [test for of_file in chosen.values() for test in of_file]

    def _cost(self, test: str, paid: set[str]) -> float:
        """Seconds of a test with the shared fixtures that are not paid yet."""
        return self.seconds[test] + sum(
            self.shared[name] for name in self.fixtures[test] if name not in paid
        )


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


def processor_time() -> float:
    """Processor time of this process and of its children that have ended, in seconds."""
    return sum(os.times()[:4])


class _Recorder:
    """A pytest plugin that measures which lines each test and each shared fixture executes."""

    def __init__(self, folder: Path, output: Path):
        self.folder = folder
        self.output = output
        self.map = LineMap({}, {}, {}, {})
        self.failed: set[str] = set()
        self.test = OUTSIDE

    def pytest_configure(self):
        data = self.folder.with_name("coverage")
        settings = self.folder.with_name("coveragerc")
        source = ",".join(str(self.folder / room) for room in ROOMS)
        settings.write_text(SETTINGS.format(data=data, source=source), encoding="utf-8")
        (self.folder / "sitecustomize.py").write_text(CHILD, encoding="utf-8")
        os.environ["PYTEST_CURRENT_TEST"] = OUTSIDE
        self.coverage = Coverage(config_file=str(settings))
        os.environ["COVERAGE_PROCESS_START"] = str(settings)
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.test = function_of(item.nodeid)
        self.map.fixtures[self.test] = list(item.fixturenames)
        self.coverage.switch_context(self.test)
        start = processor_time()
        try:
            return (yield)
        finally:
            self._count(self.map.seconds, self.test, processor_time() - start)
            self.coverage.switch_context(OUTSIDE)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef) -> Iterator[None]:
        if fixturedef.scope == "function":
            return (yield)
        start = processor_time()
        phase = os.environ["PYTEST_CURRENT_TEST"]
        os.environ["PYTEST_CURRENT_TEST"] = fixturedef.argname  # for its children
        self.coverage.switch_context(fixturedef.argname)
        try:
            return (yield)
        finally:
            os.environ["PYTEST_CURRENT_TEST"] = phase
            self.coverage.switch_context(self.test)
            seconds = processor_time() - start
            self._count(self.map.shared, fixturedef.argname, seconds)
            self._count(self.map.seconds, self.test, -seconds)

    def _count(self, total: dict[str, float], name: str, seconds: float):
        total[name] = total.get(name, 0.0) + seconds

    def pytest_runtest_logreport(self, report: pytest.TestReport):
        if report.failed:
            self.failed.add(function_of(report.nodeid))

    def pytest_sessionfinish(self):
        (self.folder / "sitecustomize.py").unlink()
        self.coverage.stop()
        self.coverage.save()
        self.coverage.combine()
        data = self.coverage.get_data()
        users = {test: {test} for test in self.map.seconds}
        for test, fixtures in self.map.fixtures.items():
            self.map.fixtures[test] = [name for name in fixtures if name in self.map.shared]
            for name in self.map.fixtures[test]:
                users.setdefault(name, set()).add(test)
        for path in data.measured_files():
            lines = {
                line: {
                    test
                    for context in contexts
                    # a child's context has the phase of the test behind it
                    for test in users.get(function_of(context).split(" (")[0], ())
                    if test not in self.failed
                }
                for line, contexts in data.contexts_by_lineno(path).items()
            }
            self.map.lines[Path(path).relative_to(self.folder).as_posix()] = {
                str(line): sorted(tests) for line, tests in lines.items()
            }
        self.output.write_text(json.dumps(asdict(self.map)), encoding="utf-8")
