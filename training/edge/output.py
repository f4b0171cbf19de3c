"""Write an export to its output folder: the files that passed, the results and the card."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.config import RECIPE_FILE
from training.edge import verdict as limits
from training.edge.formats import FORMATS, TOWERS, Format
from training.edge.verdict import Verdict
from training.hub import complete_folder, write_card
from training.hub.files import EARLIER_FILES, README, published
from training.hub.folder import refuse_links
from training.utils.files import atomic_write
from training.utils.results import RESULTS_FILE, Results, make_meta


def read_record(folder: Path) -> dict[str, Any]:
    """The record of earlier exports in `results.json`: `weights`, `verdicts` and `runs`."""
    path = folder / RESULTS_FILE
    record = Results.read(path).meta.get("export", {}) if path.exists() else {}
    return {"weights": None, "verdicts": [], "runs": []} | record


def write_output(
    export_format: Format,
    verdicts: list[Verdict],
    weights: str,
    source: str,
    scratch: Path,
    folder: Path,
    output_dir: Path,
):
    """Move the files that passed to the output folder, then write results and card. Each file is replaced atomically.

    Files of earlier exports stay if they are of the same weights and this export did not make them anew.

    Args:
        export_format: Format of the files.
        verdicts: A verdict for each requested file.
        weights: Fingerprint of the exported weights.
        source: Description of the gate's data.
        scratch: Folder that holds the files, in the file system of `output_dir`.
        folder: Folder of the exported model; its files are copied to a different `output_dir`.
        output_dir: The output folder.
    """
    before = read_record(output_dir)
    is_same = before["weights"] == weights
    if folder.resolve() != output_dir.resolve():
        if not is_same:  # these belong to the model that was exported there before
            for name in (RESULTS_FILE, *EARLIER_FILES):
                (output_dir / name).unlink(missing_ok=True)
        for name in copied_names(folder):
            refuse_links(folder, [folder / name])
            with atomic_write(output_dir / name) as copy:
                shutil.copyfile(folder / name, copy)
    complete_folder(output_dir)
    if export_format.suffix:
        (output_dir / export_format.name).mkdir(exist_ok=True)
        for verdict in verdicts:
            if verdict.kept:
                name = Path(verdict.file).name
                (scratch / name).replace(output_dir / verdict.file)
    earlier = {entry["file"]: entry for entry in before["verdicts"]}
    stale = {*export_format.files(), *earlier}
    if not is_same:
        earlier.clear()
    new = {verdict.file: asdict(verdict) for verdict in verdicts}
    for file in new:
        earlier.pop(file, None)
    entries = [*earlier.values(), *new.values()]
    kept = {entry["file"] for entry in entries if entry["kept"]}
    _remove(output_dir, stale - kept)
    runs = []
    for each in before["runs"]:
        each["files"] = [file for file in each["files"] if file in earlier]
        if each["files"]:
            runs.append(each)
    run = make_meta(source, None, files=list(new))
    run["versions"] |= export_format.versions()
    path = output_dir / RESULTS_FILE
    results = Results.read(path) if path.exists() else Results(run)
    folders = {file.partition("/")[0] for file in kept}
    formats = [form for form in FORMATS.values() if form.name in folders]
    export = {
        "weights": weights,
        "tags": [tag for each in formats for tag in each.tags],
        "uses": [form.use for form in formats if form.use],
        "allowed_points": limits.ALLOWED_POINTS,
        "tolerance": limits.TOLERANCE,
        "runs": [*runs, run],
        "verdicts": entries,
        "best": best_files(entries),
    }
    Results(results.meta | {"export": export}, results.rows).write(output_dir)
    if (output_dir / RECIPE_FILE).exists():
        write_card(output_dir)


def copied_names(folder: Path) -> list[str]:
    """Names of the files of a model that are copied to another output folder: those that may be published."""
    card = folder / README
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    return published((path.name for path in folder.iterdir() if path.is_file()), text)


def holds_only_exports(folder: Path, name: str) -> bool:
    """Whether `results.json` names every file in a subfolder of a model as exported, as in a downloaded model."""
    known = {entry["file"] for entry in read_record(folder)["verdicts"] if entry["kept"]}
    if name in known:
        return True
    for path in (folder / name).rglob("*"):
        if not path.is_dir() and path.relative_to(folder).as_posix() not in known:
            return False
    return True


def _remove(output_dir: Path, files: set[str]):
    """Remove files and layouts of exports, and nothing else that a damaged record may name."""
    for each in FORMATS.values():
        for file in files.intersection(each.files()):
            path = output_dir / file
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def best_files(verdicts: list[dict[str, Any]]) -> dict[str, str]:
    """Path in the repo of the file of each tower that `runtime_dcclip.py` loads: the fastest, then the smallest."""
    best = {}
    for tower in TOWERS:
        kept = [
            each
            for each in verdicts
            if each["kept"] and each["tower"] == tower and each["file"].startswith("onnx/")
        ]
        if kept:
            fastest = min(kept, key=lambda choice: (choice["ms_share"], choice["bytes"]))
            best[tower] = fastest["file"]
    return best
