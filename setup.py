"""What setup.cfg cannot say: the model that the wheel carries, and the extras of a checkout."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
MODEL = Path("model_cards/dcclip-tiny-photo")
# what the runtime opens; README.md has the license of the weights
MODEL_FILES = (
    "README.md",
    "bank.safetensors",
    "config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "onnx/*.onnx",
)


class BuildWithModel(build_py):
    """Put the int8 files of the model of photographs into the wheel, and into the sdist that it is built from."""

    def model_files(self) -> list[Path]:
        """Paths of the files, from the root."""
        return [
            path.relative_to(ROOT)
            for name in MODEL_FILES
            for path in sorted((ROOT / MODEL).glob(name))
        ]

    def get_source_files(self) -> list[str]:
        """Files of the sdist."""
        return [*super().get_source_files(), *map(str, self.model_files())]

    def run(self):
        """Copy them to modeling_dcclip/model; an editable install reads them where they are."""
        super().run()
        if self.editable_mode:
            return
        for path in self.model_files():
            target = Path(self.build_lib, "modeling_dcclip", "model", path.relative_to(MODEL))
            self.mkpath(str(target.parent))
            self.copy_file(str(path), str(target))


config = ConfigParser()
config.read(ROOT / "setup.cfg", encoding="utf-8")
extras = dict(config["options.extras_require"])
if (
    ROOT / "training"
).is_dir():  # the sdist, and the wheel built from it, lack training/ and must not offer its extras
    extras |= config["checkout.extras_require"]
setup(
    cmdclass={"build_py": BuildWithModel},
    extras_require={
        name: [line for line in lines.splitlines() if line] for name, lines in extras.items()
    },
)
