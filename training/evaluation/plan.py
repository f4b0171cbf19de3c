"""From options to the classification tasks and the data of a run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from training.evaluation.options import EvalOptions
from training.evaluation.retrieval import RetrievalSet, open_retrieval_set
from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.labelled_sets import (
    HUB,
    LabelledSet,
    MissingDataError,
    Source,
    open_set,
)
from training.evaluation.sets.protocols import CLASS_NAMES, IMAGENET, PROTOCOLS, SETS, find_sets
from training.evaluation.sets.templates import (
    CLIP_BENCHMARK,
    NOT_INSTALLED,
    OURS,
    SOURCES,
    Templates,
    imagenet_is_installed,
    imagenet_names,
    read_templates,
    templates_of,
)
from training.text.writing_systems import LANGUAGES


@dataclass(frozen=True)
class EvalTask:
    """One classification task: one set, measured by one protocol, in one language.

    Args:
        set: Id of the test set.
        protocol: Name of the protocol.
        language: Language of the candidate classes.
        class_names: Names of the classes in all languages.
        names_source: Source of the names of the candidate classes.
        templates: Prompt templates.
        metric: Metric that the table shows.
        squashed: Whether images are resized to a square without a crop. None: as the model's image processor does.
    """

    set: str
    protocol: str
    language: str
    class_names: ClassNames
    names_source: str
    templates: Templates
    metric: str = "top1"
    squashed: bool | None = None

    @property
    def title(self) -> str:
        """Protocol and language; a named protocol has only one language."""
        return self.protocol if self.protocol in PROTOCOLS else f"{self.protocol}, {self.language}"

    @property
    def candidates(self) -> list[str]:
        """Names of the classes in the language of the task, in class order."""
        return self.class_names.in_language(self.language)


@dataclass(frozen=True)
class EvalPlan:
    """Tasks and data of a run.

    Args:
        tasks: Classification tasks, set by set.
        sets: Test sets that are available, by id.
        missing: Reason why each other set is missing, by id.
        retrieval_sets: Images with captions, for retrieval.
    """

    tasks: Sequence[EvalTask]
    sets: dict[str, LabelledSet]
    missing: dict[str, str] = field(default_factory=dict)
    retrieval_sets: Sequence[RetrievalSet] = ()

    @classmethod
    def open(cls, options: EvalOptions) -> "EvalPlan":
        """Find the tasks and load the data, in this order, so that a wrong option is reported before any download.

        Raises:
            ValueError: An option names something that does not exist, or no set is available.
        """
        tasks = _make_tasks(options)
        retrieval_sets = _open_retrieval_sets(options)
        sets, missing = _open_sets(options, tasks)
        return cls(tasks, sets, missing, retrieval_sets)

    @property
    def available_tasks(self) -> list[EvalTask]:
        """Tasks whose set is available."""
        return [task for task in self.tasks if task.set in self.sets]


def protocol_tasks(protocols: Sequence[str], sets: Sequence[str], templates: str) -> list[EvalTask]:
    """Tasks of all sets in all protocols, set by set.

    Raises:
        ValueError: A protocol does not exist, or class names or templates are missing.
    """
    if unknown := [name for name in protocols if name not in PROTOCOLS]:
        raise ValueError(
            f"protocol: {unknown[0]!r} does not exist. Expected: {', '.join(PROTOCOLS)}. For your own sets and "
            "classes give --class_names instead."
        )
    tasks = []
    for name in sets:
        if name == IMAGENET:
            class_names = imagenet_names(with_chinese="elevater-zh" in protocols)
            sources = dict.fromkeys(("en", "zh"), CLIP_BENCHMARK)
        else:
            class_names = ClassNames.read(name)
            sources = {"en": "ELEVATER", "zh": f"{OURS} (names/{name}.json)"}
        for protocol in protocols:
            language, eval_set = PROTOCOLS[protocol], SETS[name]
            lines = templates_of(name, language, templates)
            fields = (name, protocol, language, class_names, sources[language], lines)
            tasks.append(EvalTask(*fields, eval_set.metric, eval_set.squashed))
    return tasks


def _make_tasks(options: EvalOptions) -> list[EvalTask]:
    if options.protocol:
        sets = options.sets or ["all" if imagenet_is_installed() else "elevater"]
        return protocol_tasks(
            list(dict.fromkeys(options.protocol)), find_sets(sets), options.templates
        )
    if not options.class_names:
        return []
    class_names = ClassNames.read(options.class_names, options.language)
    default = [language for language in LANGUAGES if language in class_names.names] or [
        class_names.key
    ]
    languages = list(dict.fromkeys(options.language or default))
    for language in languages:
        class_names.in_language(language)
    source = options.class_names if options.class_names in SETS else Path(options.class_names).name
    tasks = []
    for name in _find_sources(options):
        for language in languages:
            templates = Templates(("{}",), "none")
            if options.templates not in SOURCES:
                templates = read_templates(options.templates, language, name)
            tasks.append(EvalTask(name, CLASS_NAMES, language, class_names, source, templates))
    return tasks


def _find_sources(options: EvalOptions) -> dict[str, Source]:
    """Source of each set that `data` names, as SET=SOURCE; without a protocol, a source alone also names the set."""
    sources: dict[str, Source] = {}
    for entry in options.data:
        name, separator, location = entry.partition("=")
        if options.class_names and not separator:
            name, location = entry, entry
        elif options.protocol and name not in SETS:
            raise ValueError(
                f"data: {name!r} is not a set. Expected: {', '.join(SETS)}. Give SET=SOURCE."
            )
        if not location:
            raise ValueError(f"data: {entry!r} names no source. Give {name}=SOURCE.")
        if name in sources:
            raise ValueError(f"data: {name} is given twice. Give each set one source.")
        columns = options.image_column, options.label_column
        sources[name] = Source(location, options.split, *columns, options.allow_paths)
    return sources


def _open_sets(
    options: EvalOptions, tasks: Sequence[EvalTask]
) -> tuple[dict[str, LabelledSet], dict[str, str]]:
    """The available sets, and the reason for each missing one.

    Sets that `data` names are loaded first, so that a wrong source is reported before a download.
    """
    class_names = {task.set: task.class_names for task in tasks}
    if not class_names:
        return {}, {}
    sources = _find_sources(options)
    if unused := sorted(set(sources) - set(class_names)):
        raise ValueError(
            f"data: {unused} are not among --sets, {', '.join(class_names)}. Add them there."
        )
    without_imagenet = options.protocol and not options.sets and not imagenet_is_installed()
    missing = {IMAGENET: NOT_INSTALLED} if without_imagenet else {}
    sets: dict[str, LabelledSet] = {}
    names = sorted(class_names, key=lambda name: name not in sources)
    for name in tqdm(names, desc="test sets", unit="set", leave=False):
        eval_set = None if CLASS_NAMES in {task.protocol for task in tasks} else SETS[name]
        try:
            sets[name] = open_set(name, sources.get(name, Source(HUB)), class_names[name], eval_set)
        except MissingDataError as error:
            missing[name] = str(error)
    if not sets:
        reasons = "; ".join(
            f"{', '.join(names)}: {reason}" for reason, names in group_reasons(missing).items()
        )
        raise ValueError(
            f"data: none of the sets is available ({reasons}). Give one with --data SET=SOURCE."
        )
    return sets, missing


def group_reasons(missing: dict[str, str]) -> dict[str, list[str]]:
    """Sets by the reason why they are missing."""
    groups: dict[str, list[str]] = {}
    for name, reason in missing.items():
        groups.setdefault(reason, []).append(name)
    return groups


def _open_retrieval_sets(options: EvalOptions) -> list[RetrievalSet]:
    retrieval_sets: dict[str, RetrievalSet] = {}
    for entry in options.retrieval:
        name, _, location = entry.partition("=") if "=" in entry else (entry, "", entry)
        if name in retrieval_sets or not (name and location):
            raise ValueError(
                f"retrieval: {entry!r} repeats a name, or names no source. Give NAME=SOURCE."
            )
        columns = options.image_column, options.caption_columns
        retrieval_sets[name] = open_retrieval_set(
            name, location, options.split, *columns, options.allow_paths
        )
    return list(retrieval_sets.values())
