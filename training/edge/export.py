"""Export a finished model: trace its towers, quantize them, check each file, and write those that pass."""

import shutil
from pathlib import Path

from tqdm.auto import tqdm

from training.edge.formats import TOWERS, ExportOptions, find_format
from training.edge.gate import Gate, check_layout
from training.edge.gate_data import GateData
from training.edge.output import copied_names, holds_only_exports, write_output
from training.edge.verdict import Verdict
from training.students import load_student
from training.teachers import DualEncoder, weights_fingerprint
from training.utils.files import scratch_folder
from training.utils.output import claim_folder
from training.utils.results import RESULTS_FILE

NO_CALIBRATION = (
    "Photographs or other images of the model's kind set its ranges: name some with --calibration."
)
UNCHECKED = (
    "No accuracy check is possible: the folder names no validation set. The files are marked as unchecked. To check "
    "them, name a labeled set: --data PATH --class_names NAMES.json"
)


def export(options: ExportOptions) -> list[Verdict]:
    """Export a model and write the files that pass the accuracy gate.

    Returns:
        A verdict for each requested file, including refused ones.

    Raises:
        ValueError: The folder is not a complete model, the format does not exist, lacks a number format or is not
            installed, it cannot represent the model, the labeled set cannot be used, or the output folder has files
            that an export did not write.
    """
    export_format = find_format(options.format)
    export_format.check(options)
    student, processor = load_student(options.folder, "folder")
    config = type(student.config).from_pretrained(options.folder)
    student.config.truncate_dim = config.truncate_dim  # loaded with all dimensions
    data = GateData.from_options(options)
    model = DualEncoder(student.eval(), processor, options.folder)
    folder = Path(options.folder)
    output_dir = Path(options.output_dir)
    is_own = output_dir.resolve() == folder.resolve()
    names = [options.format] if is_own else [options.format, RESULTS_FILE, *copied_names(folder)]
    overwrite = options.overwrite or (is_own and holds_only_exports(folder, options.format))
    with (
        claim_folder(options.output_dir, names, command="export", overwrite=overwrite),
        scratch_folder(output_dir / "export") as scratch,
    ):
        if export_format.suffix:
            verdicts = _write_files(options, Gate(model, data, export_format), scratch)
        else:
            # its final place, which some layouts contain as a path
            target = output_dir / export_format.name
            shutil.rmtree(target, ignore_errors=True)
            try:
                export_format.functions.write(folder, target)
                verdicts = [check_layout(export_format, target, model, data)]
            except BaseException:
                shutil.rmtree(target, ignore_errors=True)
                raise
        weights = weights_fingerprint(student)
        write_output(export_format, verdicts, weights, data.source, scratch, folder, output_dir)
    return verdicts


def _write_files(options: ExportOptions, gate: Gate, scratch: Path) -> list[Verdict]:
    """Write and check the files of both towers, or of one, in all number formats."""
    export_format = gate.format
    data = gate.data
    student = gate.student
    towers = TOWERS if options.towers == "both" else (options.towers,)
    requested = options.variants or tuple(export_format.variants)
    # fp32 is always written: the other variants are made from it and compared with it
    variants = [name for name in export_format.variants if name == "fp32" or name in requested]
    steps = [(tower, variant) for tower in towers for variant in variants]
    verdicts = []
    for tower, variant in (progress := tqdm(steps, desc="export", unit="file")):
        path = scratch / export_format.file_name(tower, variant)
        fp32 = scratch / export_format.file_name(tower, "fp32")
        progress.set_postfix_str(path.name)
        if data.calibration is None and (tower, variant) == ("vision", "int8"):
            verdict = gate.refuse(tower, variant, path, NO_CALIBRATION)
        else:
            images = data.calibration_images(student.processor)
            export_format.functions.write_tower(student.model, tower, variant, path, images)
            verdict = gate.check(tower, variant, path, fp32)
        if variant in requested:
            verdicts.append(verdict)
    return verdicts
