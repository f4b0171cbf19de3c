"""Write an export to its output folder: the files that passed, the results and the card."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from training.config import RECIPE_FILE
from training.edge import verdict as limits
from training.edge.formats import FORMATS, TOWERS, Format
from training.edge.gate import REFERENCE
from training.edge.verdict import Verdict
from training.hub import MODEL_FILES, complete_folder, write_card
from training.hub.files import EARLIER_FILES
from training.hub.folder import refuse_links
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


@dataclass
class EarlierExports:
    """The record of earlier exports in an output folder.

    Args:
        weights: Fingerprint of their weights; None if there were none.
        verdicts: Their verdicts.
        runs: Their commands, each with its `files`.
        rows: All result rows of the folder.
    """

    weights: str | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> "EarlierExports":
        """Read the record in `results.json`.

        Raises:
            ValueError: It is damaged.
        """
        path = folder / RESULTS_FILE
        if not path.exists():
            return cls()
        results = Results.read(path)
        export = results.meta.get("export", {})
        try:
            verdicts = [Verdict(**entry) for entry in export.get("verdicts", [])]
            runs = [run | {"files": list(run["files"])} for run in export.get("runs", [])]
            return cls(export.get("weights"), verdicts, runs, results.rows)
        except (AttributeError, LookupError, TypeError) as error:
            raise ValueError(
                f"{RESULTS_FILE}: the record of exports in {str(path)!r} is damaged ({error!r}). Copy the file again, "
                "or remove it and export again."
            ) from error


def write_output(files: ExportedFiles, scratch: Path, folder: Path, output_dir: Path):
    """Move the files that passed to the output folder, then write results and card. Each file is replaced atomically.

    Files of earlier exports stay if they are of the same weights and this export did not make them anew.

    Args:
        files: Verdicts and rows of the export.
        scratch: Folder that holds its files, in the file system of `output_dir`.
        folder: Folder of the exported model; its files are copied to a different `output_dir`.
        output_dir: The output folder.
    """
    before = EarlierExports.read(output_dir)
    is_same = before.weights == files.weights
    if folder.resolve() != output_dir.resolve():
        refuse_links(folder, folder.rglob("*"))
        shutil.copytree(folder, scratch / "repo", ignore=_ignored(output_dir))
        if not is_same:  # these belong to the model that was exported there before
            for name in (RESULTS_FILE, *EARLIER_FILES):
                (output_dir / name).unlink(missing_ok=True)
        _replace((scratch / "repo").iterdir(), output_dir)
    complete_folder(output_dir)
    if files.format.suffix:
        made = [scratch / Path(verdict.file).name for verdict in files.verdicts if verdict.kept]
        _replace(made, output_dir / files.format.name)
    new = {verdict.file for verdict in files.verdicts}
    earlier = [verdict for verdict in before.verdicts if is_same and verdict.file not in new]
    verdicts = [*earlier, *files.verdicts]
    stale = {verdict.file for verdict in before.verdicts} | {*files.format.files()}
    _remove(output_dir, stale - {verdict.file for verdict in verdicts if verdict.kept})
    _merge_results(files, before, earlier, output_dir).write(output_dir)
    if (output_dir / RECIPE_FILE).exists():
        write_card(output_dir)


def copied_names(folder: Path, output_dir: Path) -> list[str]:
    """Names of the files and folders of a model that are copied to another output folder."""
    names = [path.name for path in folder.iterdir()]
    return sorted({*names, *MODEL_FILES} - _ignored(output_dir)(str(folder), names))


def holds_only_exports(folder: Path, name: str) -> bool:
    """Whether `results.json` names every file in a subfolder of a model as exported, as in a downloaded model."""
    known = {verdict.file for verdict in EarlierExports.read(folder).verdicts if verdict.kept}
    paths = [path for path in (folder / name).rglob("*") if not path.is_dir()]
    return name in known or all(path.relative_to(folder).as_posix() in known for path in paths)


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


def _remove(output_dir: Path, files: set[str]):
    """Remove files and layouts of exports, and nothing else that a damaged record may name."""
    for name in {file for entry in FORMATS.values() for file in entry.files()} & files:
        if (output_dir / name).is_dir():
            shutil.rmtree(output_dir / name)
        else:
            (output_dir / name).unlink(missing_ok=True)


def _merge_results(
    files: ExportedFiles, before: EarlierExports, earlier: list[Verdict], output_dir: Path
) -> Results:
    """The model's results with this export and the earlier verdicts that stay."""
    names = {verdict.file for verdict in earlier}
    run = make_meta(files.source, None, files=[verdict.file for verdict in files.verdicts])
    run["versions"] |= files.format.versions()
    runs = [
        each | {"files": [file for file in each["files"] if file in names]} for each in before.runs
    ]
    path = output_dir / RESULTS_FILE
    results = Results.read(path) if path.exists() else Results(run)
    rows = [
        row
        for row in results.rows
        if row.model != REFERENCE and not any(each.contains(row.model) for each in FORMATS.values())
    ]
    # PyTorch's rows on the sets of earlier verdicts stay with them
    sets = {row.set for row in files.rows} if names else {row.set for row in before.rows}
    rows += [
        row
        for row in before.rows
        if row.model in names or (row.model == REFERENCE and row.set not in sets)
    ]
    verdicts = [*earlier, *files.verdicts]
    export = {
        "weights": files.weights,
        "allowed_points": limits.ALLOWED_POINTS,
        "tolerance": limits.TOLERANCE,
        "runs": [each for each in [*runs, run] if each["files"]],
        "verdicts": [asdict(verdict) for verdict in verdicts],
        "best": best_files(verdicts),
    }
    return Results(results.meta | {"export": export}, rows + files.rows)


def best_files(verdicts: list[Verdict]) -> dict[str, str]:
    """Path in the repo of the file of each tower that `runtime_dcclip.py` loads: the fastest, then the smallest."""
    best = {}
    for tower in TOWERS:
        kept = [
            verdict
            for verdict in verdicts
            if verdict.kept and verdict.tower == tower and FORMATS["onnx"].contains(verdict.file)
        ]
        if kept:
            best[tower] = min(kept, key=lambda verdict: (verdict.ms_share, verdict.bytes)).file
    return best
