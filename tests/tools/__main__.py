"""Load one exported model folder in other tools, each from its own package, and compare it with transformers.

python -m tests.tools                        the versions below
python -m tests.tools -k fastembed           options of pytest

The tools are installed into an environment of their own, which shares the other packages of the current one: some of
them need another huggingface_hub. This needs a package index. The exit code is that of pytest.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.hub.versions import share_packages
from tests.tiny import ROOT

# tested together
TOOLS = {
    "daft": "0.7.26",
    "faiss-cpu": "1.15.1",
    "fastembed": "0.9.1",
    "haystack-ai": "3.4.1",
    "lancedb": "0.40.0",
    "llama-index-core": "0.14.25",
    "llama-index-embeddings-huggingface": "0.8.0",
    "mteb": "2.26.24",
    "qdrant-client": "1.20.0",
    "sentence-transformers": "6.2.0",
    "sentence-transformers-haystack": "2.0.0",
}


def main(arguments: list[str]) -> int:
    """Install the tools, and run the tests that need them."""
    command = ["pytest", "-p", "no:xdist", "-m", "tools", "tests/tools", *arguments]
    with tempfile.TemporaryDirectory(prefix="dcclip-tools-") as home:
        requirements = [f"{name}=={version}" for name, version in TOOLS.items()]
        python = share_packages(Path(home) / "environment", requirements)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run([str(python), "-m", *command], cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
