"""The wheel: what it contains, which extras it offers, and that its command runs without torch."""

import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.search.test_command import BLOCK
from tests.tracked import ROOT, copy_tracked


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built as a release is: from a copy of the tracked files, by way of the sdist."""
    output = tmp_path_factory.mktemp("dist")
    with copy_tracked() as source:
        command = ["-m", "build", "--no-isolation", "--outdir", str(output), str(source)]
        built = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, check=False
        )
    assert not built.returncode, built.stdout + built.stderr
    return next(output.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_ships_the_model_and_only_its_extras(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = Parser().parsestr(
            archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
        )
        entry_points = archive.read(
            next(n for n in names if n.endswith("entry_points.txt"))
        ).decode()
    expected = (
        "search/serve/page/page.js",
        "search/serve/openapi.json",
        "integrations/open_clip.py",
    )
    assert {f"modeling_dcclip/{each}" for each in expected} <= {*names}
    assert {name.partition("/")[0] for name in names if not name.startswith("dcclip-")} == {
        "modeling_dcclip"
    }
    assert {*metadata.get_all("Provides-Extra")} == {
        "lance",
        "mcp",
        "raw",
        "runtime",
        "search",
        "torch",
        "video",
    }
    assert not [
        line
        for line in metadata.get_all("Requires-Dist")
        if "torch" in line and "extra" not in line
    ]
    assert "dcclip = modeling_dcclip.search.command:main" in entry_points
    assert (
        metadata["License"] == "Apache-2.0 AND CC-BY-NC-4.0"
        and "modeling_dcclip/model/README.md" in names
    )
    assert wheel.stat().st_size < 20e6


@pytest.mark.slow
def test_the_command_labels_an_image_with_the_bundled_model_and_without_torch(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    example = ROOT / "model_cards/dcclip-tiny-photo/example.jpg"
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            BLOCK,
            "torch,transformers,timm,starlette,uvicorn",
            "label",
            str(example),
            "狗",
            "猫",
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert not run.returncode, run.stderr
    assert run.stdout.splitlines()[0].endswith("猫")


ENCODE = """
from importlib.metadata import requires
from modeling_dcclip.runtime_dcclip import Runtime

runtime = Runtime("modeling_dcclip/model")
image = runtime.encode_images(["example.jpg"])
texts = runtime.encode_texts(["猫", "狗"])
assert (image @ texts.T).argmax() == 0
names = [each for each in requires("dcclip") if "extra" not in each or 'extra == "runtime"' in each]
print(*sorted(each.partition(";")[0].partition(">")[0] for each in names))
"""


@pytest.mark.slow
def test_the_extra_runtime_alone_encodes_an_image_and_texts(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = str(tmp_path / "env/bin/python")
    install = [python, "-m", "pip", "install", "-q", f"dcclip[runtime] @ {wheel.as_uri()}"]
    subprocess.run(install, check=True)
    example = (ROOT / "model_cards/dcclip-tiny-photo/example.jpg").read_bytes()
    (tmp_path / "example.jpg").write_bytes(example)
    site = next((tmp_path / "env/lib").glob("python*/site-packages"))
    (tmp_path / "modeling_dcclip").symlink_to(site / "modeling_dcclip")
    run = subprocess.run(
        [python, "-c", ENCODE],
        cwd=tmp_path,
        env={"PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not run.returncode, run.stderr
    assert run.stdout.split() == [
        "numpy",
        "onnxruntime",
        "pillow",
        "safetensors",
        "tokenizers",
        "tqdm",
    ]
