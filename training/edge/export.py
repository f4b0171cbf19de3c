"""Export a finished model: trace its towers, quantise them, check each file, and write those that pass."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm.auto import tqdm

from training.edge.formats import TOWERS, ExportOptions, find_format
from training.edge.gate import Gate, check_layout
from training.edge.gate_data import GateData
from training.edge.output import ExportedFiles, copied_names, holds_only_exports, write_output
from training.edge.verdict import Verdict
from training.students import load_student
from training.teachers import DualEncoder, weights_fingerprint
from training.utils.files import scratch_folder
from training.utils.output import claim_folder
from training.utils.results import RESULTS_FILE, Row

NO_CALIBRATION = (
    "Photographs or other images of the model's kind set its ranges: name some with --calibration."
)
UNCHECKED = (
    "No accuracy check is possible: the folder names no validation set. The files are marked as unchecked. To check "
    "them, name a labelled set: --data PATH --class_names NAMES.json"
)


def export(options: ExportOptions) -> list[Verdict]:
    """Export a model and write the files that pass the accuracy gate.

    Returns:
        A verdict for each requested file, including refused ones.

    Raises:
        ValueError: The folder is not a complete model, the format does not exist, lacks a number format or is not
            installed, it cannot represent the model, or the labelled set cannot be used.
    """
    export_format = find_format(options.format)
    export_format.check(options)
    student, processor = load_student(options.folder, "folder")
    if export_format.suffix:  # layouts of other tools have all dimensions
        student.config.truncate_dim = (
            type(student.config).from_pretrained(options.folder).truncate_dim
        )
    data = GateData.from_options(options)
    model = DualEncoder(student.eval(), processor, options.folder)
    files = ExportedFiles(export_format, weights_fingerprint(student), data.source)
    folder, output_dir = Path(options.folder), Path(options.output_dir)
    with _open_output(options) as scratch:
        if export_format.suffix:
            _write_files(options, files, Gate(model, data, export_format, options.threads), scratch)
        else:
            target = (
                output_dir / export_format.name
            )  # its final place, which some layouts contain as a path
            shutil.rmtree(target, ignore_errors=True)
            try:
                export_format.functions.write(folder, student, target)
                files.verdicts.append(check_layout(export_format, target, model, data))
            except BaseException:
                shutil.rmtree(target, ignore_errors=True)
                raise
        write_output(files, scratch, folder, output_dir)
    return files.verdicts


@contextmanager
def _open_output(options: ExportOptions) -> Iterator[Path]:
    """Claim the output folder, and yield the path of an empty scratch folder in it.

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


def _write_files(options: ExportOptions, files: ExportedFiles, gate: Gate, scratch: Path):
    """Write and check the files of both towers, or of one, in all number formats."""
    export_format, data, student = files.format, gate.data, gate.student
    towers = TOWERS if options.towers == "both" else (options.towers,)
    requested = options.variants or tuple(export_format.variants)
    # fp32 is always written: the other variants are made from it and compared with it
    variants = [name for name in export_format.variants if name == "fp32" or name in requested]
    files.rows += gate.rows()
    steps = [(tower, variant) for tower in towers for variant in variants]
    for tower, variant in (progress := tqdm(steps, desc="export", unit="file")):
        path, fp32 = (scratch / export_format.file_name(tower, kind) for kind in (variant, "fp32"))
        progress.set_postfix_str(path.name)
        if data.calibration is None and (tower, variant) == ("vision", "int8"):
            verdict, rows = gate.refuse(tower, variant, path, NO_CALIBRATION), list[Row]()
        else:
            images = data.calibration_images(student.processor)
            export_format.functions.write_tower(student.model, tower, variant, path, images)
            verdict, rows = gate.check(tower, variant, path, fp32)
        if variant in requested:
            files.verdicts.append(verdict)
            files.rows += rows
