"""The model folder under other versions of its libraries, each in an environment of its own."""

import re
import subprocess
import sys
import sysconfig
from configparser import ConfigParser
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.tiny import ROOT
from training.hub import check_folder

pytestmark = pytest.mark.stress

MODEL = ROOT / "model_cards" / "dcclip-tiny-photo"
# the lowest declared version, some later ones, and the installed one
TRANSFORMERS = ("5.4.0", "5.10.4", "5.16.1", "5.20.2", version("transformers"))
LABEL = """
import sys
from modeling_dcclip.runtime_dcclip import Runtime
print(Runtime(sys.argv[1]).zero_shot(f"{sys.argv[1]}/example.jpg", ["狗", "cat", "rabbit"])[0][0])
assert not {"torch", "transformers"} & set(sys.modules)
"""


def make_environment(folder: Path) -> Path:
    """Create an empty virtual environment, and return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder / "bin" / "python"


def lowest_requirements(extra: str) -> list[str]:
    """Requirements of the package and an extra, each at its declared minimum."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = setup["options"]["install_requires"] + setup["options.extras_require"][extra]
    return [
        re.sub(r">=([\w.]+).*", r"==\1", line)
        for line in lines.splitlines()
        if line and line[0] != "#"
    ]


@pytest.mark.parametrize("transformers", TRANSFORMERS)
def test_a_folder_gives_the_same_embeddings_under_every_transformers(transformers, tmp_path):
    python = make_environment(tmp_path)
    shared = [path for path in sys.path if path.endswith("site-packages")] or [
        sysconfig.get_path("purelib")
    ]
    site_packages = next(tmp_path.glob("lib/python*/site-packages"))
    (site_packages / "shared.pth").write_text("\n".join(shared) + "\n", encoding="utf-8")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*install, f"transformers=={transformers}"], check=True)
    check_folder(MODEL, str(python))


def test_the_runtime_works_with_the_lowest_declared_versions(tmp_path):
    python = make_environment(tmp_path)
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*install, *lowest_requirements("runtime")], check=True)
    run = subprocess.run(
        [str(python), "-c", LABEL, str(MODEL)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.strip() == "cat", run.stderr
