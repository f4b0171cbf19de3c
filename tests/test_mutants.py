"""The draw of faults of `python -m tests.mutants`, and the choice of the tests for one."""

from itertools import islice

import pytest
from coverage import CoverageData

from tests import mutants
from tests.mutants import (
    NOTICED,
    TIMED_OUT,
    UNSURE,
    Mutant,
    covering_tests,
    draw,
    mutations_of,
    outcome_of,
    statement,
)
from tests.tracked import ROOT


@pytest.mark.slow
def test_a_draw_depends_on_the_seed_only_and_its_faults_compile():
    faults = list(islice(draw(1), 2))
    assert list(islice(draw(1), 2)) == faults
    for fault in faults:
        assert fault.content != (ROOT / fault.file).read_text(encoding="utf-8")
        compile(fault.content, fault.file, "exec")


def test_sql_is_mutated_and_prose_is_not():
    _, kinds = mutations_of(ROOT / "modeling_dcclip/search/catalog.py")
    assert len(kinds["SQL"]) > 60
    assert not [each for each in kinds["SimpleString"] if " " in each.original_node.value]


CODE = """\
LIMIT = 3


def double(
    value,
):
    if value > LIMIT:
        return 0
    return 2 * value
"""
TESTS = """\
from arithmetic import double


def test_small():
    assert double(2) == 4


def test_broken():
    assert double(9) == 1
"""


@pytest.mark.parametrize(("line", "lines"), [(1, []), (5, [7, 8, 9]), (7, [7]), (8, [8])])
def test_a_line_of_a_function_stands_for_its_statement_and_the_head_for_the_body(line, lines):
    assert [*statement(CODE, line)] == lines


def test_a_line_is_tested_by_what_executes_it(tmp_path):
    path = tmp_path / "arithmetic.py"
    path.write_text(CODE, encoding="utf-8")
    lines = CoverageData(no_disk=True)
    for context, executed in {
        "": [1, 4],
        "a.py::test_small[2|3]|run": [7, 9],
        "a.py::test_child (call)": [7, 9],
        "a.py::test_small[2|3]|setup": [7, 8],
        "b.py::test_large|setup": [8],
    }.items():
        lines.set_context(context)
        lines.add_lines({str(path): executed})
    small = ["a.py::test_child", "a.py::test_small"]
    for line, tests in {1: small, 7: small, 8: ["a.py", "b.py"], 9: small}.items():
        assert covering_tests(lines, path, line) == tests


@pytest.mark.slow
@pytest.mark.parametrize(
    ("test", "fault", "outcome"),
    [
        ("small", "3 *", NOTICED),
        ("broken", "3 *", UNSURE),
        ("small", "[None for _ in iter(int, 1)] and", TIMED_OUT),
    ],
)
def test_a_fault_is_noticed_by_a_test_that_passes_without_it(
    test, fault, outcome, tmp_path, monkeypatch
):
    monkeypatch.setattr(mutants, "TIMEOUT_S", 3 if outcome == TIMED_OUT else 60)
    for name, content in {"arithmetic.py": CODE, "test_it.py": TESTS}.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    mutant = Mutant("arithmetic.py", CODE.replace("2 *", fault))
    assert outcome_of(mutant, tmp_path, [f"test_it.py::test_{test}"]) == outcome
    assert (tmp_path / mutant.file).read_text(encoding="utf-8") == CODE
