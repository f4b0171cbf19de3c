"""Put known faults into the code one at a time, run the tests of the area, and print the share that they catch.

    python -m tests.mutants                       every fault in tests/faults
    python -m tests.mutants --areas core data     the faults of these areas
    python -m tests.mutants --matching betas      the faults whose description has this word

A fault is an entry of `tests/faults/AREA.yaml`: `fault` (what breaks), `file`, `find` (text that occurs once in the
file), `replace`, and `tests` (arguments of pytest). The faults are put into a copy of the tracked files, and pytest
runs in a fork of this process, which has the libraries already. The exit code is 1 if less than 90 % are caught.
"""

import argparse
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from tqdm.auto import tqdm

ROOT = Path(__file__).parents[1]
FAULTS = Path(__file__).parent / "faults"
LIBRARIES = (
    *(
        "accelerate",
        "datasets",
        "hypothesis.strategies",
        "pydantic",
        "onnxruntime",
        "timm",
        "torchvision.io",
    ),
    *(
        f"transformers.models.{name}.modeling_{name}"
        for name in ("altclip", "chinese_clip", "metaclip_2", "siglip")
    ),
    *("transformers.models.auto.processing_auto", "transformers.models.clip.image_processing_clip"),
)
MIN_SHARE = 0.9
TIMEOUT_S = 300
CAUGHT, MISSED, TIMED_OUT = "caught", "missed", "timed out"


@dataclass(frozen=True)
class Fault:
    """One fault; `area` is the name of its file in tests/faults, without the suffix."""

    area: str
    fault: str
    file: str
    find: str
    replace: str
    tests: str

    def mutate(self, text: str) -> str:
        """The content of the file with the fault; `find` must occur exactly once."""
        if (count := text.count(self.find)) != 1:
            raise ValueError(
                f"{self.area}: {self.fault!r}: `find` occurs {count} times in {self.file}. Renew the entry."
            )
        return text.replace(self.find, self.replace)


def read_faults() -> list[Fault]:
    """All faults, by area."""
    paths = sorted(FAULTS.glob("*.yaml"))
    return [
        Fault(path.stem, **entry)
        for path in paths
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))
    ]


def copy_tracked(folder: Path):
    """Copy the tracked files to an empty folder."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def run_tests(tests: str, folder: Path) -> str:
    """Run tests in a copy of the project: whether they pass (`missed`), fail (`caught`), or do not end."""
    log = folder.with_name(f"{folder.name}.log")
    if not (process := os.fork()):
        _run_pytest(
            ["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", *tests.split()], folder, log
        )
    deadline = time.monotonic() + TIMEOUT_S
    while (ended := os.waitpid(process, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return TIMED_OUT
        time.sleep(0.05)
    if (code := os.waitstatus_to_exitcode(ended[1])) > 2:
        raise RuntimeError(
            f"pytest {tests} exited with {code}:\n{log.read_text(encoding='utf-8')[-3000:]}"
        )
    return CAUGHT if code else MISSED


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
    """Try the faults, and print those that are missed and a table of the areas."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--areas", nargs="+", help="areas to try (default: all)")
    parser.add_argument(
        "--matching", default="", help="text in the description of the faults to try"
    )
    options = parser.parse_args(argv)
    faults = [each for each in read_faults() if not options.areas or each.area in options.areas]
    faults = [each for each in faults if options.matching in each.fault]
    counts: dict[str, Counter[str]] = {each.area: Counter() for each in faults}
    with tempfile.TemporaryDirectory(prefix="dcclip-mutants-") as scratch:
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": f"{scratch}/hf", "OMP_NUM_THREADS": "1"}
        sys.dont_write_bytecode = True
        for name in LIBRARIES:
            import_module(name)
        gc.freeze()
        folder = Path(scratch, "project")
        folder.mkdir()
        copy_tracked(folder)
        for tests in tqdm(
            dict.fromkeys(each.tests for each in faults), desc="without a fault", unit="run"
        ):
            if (outcome := run_tests(tests, folder)) != MISSED:
                raise SystemExit(
                    f"mutants: {tests} {'fails' if outcome == CAUGHT else 'does not end'} without a fault."
                )
        for each in tqdm(faults, desc="faults", unit="fault"):
            path = folder / each.file
            text = path.read_text(encoding="utf-8")
            path.write_text(each.mutate(text), encoding="utf-8")
            outcome = run_tests(each.tests, folder)
            path.write_text(text, encoding="utf-8")
            counts[each.area][outcome] += 1
            if outcome != CAUGHT:
                tqdm.write(f"{outcome}: {each.area}: {each.fault} ({each.file})")
    for area, found in counts.items():
        print(f"{area}: {found[CAUGHT]} of {found.total()} caught")
    share = sum(found[CAUGHT] for found in counts.values()) / max(len(faults), 1)
    print(f"all: {share:.0%} of {len(faults)}")
    return int(share < MIN_SHARE)


if __name__ == "__main__":
    sys.exit(main())
