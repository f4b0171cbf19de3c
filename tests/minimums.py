"""Install the lowest declared version of every dependency in a fresh environment, and try the package there.

    python -m tests.minimums                     all groups of extras
    python -m tests.minimums runtime torch       these groups
    python -m tests.minimums --resolve           only find the versions, which takes seconds

The versions are found by `uv` (pip install uv; `--resolution lowest-direct`). A dependency that is declared without a
minimum has at least the version of the current environment. A declared minimum that no group installs, because other
packages need more, is a failure: raise it in setup.cfg. The exit code is 1 if a group fails. This needs a package
index, and some gigabytes of disk for PyTorch.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from configparser import ConfigParser
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from tests.tiny import ROOT
from training.hub import FolderError, check_folder

MODEL = ROOT / "model_cards" / "dcclip-tiny-photo"
OWN_EXTRA = re.compile(r"dcclip\[(\w+)\]")
RUNTIME = """
import base64, json, pathlib, sys
import numpy as np
from modeling_dcclip.runtime_dcclip import Runtime
folder = pathlib.Path(sys.argv[1])
stored = json.loads((folder / "self_check.json").read_text(encoding="utf-8"))
pathlib.Path("image.png").write_bytes(base64.b64decode(stored["image"]))
runtime = Runtime(folder, threads=1)
image = runtime.encode_images(["image.png"])
texts = runtime.encode_texts([text for texts in stored["texts"].values() for text in texts])
lowest = min(float((np.array(stored[name]) * found).sum(-1).min())
             for name, found in (("image_embeds", image), ("text_embeds", texts)))
