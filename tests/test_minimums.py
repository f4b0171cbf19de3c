"""What `python -m tests.minimums` installs: every declared minimum, and no extra is left out."""

from configparser import ConfigParser

from packaging.requirements import Requirement
from packaging.version import Version

from tests.minimums import GROUPS, OWN_EXTRA, bounded, minimum_of, minimums_in, requirements_of
from tests.tiny import ROOT


def extras() -> dict[str, str]:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    return dict(setup["options.extras_require"]) | dict(setup["checkout.extras_require"])


def reached(names: tuple[str, ...]) -> set[str]:
    found = set(names)
    for name in names:
        found |= reached(tuple(OWN_EXTRA.findall(extras()[name])))
    return found


def test_every_extra_with_a_minimum_is_in_a_group():
    tried = set().union(*(reached(group.extras) for group in GROUPS.values()))
    with_minimum = {
        name
        for name, lines in extras().items()
        if any(minimum_of(Requirement(line)) for line in lines.splitlines() if line and not OWN_EXTRA.fullmatch(line))
    }
    # lint and benchmarks are no part of what users install; the browser's tests run in a system's own browser
    assert with_minimum - tried <= {"bench", "dev"}


def test_extras_bring_those_that_they_name():
    names = {each.name for each in requirements_of(("edge",))}
    assert {"numpy", "pillow", "torch", "onnx", "onnxruntime", "accelerate", "matplotlib"} <= names
    assert not [name for name in names if name.startswith("dcclip")]


def test_requirements_without_a_minimum_are_bounded_by_the_current_version():
    lines = bounded([Requirement("torch>=2.6"), Requirement("numpy"), Requirement("none-such"), Requirement("a<2")])
    assert lines[0] == "torch>=2.6" and lines[1].startswith("numpy>=")
    assert lines[2:] == ["none-such>=0", "a<2,>=0"]


def test_a_minimum_that_others_raise_is_told_apart():
    requirements = [Requirement("a>=1"), Requirement("a>=2"), Requirement("B_c==3.1"), Requirement("d")]
    resolved = {"a": Version("2.0"), "b-c": Version("3.2"), "d": Version("9")}
    found = {(name, str(low)): str(high) for (name, low), high in minimums_in(requirements, resolved).items()}
    assert found == {("a", "1"): "2.0", ("a", "2"): "2.0", ("b-c", "3.1"): "3.2"}


def test_the_space_requires_no_lower_versions():
    lines = (ROOT / "model_cards/space/requirements.txt").read_text(encoding="utf-8").splitlines()
    own = {each.name: minimum_of(each) for each in requirements_of(("runtime",)) if minimum_of(each) is not None}
    required = {each.name: minimum_of(each) for each in map(Requirement, (line for line in lines if line[0] != "#"))}
    shared = own.keys() & required.keys()
    assert {"onnxruntime", "pillow", "tokenizers"} <= shared
    assert not [name for name in shared if required[name] is None or required[name] < own[name]]
