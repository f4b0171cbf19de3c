"""All of an export in order, and the folder that it leaves."""

import importlib.metadata
import itertools
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.config import RECIPE_FILE
from training.edge.formats import FORMATS, ONNX
from training.edge.gate import REFERENCE, Gate
from training.edge.graphs import join
from training.edge.labelled import Labelled
from training.edge.towers import TOWERS
from training.edge.verdict import ALLOWED_POINTS, TOLERANCE, Verdict
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.hub import complete_folder
from training.hub.cards import refresh_card
from training.students import load_student
from training.teachers import weights_fingerprint
from training.utils.files import scratch_folder
from training.utils.results import RESULTS_FILE, Results, Row, make_meta

SCRATCH = ".export.tmp"
# of a folder that is exported to another one: what a training run leaves beside its model
NOT_OF_THE_REPO = ("checkpoint-*", "log.jsonl", "training_state", *FORMATS, "__pycache__", ".*")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export, and what to judge it by.

    Args:
        folder: of a trained model.
        output_dir: where the complete Hub folder goes; the same folder will do.
        format: onnx, for ONNX Runtime and transformers.js, or executorch, for native apps.
        towers: one tower alone, or both.
        variants: number formats: fp32, fp16, int8, q4 (4 bits); ExecuTorch has fp32 and int8. Default: all of the
            format but q4.
        data: labelled set for the gate: a parquet file, a folder, a Hub id or `module:function`. Default: the embedded
            corpus.
        class_names: of `data`: a JSON list of {language: name}, one entry a class, with English and Chinese names, or
            the id of one of ELEVATER's sets, such as cifar-100.
        split: of `data`, where there are several.
        image_column: column of the images.
        label_column: column of the label's name.
        label_language: language in which the data name their labels.
        threads: in timings, within one operator.
    """

    folder: str
    output_dir: str
    format: Literal["onnx", "executorch"] = "onnx"
    towers: Literal["vision", "text", "both"] = "both"
    variants: list[Literal["fp32", "fp16", "int8", "q4"]] | None = None
    data: str | None = None
    class_names: str | None = None
    split: str = "test"
    image_column: str = "image"
    label_column: str = "label"
    label_language: str = "en"
    threads: int = 1


def export(options: ExportOptions) -> list[Verdict]:
    """Trace, quantise, judge, and write what passes.

    Args:
        options: see there.

    Returns:
        A verdict for each file that was asked for, those not written too.

    Raises:
        ValueError: the folder is not a complete model, the format lacks a variant or is not installed, a tower cannot
            be traced, or the labelled set will not do.
    """
    FORMATS[options.format].check(options.variants or ())
    student, processor = _open(options.folder)
    labelled = _labelled(options)
    output_dir = Path(options.output_dir)
    with scratch_folder(output_dir / SCRATCH) as scratch:
        run = _Run(options, student, processor, labelled, scratch)
        with tqdm(total=run.num_steps, desc="export", unit="step") as progress:
            for step in run.steps():
                progress.set_postfix_str(step)
                progress.update()
        _place(run, Path(options.folder), output_dir)
    return run.verdicts


class _Run:
    """One export, in a scratch folder."""

    def __init__(
        self,
        options: ExportOptions,
        student: DCCLIPModel,
        processor: DCCLIPProcessor,
        labelled: Labelled,
        scratch: Path,
    ):
        self.options, self.student, self.scratch = options, student, scratch
        self.model = ZeroShotModel(student, processor, options.folder)
        self.labelled, self.weights = labelled, weights_fingerprint(student)
        self.towers = TOWERS if options.towers == "both" else (options.towers,)
        self.form = FORMATS[options.format]
        self.wanted = options.variants or self.form.usual
        # fp32 is what others are made from and compared with, wanted or not
        self.variants = [variant for variant in self.form.suffixes if variant == "fp32" or variant in self.wanted]
        self.joins = self.form.joins and len(self.towers) == 2
        self.verdicts: list[Verdict] = []
        self.rows: list[Row] = []
        self.kept: dict[tuple[str, str], Path] = {}

    @property
    def num_steps(self) -> int:
        """How many things `steps` does."""
        return 1 + (len(self.towers) + self.joins) * len(self.variants)

    def steps(self) -> Iterator[str]:
        """Do one thing after another, and say which is done."""
        gate = Gate(self.model, self.labelled, self.form, self.options.threads)
        self.rows += gate.rows()
        yield "PyTorch asked"
        for tower in self.towers:
            for variant in self.variants:
                path, images = self._path(tower, variant), self.labelled.calibration_images(self.model.processor)
                self.form.write(self.student, tower, variant, path, images)
                self._note(path, tower, variant, *gate.judge(tower, variant, path, self._path(tower, "fp32")))
                yield f"{path.name} judged"
        if self.joins:
            yield from self._join(gate)

    def _path(self, tower: str, variant: str) -> Path:
        return self.scratch / self.form.file_name(tower, variant)

    def _join(self, gate: Gate) -> Iterator[str]:
        """Files of both towers: of each the variant asked for or, where that was refused, a larger one; the same for
        the image tower where both together lose too much.
        """
        whole = self._path("both", "fp32")
        join(self._path("vision", "fp32"), self._path("text", "fp32"), whole)
        for variant in self.variants:
            path = self._path("both", variant)
            verdict = gate.refuse("both", variant, path, f"No tower of it passed as {variant}.")
            rows: list[Row] = []
            for parts in self._pairs(variant):
                files = {tower: self._path(tower, part) for tower, part in parts.items()}
                if variant != "fp32":
                    join(files["vision"], files["text"], path)
                verdict, rows = gate.judge_joined(variant, path, whole, files, parts)
                if verdict.kept:
                    break
            self._note(path, "both", variant, verdict, rows)
            yield f"{path.name} judged"

    def _pairs(self, variant: str) -> list[dict[str, str]]:
        """The variants of both towers that a file of both can be made of, the smallest first."""
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
        if variant in self.wanted:
            self.verdicts.append(verdict)
            self.rows += rows


def _open(folder: str) -> tuple[DCCLIPModel, DCCLIPProcessor]:
    """A student with its processor.

    Raises:
        ValueError: one of them is not there.
    """
    needed = ("config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json")
    if not Path(folder).is_dir():
        raise ValueError(f"folder: {folder!r} is not a folder. Name one that training/align.py left.")
    for name in needed:
        if not (Path(folder) / name).exists():
            raise ValueError(
                f"folder: {folder!r} has no {name}, so that nothing could run what is exported. Save model and "
                "processor there with save_pretrained."
            )
    student, processor = load_student(folder)
    return student.eval(), processor


def _labelled(options: ExportOptions) -> Labelled:
    if options.data is None:
        if options.class_names is not None:
            raise ValueError(f"class_names: {options.class_names!r} is given without data. Name a labelled set.")
        return Labelled.embedded()
    if options.class_names is None:
        raise ValueError(f"data: {options.data!r} needs class_names, the names of its classes in both languages.")
    return Labelled.read(
        options.data,
        options.class_names,
        options.split,
        options.image_column,
        options.label_column,
        options.label_language,
    )


def _place(run: _Run, folder: Path, output_dir: Path):
    """Move what was made into the output folder, each file whole; then the numbers, and the card that shows them."""
    earlier = _earlier(output_dir, run.weights)
    if folder.resolve() != output_dir.resolve():
        staged = run.scratch / "repo"
        shutil.copytree(folder, staged, ignore=shutil.ignore_patterns(*NOT_OF_THE_REPO, output_dir.name))
        _replace(staged.iterdir(), output_dir)
    complete_folder(output_dir)
    kept = [run.scratch / Path(verdict.file).name for verdict in run.verdicts if verdict.kept]
    _replace(kept, output_dir / run.form.name)
    results = _merge_results(run, earlier, output_dir)
    written = {verdict["file"] for verdict in results.meta["export"]["verdicts"] if verdict["kept"]}
    for form in FORMATS.values():
        for tower, variant in itertools.product((*TOWERS, "both"), form.suffixes):
            # of an earlier export, and refused now or of other weights
            path = output_dir / form.name / form.file_name(tower, variant)
            if form.file(path) not in written:
                path.unlink(missing_ok=True)
    results.write(output_dir)
    if (output_dir / RECIPE_FILE).exists():
        refresh_card(output_dir)


def _replace(files: Iterable[Path], folder: Path):
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        if file.is_dir():
            _replace(file.iterdir(), folder / file.name)
        else:
            file.replace(folder / file.name)


def _earlier(output_dir: Path, weights: str) -> Results:
    """Results of an earlier export of the same weights into this folder; empty where there are none."""
    path = output_dir / RESULTS_FILE
    if path.exists():
        results = Results.read(path)
        if results.meta.get("export", {}).get("weights") == weights:
            return results
    return Results({"export": {"runs": [], "verdicts": []}})


def _merge_results(run: _Run, earlier: Results, output_dir: Path) -> Results:
    """The folder's results, with those of this export, and of earlier ones' other files: each export keeps what made
    it, as long as a file of it is there.
    """
    new = [verdict.file for verdict in run.verdicts]
    made = make_meta(run.labelled.source, None, files=new)
    made["versions"] |= {name: importlib.metadata.version(name) for name in run.form.packages}
    before = earlier.meta["export"]
    runs = [each | {"files": [file for file in each["files"] if file not in new]} for each in before["runs"]]
    runs = [each for each in runs if each["files"]]
    old = [verdict for verdict in before["verdicts"] if verdict["file"] not in new]
    verdicts = old + [asdict(verdict) for verdict in run.verdicts]
    # what the old files were compared with stays, unless it is of the same set
    known = {verdict["file"] for verdict in old} | ({REFERENCE} if old else set())
    sets = {row.set for row in run.rows}
    path = output_dir / RESULTS_FILE
    results = Results.read(path) if path.exists() else Results(made)
    rows = [row for row in results.rows if row.model != REFERENCE and not _is_exported(row.model)]
    rows += [row for row in earlier.rows if row.model in known and not (row.model == REFERENCE and row.set in sets)]
    export = {
        "weights": run.weights,
        "allowed_points": ALLOWED_POINTS,
        "tolerance": TOLERANCE,
        "runs": [*runs, made],
        "verdicts": verdicts,
        "best": _best([verdict for verdict in verdicts if ONNX.owns(verdict["file"])]),
    }
    return Results(results.meta | {"export": export}, rows + run.rows)


def _is_exported(name: str) -> bool:
    return any(form.owns(name) for form in FORMATS.values())


def _best(verdicts: list[dict[str, Any]]) -> dict[str, str]:
    """The file of each tower that the runtime in the folder should take: the fastest and, of those that are as fast,
    the smallest.
    """
    best = {}
    for tower in TOWERS:
        kept = [verdict for verdict in verdicts if verdict["kept"] and verdict["tower"] == tower]
        if kept:
            least = min(verdict["ms_share"] for verdict in kept)
            fast = [verdict for verdict in kept if verdict["ms_share"] <= least * (1 + max(TOLERANCE.values()))]
            best[tower] = min(fast, key=lambda verdict: verdict["bytes"])["file"]
    return best
