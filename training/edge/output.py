"""Write an export to its output folder: the files that passed, the results and the card."""

import itertools
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from training.config import RECIPE_FILE
from training.edge import verdict as limits
from training.edge.formats import FORMATS, Format
from training.edge.gate import REFERENCE
from training.edge.towers import TOWERS
from training.edge.verdict import Verdict
from training.hub import MODEL_FILES, complete_folder, write_card
from training.hub.folder import EARLIER_FILES, refuse_links
from training.utils.files import is_claimed
from training.utils.results import RESULTS_FILE, Results, Row, make_meta

# files of a training run that are not part of the Hub repo
EXCLUDED = (
    "checkpoint-*",
    "log.jsonl",
    "training_state",
    "best",
    "tracking",
    "data",
    "tuned",
    "__pycache__",
    ".*",
)


@dataclass
class ExportedFiles:
    """The files of one export.

    Args:
        format: Format of the files.
        weights: Fingerprint of the exported weights.
        source: Description of the gate's data.
        verdicts: A verdict for each requested file.
        rows: Result rows of PyTorch and of each requested file.
    """

    format: Format
    weights: str
    source: str
    verdicts: list[Verdict] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


def write_output(files: ExportedFiles, scratch: Path, folder: Path, output_dir: Path):
    """Move the files that passed to the output folder, then write results and card. Each file is replaced atomically.

    Files of earlier exports stay if they are of the same weights and this export did not make them anew.

    Args:
        files: Verdicts and rows of the export.
        scratch: Folder that holds its files, in the file system of `output_dir`.
        folder: Folder of the exported model; its files are copied to a different `output_dir`.
        output_dir: The output folder.
    """
    earlier = _read_results(output_dir) or Results({})
    known = {verdict["file"] for verdict in earlier.meta.get("export", {}).get("verdicts", [])}
    is_new = earlier.meta.get("export", {}).get("weights") != files.weights
    if is_new:
        earlier = Results({"export": {"runs": [], "verdicts": []}})
    if folder.resolve() != output_dir.resolve():
        refuse_links(folder, folder.rglob("*"))
        shutil.copytree(folder, scratch / "repo", ignore=_ignored(output_dir))
        for name in (
            (RESULTS_FILE, *EARLIER_FILES) if is_new else ()
        ):  # of the model that was exported there before
            (output_dir / name).unlink(missing_ok=True)
        _replace((scratch / "repo").iterdir(), output_dir)
    complete_folder(output_dir)
    if files.format.suffix:
        kept = [scratch / Path(verdict.file).name for verdict in files.verdicts if verdict.kept]
        _replace(kept, output_dir / files.format.name)
    results = _merge_results(files, earlier, output_dir)
    own = files.format.name
    known |= {own, *(f"{own}/{path.name}" for path in (output_dir / own).glob("*"))}
    _remove_stale(
        output_dir,
        known - {entry["file"] for entry in results.meta["export"]["verdicts"] if entry["kept"]},
    )
    results.write(output_dir)
    if (output_dir / RECIPE_FILE).exists():
        write_card(output_dir)


def copied_names(folder: Path, output_dir: Path) -> list[str]:
    """Names of the files and folders of a model that are copied to another output folder."""
    names = [path.name for path in folder.iterdir()]
    return sorted({*names, *MODEL_FILES} - _ignored(output_dir)(str(folder), names))


def holds_only_exports(folder: Path, name: str) -> bool:
    """Whether `results.json` names every file in a subfolder of a model as exported, as in a downloaded model."""
    results = _read_results(folder)
    export = results.meta.get("export", {}) if results is not None else {}
    known = {verdict["file"] for verdict in export.get("verdicts", []) if verdict["kept"]}
    paths = [path for path in (folder / name).rglob("*") if not path.is_dir()]
    return name in known or all(path.relative_to(folder).as_posix() in known for path in paths)


