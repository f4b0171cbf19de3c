"""Results of evaluations, with their models named by role."""

from dataclasses import replace
from pathlib import Path

from training.text.writing_systems import LANGUAGES
from training.utils.results import RESULTS_FILE, Results, Row, make_meta

FINISHED = "aligned"
BASELINES = "baselines"  # of training/studies/photographs, whose rows name their models already
ROLES = ("teacher", "distilled", FINISHED, "no_teacher", BASELINES)
DATA = "Flickr8k validation (690 photographs, en and zh), CIFAR-10 test, Tiny ImageNet validation"
ROLE = {True: "student", False: "teacher"}


def read_results(named: list[str], command: str, kept: str | Path | None = None) -> Results | None:
    """Read results of evaluations, and name their models by role.

    Args:
        named: Folders with results, each ROLE=FOLDER.
        command: Command of this run.
        kept: Folder with an earlier report. Its rows of roles that are not named are kept.

    Returns:
        All rows; None without results.

    Raises:
        ValueError: A role is unknown, a file is missing, or the finished student has no results.
    """
    rows: list[Row] = []
    evaluations: dict[str, list[str]] = {}
    for entry in named:
        role, _, folder = entry.partition("=")
        path = Path(folder) / RESULTS_FILE
        if role not in ROLES or not path.is_file():
            raise ValueError(
                f"results: {entry!r} is not ROLE=FOLDER with one of {', '.join(ROLES)} and a folder that "
                "training/eval.py has written."
            )
        read = Results.read(path)
        rows += [_with_role(row, role, read.rows[0].model) for row in read.rows]
        evaluations.setdefault(role, []).append(read.meta["command"])
    if named and not any(row.stage == FINISHED for row in rows):
        raise ValueError(f"results: there is none of the finished student. Add {FINISHED}=FOLDER.")
    if kept is not None:
        report = Results.read(Path(kept) / RESULTS_FILE)
        missing = [role for role in report.meta["evaluations"] if role not in evaluations]
        rows += [row for row in report.rows if role_of(row) in missing]
        evaluations |= {role: report.meta["evaluations"][role] for role in missing}
    meta = make_meta(DATA, 0, command, evaluations=evaluations)
    return Results(meta, rows) if rows else None


def role_of(row: Row) -> str:
    """The role of the model of a row, as `read_results` wrote it."""
    return row.stage or ("teacher" if row.model == "teacher" else BASELINES)


def _with_role(row: Row, role: str, own: str) -> Row:
    row = replace(row, metric=short_metric(row.metric))
    if role == BASELINES:
        return row
    model, stage = ("teacher", None) if role == "teacher" else ("student", role)
    return replace(row, model=model if row.model == own else joint_role(row.model, own), stage=stage)


def joint_role(name: str, own: str) -> str:
    """Name a pair of models by role. One encodes the images, the other the texts.

    Args:
        name: Names of both, `A images, B texts`.
        own: Name of the student; the other model is the teacher.
    """
    images, texts = name.removesuffix(" texts").split(" images, ")
    return f"{ROLE[images == own]} images, {ROLE[texts == own]} texts"


def short_metric(name: str) -> str:
    """The name of a recall as in training logs, such as `t2i_recall@5` for `text_to_image_R@5`."""
    return name.replace("text_to_image_R@", "t2i_recall@").replace("image_to_text_R@", "i2t_recall@")


def for_card(results: Results) -> Results:
    """Results of single models in one language by the usual metrics, of the many that an evaluation writes.

    Args:
        results: All results.
    """
    rows = [
        row
        for row in results.rows
        if row.language in LANGUAGES and " images, " not in row.model and role_of(row) != BASELINES
    ]
    return Results(results.meta, [row for row in rows if row.metric == "top1" or "recall@" in row.metric])
