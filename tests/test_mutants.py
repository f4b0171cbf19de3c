"""The draw of faults of `python -m tests.mutants`."""

from itertools import islice
from pathlib import Path

import pytest

from tests import line_map
from tests.forked_pytest import MISSED, NOTICED, ROOT, run_pytest
from tests.line_map import LineMap, statement
from tests.mutants import draw, mutations_of


@pytest.fixture(scope="module")
def faults():
    return list(islice(draw(1), 5))


@pytest.mark.slow
def test_a_draw_depends_on_the_seed_only(faults):
    assert list(islice(draw(1), 5)) == faults
    assert next(draw(2)) != faults[0]


@pytest.mark.slow
def test_a_fault_is_other_code_that_compiles(faults):
    for fault in faults:
        assert fault.content != (ROOT / fault.file).read_text(encoding="utf-8")
        compile(fault.content, fault.file, "exec")


def test_the_operators_of_sql_are_swapped():
    module, kinds = mutations_of("modeling_dcclip/search/catalog.py")
    assert len(kinds["SQL"]) > 60
    mutation = kinds["SQL"][0]
    code = module.deep_replace(mutation.original_node, mutation.mutated_node).code
    assert code != module.code
    compile(code, "catalog.py", "exec")


def test_messages_and_prose_are_not_mutated():
    _, kinds = mutations_of("training/utils/files.py")
    strings = [mutation.original_node.value for mutation in kinds["SimpleString"]]
    assert strings and not any(" " in each for each in strings)


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
import multiprocessing

import pytest

from training.arithmetic import LIMIT, double


@pytest.fixture(scope="module")
def from_a_child():
    with multiprocessing.get_context("fork").Pool(1) as pool:
        yield pool.apply(double, [9])
        pool.close()
        pool.join()


def test_in_a_child(from_a_child):
    assert from_a_child == 0


def test_small():
    assert double(2) == 4


def test_large():
    assert double(9) == 0


def test_limit():
    assert LIMIT
"""


@pytest.mark.parametrize(("line", "lines"), [(1, []), (5, [7, 8, 9]), (7, [7]), (8, [8])])
def test_a_line_of_a_function_stands_for_its_statement_and_the_head_for_the_body(line, lines):
    assert [*statement(CODE, line)] == lines


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("copy") / "project"
    for name, content in {"training/arithmetic.py": CODE, "tests/test_it.py": TESTS}.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


@pytest.mark.slow
def test_a_line_is_tested_by_what_executes_it(project, tmp_path, monkeypatch):
    monkeypatch.setattr(line_map, "CACHE", tmp_path)
    found = LineMap.of(project)
    names = ("small", "large", "in_a_child")
    small, large, child = (f"tests/test_it.py::test_{name}" for name in names)
    every = {small, large, child}
    for line, tests in {8: {large, child}, 7: every, 1: every}.items():
        assert found.tests(CODE, "training/arithmetic.py", line, ("tests/",)) == tests
    assert not found.tests(CODE, "training/arithmetic.py", 8, ("tests/other",))
    assert LineMap.of(project) == found


@pytest.mark.slow
def test_a_fault_is_noticed_by_the_tests_that_are_chosen(project):
    small, large = (f"tests/test_it.py::test_{name}" for name in ("small", "large"))
    file = project / "training/arithmetic.py"
    file.write_text(CODE.replace("2 *", "3 *"), encoding="utf-8")
    found = [run_pytest(tests, project) for tests in ([large], [large, small], [])]
    assert found == [MISSED, NOTICED, MISSED]


def test_the_twin_of_a_file_runs_first_and_shared_fixtures_are_paid_once():
    seconds = {"a/test_other.py::test_a": 1, "a/test_it.py::test_b": 9, "a/test_it.py::test_c": 2}
    seconds["a/test_other.py::test_d"] = 9
    fixtures = {name: ["model"] for name in seconds}
    found = LineMap(seconds, {"model": 10}, fixtures, {}).fastest(seconds, "training/it.py")
    assert [name[-1] for name in found] == ["c", "b", "a"]  # 10 + 12 seconds leave none for d