def _read_results(folder: Path) -> Results | None:
    """Results of a folder, with the record of earlier exports checked; None if it has no results."""
    path = folder / RESULTS_FILE
    if not path.exists():
        return None
    results = Results.read(path)
    export = results.meta.get("export", {})
    try:
        for verdict in export.get("verdicts", []):
            (
                verdict["file"],
                verdict["kept"],
                verdict["tower"],
                verdict["bytes"],
                verdict["ms_share"],
            )
        for run in export.get("runs", []):
            run["files"]
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(
            f"{RESULTS_FILE}: the record of exports in {str(path)!r} is damaged ({error!r}). Copy the file again, or "
            "remove it and export again."
        ) from error
    return results


def _ignored(output_dir: Path) -> Callable[[str, list[str]], set[str]]:
    """Names in a folder that are not copied, such as other outputs in it, which a command has claimed."""
    by_name = shutil.ignore_patterns(*EXCLUDED, *FORMATS, output_dir.name)

    def ignore(folder: str, names: list[str]) -> set[str]:
        return by_name(folder, names) | {name for name in names if is_claimed(Path(folder, name))}

    return ignore


def _replace(files: Iterable[Path], folder: Path):
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        if file.is_dir():
            _replace(file.iterdir(), folder / file.name)
        else:
            file.replace(folder / file.name)


def _remove_stale(output_dir: Path, dropped: set[str]):
    """Remove files and layouts that no verdict keeps any longer, such as refused files and files of other weights."""
    for entry in FORMATS.values():
        if not entry.suffix and entry.name in dropped:
            shutil.rmtree(output_dir / entry.name, ignore_errors=True)
        for tower, variant in itertools.product(TOWERS, entry.variants) if entry.suffix else ():
            name = f"{entry.name}/{entry.file_name(tower, variant)}"
            if name in dropped:
                (output_dir / name).unlink(missing_ok=True)


def _merge_results(files: ExportedFiles, earlier: Results, output_dir: Path) -> Results:
    """The folder's results, merged with this export and the remaining files of earlier exports.

    The command of an earlier export is kept as long as one of its files remains.
    """
    new = [verdict.file for verdict in files.verdicts]
    run = make_meta(files.source, None, files=new)
    run["versions"] |= files.format.versions()
    before = earlier.meta["export"]
    runs = [
        each | {"files": [file for file in each["files"] if file not in new]}
        for each in before["runs"]
    ]
    runs = [each for each in [*runs, run] if each["files"]]
    old = [verdict for verdict in before["verdicts"] if verdict["file"] not in new]
    verdicts = old + [asdict(verdict) for verdict in files.verdicts]
    # rows of PyTorch on the sets of earlier exports stay, since the old verdicts refer to them
    known = {verdict["file"] for verdict in old} | ({REFERENCE} if old else set())
    sets = {row.set for row in files.rows}
    results, formats = _read_results(output_dir) or Results(run), FORMATS.values()
    rows = [
        row
        for row in results.rows
        if row.model != REFERENCE and not any(each.contains(row.model) for each in formats)
    ]
    rows += [
        row
        for row in earlier.rows
        if row.model in known and not (row.model == REFERENCE and row.set in sets)
    ]
    export = {
        "weights": files.weights,
        "allowed_points": limits.ALLOWED_POINTS,
        "tolerance": limits.TOLERANCE,
        "runs": runs,
        "verdicts": verdicts,
        "best": best_files(
            [verdict for verdict in verdicts if FORMATS["onnx"].contains(verdict["file"])]
        ),
    }
    return Results(results.meta | {"export": export}, rows + files.rows)


def best_files(verdicts: list[dict[str, Any]]) -> dict[str, str]:
    """Path in the repo of the file of each tower that `runtime_dcclip.py` loads: the fastest, then the smallest."""
    best = {}
    for tower in TOWERS:
        kept = [verdict for verdict in verdicts if verdict["kept"] and verdict["tower"] == tower]
        if kept:
            best[tower] = min(kept, key=lambda verdict: (verdict["ms_share"], verdict["bytes"]))[
                "file"
            ]
    return best
