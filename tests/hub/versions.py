"""Check that a published folder loads and gives the same embeddings under every declared version of transformers.

python -m tests.hub.versions                     the lowest declared version, some later ones, and the installed one
python -m tests.hub.versions 5.10.4 5.24.0       these versions
python -m tests.hub.versions --folder runs/demo/model

Each version is installed into an environment of its own, which shares the other packages of the current environment.
This needs a package index. The exit code is 1 if a version fails.
"""

import argparse
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.demo.make_teacher import TEACHER_FOLDER
from training.hub import FolderError, check_folder, complete_folder

VERSIONS = ("5.4.0", "5.10.4", "5.16.1", "5.20.2", version("transformers"))
SHARED = ("transformers", "huggingface_hub", "tokenizers", "torch")


def share_packages(folder: Path, requirements: list[str]) -> Path:
    """Create a virtual environment that shares the current packages, install others into it, and return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    site_packages = next(folder.glob("lib/python*/site-packages"))
    shared = [path for path in sys.path if path.endswith("site-packages")] or [sysconfig.get_path("purelib")]
    (site_packages / "shared.pth").write_text("\n".join(shared) + "\n", encoding="utf-8")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-warn-script-location"]
    subprocess.run([*install, *requirements], check=True)
    return python


def installed(python: Path) -> dict[str, str]:
    """Versions of the packages that an environment imports."""
    code = f"from importlib.metadata import version; print(*[version(n) for n in {SHARED}])"
    run = subprocess.run([str(python), "-I", "-c", code], capture_output=True, text=True, check=True)
    return dict(zip(SHARED, run.stdout.split(), strict=True))


def mini_teacher(folder: Path) -> Path:
    """Save the demo's teacher as a finished Hub folder."""
    model = DCCLIPModel.from_pretrained(TEACHER_FOLDER).float()
    processor = DCCLIPProcessor.from_pretrained(TEACHER_FOLDER)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    complete_folder(folder)
    return folder


def main(argv: list[str] | None = None) -> int:
    """Check each version and print a line for it."""
    parser = argparse.ArgumentParser(prog="python -m tests.hub.versions", description=__doc__.splitlines()[0])
    parser.add_argument("versions", nargs="*", default=VERSIONS, help=f"default: {' '.join(VERSIONS)}")
    parser.add_argument("--folder", help="finished Hub folder (default: the demo's teacher)")
    options = parser.parse_args(argv)
    num_failed = 0
    print("".join(f"{name:>18}" for name in SHARED) + "   largest difference", flush=True)
    for transformers in options.versions:
        with tempfile.TemporaryDirectory(prefix="dcclip-versions-") as home:
            folder = Path(options.folder).resolve() if options.folder else mini_teacher(Path(home) / "model")
            python = share_packages(Path(home) / "environment", [f"transformers=={transformers}"])
            line = "".join(f"{value:>18}" for value in installed(python).values())
            try:
                print(f"{line}   {check_folder(folder, str(python)):.1e}", flush=True)
            except FolderError as error:
                num_failed += 1
                print(f"{line}   FAILED\n{error}", flush=True)
    return int(num_failed > 0)


if __name__ == "__main__":
    sys.exit(main())
