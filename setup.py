"""Add the extras of training/ where training/ is: in a checkout, but not in the sdist and the wheel built from it.

The wheel ships `modeling_dcclip` alone, so it must not offer extras that need more.
"""

from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
config = ConfigParser()
config.read(ROOT / "setup.cfg", encoding="utf-8")
extras = dict(config["options.extras_require"])
if (ROOT / "training").is_dir():
    extras |= config["checkout.extras_require"]
setup(extras_require={name: [line for line in lines.splitlines() if line] for name, lines in extras.items()})
