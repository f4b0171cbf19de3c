"""Export a finished model: trace its towers, quantise them, check each file, and write those that pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm.auto import tqdm

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.edge.formats import ExportOptions, find_format
from training.edge.gate import Gate
from training.edge.gate_data import GateData
from training.edge.output import ExportedFiles, copied_names, holds_only_exports, write_output
from training.edge.towers import TOWERS
from training.edge.verdict import Verdict
from training.evaluation.zero_shot_model import ZeroShotModel
from training.students import load_student
from training.teachers import weights_fingerprint
from training.utils.files import scratch_folder
from training.utils.output import claim_folder
from training.utils.results import RESULTS_FILE, Row

NO_CALIBRATION = "Photographs or other images of the model's kind set its ranges: name some with --calibration."
UNCHECKED = (
    "No accuracy check is possible: the folder names no validation set. The files are marked as unchecked. To check "
    "them, name a labelled set: --data PATH --class_names NAMES.json"
)


def export(options: ExportOptions) -> list[Verdict]:
    """Export a model and write the files that pass the accuracy gate.

    Args:
        options: Model, output folder, format, and data of the gate.

    Returns:
        A verdict for each requested file, including refused ones.

    Raises:
        ValueError: The folder is not a complete model, the format does not exist, lacks a number format or is not
            installed, a tower cannot be traced, or the labelled set cannot be used.
    """
    find_format(options.format).check(options.variants or ())
    student, processor = open_model(options.folder)
    data = GateData.from_options(options)
    output_dir = Path(options.output_dir)
    with open_output(options) as scratch:
        run = _Export(options, student, processor, data, scratch)
        with tqdm(total=run.num_steps, desc="export", unit="step") as progress:
            for step in run.steps():
                progress.set_postfix_str(step)
                progress.update()
        return write_output(run.files, Path(options.folder), output_dir)


@contextmanager
def open_output(options: ExportOptions) -> Iterator[Path]:
    """Claim the output folder for an export, and yield the path of an empty scratch folder in it.

    Raises:
        ValueError: The output folder has files that an export did not write.
    """
    folder, output_dir = Path(options.folder), Path(options.output_dir)
    is_own = output_dir.resolve() == folder.resolve()
    names = [] if is_own else [RESULTS_FILE, *copied_names(folder, output_dir)]
    overwrite = options.overwrite or (is_own and holds_only_exports(folder, options.format))
    with (
        claim_folder(output_dir, [options.format, *names], command="export", overwrite=overwrite),
        scratch_folder(output_dir / "export") as scratch,
    ):
        yield scratch


class _Export:
    """One export into a scratch folder."""

    def __init__(
        self,
        options: ExportOptions,
        student: DCCLIPModel,
        processor: DCCLIPProcessor,
        data: GateData,
        scratch: Path,
    ):
        self.student, self.data, self.scratch, self.threads = student, data, scratch, options.threads
        self.model = ZeroShotModel(student, processor, options.folder)
        self.towers = TOWERS if options.towers == "both" else (options.towers,)
        self.format = find_format(options.format)
        self.requested = options.variants or tuple(self.format.variants)
        # fp32 is always written: the other variants are made from it and compared with it
        self.variants = [name for name in self.format.variants if name == "fp32" or name in self.requested]
        self.joins = self.format.join is not None and len(self.towers) == 2
        self.files = ExportedFiles(self.format, scratch, weights_fingerprint(student), data.source)
        self.kept: dict[tuple[str, str], Path] = {}

    @property
    def num_steps(self) -> int:
        """Number of `steps`."""
        return 1 + (len(self.towers) + self.joins) * len(self.variants)

    def steps(self) -> Iterator[str]:
        """Run one step after another, and yield a description of each finished step."""
        gate = Gate(self.model, self.data, self.format, self.threads)
        self.files.rows += gate.rows()
        yield "PyTorch"
        for tower in self.towers:
            for variant in self.variants:
                path = self._path(tower, variant)
                if self.data.calibration is None and (tower, variant) == ("vision", "int8"):
                    self._note(path, tower, variant, gate.refuse(tower, variant, path, NO_CALIBRATION), [])
                else:
                    images = self.data.calibration_images(self.model.processor)
                    self.format.write(self.student, tower, variant, path, images)
                    self._note(path, tower, variant, *gate.check(tower, variant, path, self._path(tower, "fp32")))
                yield path.name
        if self.joins:
            yield from self._join(gate)

    def _path(self, tower: str, variant: str) -> Path:
        return self.scratch / self.format.file_name(tower, variant)

    def _join(self, gate: Gate) -> Iterator[str]:
        """Write files of both towers.

        A refused tower is replaced by a larger variant. The image tower is also replaced if both towers together lose
        too much.
        """
        assert self.format.join is not None
        joined_fp32 = self._path("both", "fp32")
        self.format.join(self._path("vision", "fp32"), self._path("text", "fp32"), joined_fp32)
        for variant in self.variants:
            path = self._path("both", variant)
            verdict = gate.refuse("both", variant, path, f"Both towers were refused in {variant}.")
            rows: list[Row] = []
            for parts in self._pairs(variant):
                files = {tower: self._path(tower, part) for tower, part in parts.items()}
                if variant != "fp32":
                    self.format.join(files["vision"], files["text"], path)
                verdict, rows = gate.check_joined(variant, path, joined_fp32, files, parts)
                if verdict.kept:
                    break
            self._note(path, "both", variant, verdict, rows)
            yield path.name

    def _pairs(self, variant: str) -> list[dict[str, str]]:
        """Number formats of both towers that a joined file can be made of, the smallest first."""
        passed = {
            tower: [name for name in dict.fromkeys((variant, "fp16", "fp32")) if (tower, name) in self.kept]
            for tower in TOWERS
        }
        return [
            {"vision": vision, "text": text}
            for text in passed["text"][:1]
            for vision in passed["vision"]
            if variant in (vision, text)
        ]

    def _note(self, path: Path, tower: str, variant: str, verdict: Verdict, rows: list[Row]):
        if verdict.kept:
            self.kept[tower, variant] = path
        if variant in self.requested:
            self.files.verdicts.append(verdict)
            self.files.rows += rows


def open_model(folder: str) -> tuple[DCCLIPModel, DCCLIPProcessor]:
    """Load a finished model in eval mode, with its processor.

    Raises:
        ValueError: A file or a weight of the model is missing.
    """
    needed = ("config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json")
    if not Path(folder).is_dir():
        raise ValueError(f"folder: {folder!r} is not a folder. Name the output folder of training/align.py.")
    for name in needed:
        if not (Path(folder) / name).exists():
            raise ValueError(
                f"folder: {folder!r} has no {name}, so an exported model could not be run. Save model and processor "
                "to it with save_pretrained."
            )
    student, processor = load_student(folder)
    return student.eval(), processor