print("lowest cosine with the embeddings at training", lowest)
assert lowest > 0.97 and not any(name in sys.modules for name in ("torch", "transformers"))
"""


@dataclass(frozen=True)
class Group:
    """Extras that are installed together, and what is run with them.

    Args:
        extras: Extras of setup.cfg.
        arguments: Arguments of Python for the smoke test; empty for the check of a published folder.
    """

    extras: tuple[str, ...]
    arguments: tuple[str, ...] = ()


GROUPS = {
    "runtime": Group(("runtime",), ("-c", RUNTIME, str(MODEL))),
    "torch": Group(("torch",)),
    "train": Group(("test", "photos"), ("-m", "pytest", "-q", "-m", "not slow")),
    "search": Group(("search", "test"), ("-m", "pytest", "-q", "tests/training/search/test_embed.py")),
    "space": Group(("space", "test"), ("-m", "pytest", "-q", "tests/space")),
    "ray": Group(("ray", "test"), ("-m", "pytest", "-q", "tests/training/search/test_ray.py")),
    "mobile": Group(("mobile", "test"), ("-m", "pytest", "-q", "-m", "executorch", "tests/training/edge")),
    "litert": Group(("litert", "test"), ("-m", "pytest", "-q", "-m", "litert", "tests/training/edge")),
    "deepspeed": Group(("deepspeed",), ("-c", "import deepspeed, training.distill, training.engine.stage")),
}


def requirements_of(extras: tuple[str, ...]) -> list[Requirement]:
    """Requirements of the package with extras, as declared in setup.cfg, with those of the extras that they name.

    Args:
        extras: Names of extras.
    """
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    declared = dict(setup["options.extras_require"]) | dict(setup["checkout.extras_require"])
    lines = [line for line in setup["options"]["install_requires"].splitlines() if line]
    waiting, seen = list(extras), set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for line in filter(None, declared[name].splitlines()):
            if (own := OWN_EXTRA.fullmatch(line)) is not None:
                waiting.append(own.group(1))
            else:
                lines.append(line)
    return [Requirement(line) for line in lines]


def minimum_of(requirement: Requirement) -> Version | None:
    """The declared minimum of a requirement; None if there is none."""
    lower = [Version(part.version) for part in requirement.specifier if part.operator in (">=", "==", "~=")]
    return max(lower, default=None)


def bounded(requirements: list[Requirement]) -> list[str]:
    """Lines for `uv`: requirements without a minimum have at least the version of the current environment."""
    lines = []
    for requirement in requirements:
        line = str(requirement)
        if minimum_of(requirement) is None:
            try:
                installed = Version(version(requirement.name)).public
            except PackageNotFoundError:
                installed = "0"
            line += ("," if requirement.specifier else "") + f">={installed}"
        lines.append(line)
    return lines


def resolve(requirements: list[Requirement], folder: Path) -> dict[str, Version]:
    """Find the lowest versions that can be installed together.

    Args:
        requirements: Requirements of a group.
        folder: Folder for the list of versions, `resolved.txt`.

    Raises:
        RuntimeError: The requirements contradict each other.
    """
    (folder / "declared.txt").write_text("\n".join(bounded(requirements)) + "\n", encoding="utf-8")
    command = ["uv", "pip", "compile", "-q", "--resolution", "lowest-direct", "--python", sys.executable]
    files = [str(folder / "declared.txt"), "-o", str(folder / "resolved.txt")]
    run = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(run.stderr.strip())
    lines = (folder / "resolved.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line.partition(";")[0]) for line in lines if line and not line.lstrip().startswith("#")]
    return {normal_name(each): Version(next(iter(each.specifier)).version) for each in found}


def minimums_in(requirements: list[Requirement], resolved: dict[str, Version]) -> dict[tuple[str, Version], Version]:
    """The version that is installed for each declared minimum.

    Args:
        requirements: Requirements of a group.
        resolved: Versions of the group, as `resolve` returns them.

    Returns:
        Version by name and minimum. It is above the minimum if another package of the group needs that.
    """
    minimums = ((normal_name(each), minimum_of(each)) for each in requirements)
    return {(name, low): resolved[name] for name, low in minimums if low is not None and name in resolved}


def normal_name(requirement: Requirement) -> str:
    """Name of a package as `uv` writes it."""
    return re.sub(r"[-_.]+", "-", requirement.name).lower()


def install(folder: Path) -> Path:
    """Install the versions of `resolved.txt` in a new environment, and return its Python."""
    environment = folder / "environment"
    subprocess.run(["uv", "venv", "-q", "--python", sys.executable, str(environment)], check=True)
    python = environment / "bin" / "python"
    command = ["uv", "pip", "install", "-q", "--python", str(python), "-r", str(folder / "resolved.txt")]
    subprocess.run(command, check=True)
    return python


def smoke(group: Group, python: Path, folder: Path) -> str:
    """Run the smoke test of a group.

    Returns:
        The last line of its output.

    Raises:
        RuntimeError: The test failed; the message has the end of its output.
    """
    if not group.arguments:
        try:
            return f"largest difference from the embeddings at training {check_folder(MODEL, str(python)):.1e}"
        except FolderError as error:
            raise RuntimeError(str(error)) from error
    where = ROOT if "pytest" in group.arguments else folder
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [str(python), *group.arguments], cwd=where, env=environment, capture_output=True, text=True, check=False
    )
    output = (run.stdout + run.stderr).strip()
    if run.returncode:
        raise RuntimeError(output[-3000:])
    return output.splitlines()[-1]


def main(argv: list[str] | None = None) -> int:
    """Try the groups, and print a paragraph for each."""
    parser = argparse.ArgumentParser(prog="python -m tests.minimums", description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", help=f"of {', '.join(GROUPS)} (default: all)")
    parser.add_argument("--resolve", action="store_true", help="find the versions, and install nothing")
    options = parser.parse_args(argv)
    if unknown := set(options.groups) - set(GROUPS):
        parser.error(f"groups: {sorted(unknown)} are not among {', '.join(GROUPS)}")
    num_failed, reached = 0, dict[tuple[str, Version], set[Version]]()
    for name in options.groups or GROUPS:
        with tempfile.TemporaryDirectory(prefix="dcclip-minimums-") as scratch:
            try:
                requirements = requirements_of(GROUPS[name].extras)
                resolved = resolve(requirements, Path(scratch))
                declared = sorted({normal_name(each) for each in requirements})
                print(f"{name}: " + ", ".join(f"{each} {resolved[each]}" for each in declared if each in resolved))
                for minimum, found in minimums_in(requirements, resolved).items():
                    reached.setdefault(minimum, set()).add(found)
                if not options.resolve:
                    print(f"{name}: {smoke(GROUPS[name], install(Path(scratch)), Path(scratch))}", flush=True)
            except RuntimeError as error:
                num_failed += 1
                print(f"{name}: FAILED\n{error}", flush=True)
    for (name, minimum), found in sorted(reached.items()):
        if minimum not in found:
            print(f"{name}: the minimum {minimum} is in no group, the lowest version is {min(found)}")
            num_failed += not options.groups  # a single group may have it raised by another package
    return int(num_failed > 0)


if __name__ == "__main__":
    sys.exit(main())
