"""From options to the classification tasks and the data of a run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from training.evaluation.options import EvalOptions
from training.evaluation.retrieval import RetrievalSet, open_retrieval_set
from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.labelled_sets import LabelledSet, open_set
from training.evaluation.sets.protocols import (
    CLASS_NAMES,
    IMAGENET,
    PROTOCOLS,
    SETS,
    Protocol,
    find_protocol,
    find_sets,
)
from training.evaluation.sets.sources import HUB, MissingDataError, Source
from training.evaluation.sets.templates import (
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
    def key(self) -> tuple[str, str, str]:
        """Identifies the task among all tasks of a run."""
        return self.set, self.protocol, self.language

    @property
    def title(self) -> str:
        """Protocol and language; a named protocol has only one language."""
        return self.protocol if self.protocol in PROTOCOLS else f"{self.protocol}, {self.language}"

    @property
    def candidates(self) -> list[str]:
        """Names of the classes in the language of the task, in class order."""
        return self.class_names.in_language(self.language)

    @property
    def keys(self) -> list[str]:
        """Names of the classes in tables and figures, in class order."""
        return self.class_names.names[self.class_names.key]


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


def tasks_by_language(tasks: Iterable[EvalTask]) -> dict[str, list[EvalTask]]:
    """By set, the tasks that differ only in their language, where there are two or more."""
    groups: dict[tuple[str, str], list[EvalTask]] = {}
    for task in tasks:
        groups.setdefault((task.set, task.protocol.removesuffix(f"-{task.language}")), []).append(task)
    return {name: group for (name, _), group in groups.items() if len(group) > 1}


def protocol_tasks(protocols: list[Protocol], sets: list[str], templates: str, imagenet_zh: str) -> list[EvalTask]:
    """Tasks of all sets in all protocols, set by set.

    Args:
        protocols: Protocols to measure by.
        sets: Ids of the sets.
        templates: Source of the templates, as `templates_of` takes it.
        imagenet_zh: Source of the Chinese names of ImageNet, as `imagenet_names` takes it.

    Raises:
        ValueError: Class names or templates are missing.
    """
    tasks = []
    for name in sets:
        if name == IMAGENET:
            chinese = any(protocol.language == "zh" for protocol in protocols)
            class_names, sources = imagenet_names(imagenet_zh if chinese else None)
        else:
            class_names = ClassNames.read(name)
            sources = {"en": "ELEVATER", "zh": f"{OURS} (names/{name}.json)"}
        for protocol in protocols:
            tasks.append(
                EvalTask(
                    name,
                    protocol.name,
                    protocol.language,
                    class_names,
                    sources[protocol.language],
                    templates_of(name, protocol, templates),
                    protocol.metric_of(SETS[name]),
                    protocol.squashes(SETS[name]),
                )
            )
    return tasks


def _make_tasks(options: EvalOptions) -> list[EvalTask]:
    if options.protocol:
        protocols = [find_protocol(name) for name in dict.fromkeys(options.protocol)]
        sets = options.sets or ["all" if imagenet_is_installed() else "elevater"]
        return protocol_tasks(protocols, find_sets(sets), options.templates, options.imagenet_zh)
    if not options.class_names:
        return []
    class_names = ClassNames.read(options.class_names, options.language)
    default = [language for language in LANGUAGES if language in class_names.names] or [class_names.key]
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
    """Source of each set that `data` names."""
    label_names = dict(_named(options, "label_names", options.label_names))
    sources: dict[str, Source] = {}
    for name, location in _named(options, "data", options.data):
        if name in sources:
            raise ValueError(f"data: {name} is given twice. Give each set one source.")
        sources[name] = Source(
            location,
            options.split,
            options.image_column,
            options.label_column,
            label_names.pop(name, None),
            options.allow_urls,
            options.allow_paths,
        )
    if label_names:
        raise ValueError(
            f"label_names: {sorted(label_names)} are not among the sets of --data, {sorted(sources)}. Name one of "
            "these."
        )
    return sources


def _named(options: EvalOptions, option: str, entries: Sequence[str]) -> list[tuple[str, str]]:
    """(set, source) of each entry SET=SOURCE; without a protocol, a source alone also names the set."""
    pairs = []
    for entry in entries:
        name, separator, location = entry.partition("=")
        if options.class_names and not separator:
            name, location = entry, entry
        elif options.protocol and name not in SETS and entry != HUB:
            raise ValueError(f"{option}: {name!r} is not a set. Expected: {', '.join(SETS)}. Give SET=SOURCE.")
        elif not location and entry != HUB:
            raise ValueError(f"{option}: {entry!r} names no source. Give {name}=SOURCE.")
        if entry != HUB:  # `hub` alone is the default of every set
            pairs.append((name, location))
    return pairs


def _open_sets(options: EvalOptions, tasks: Sequence[EvalTask]) -> tuple[dict[str, LabelledSet], dict[str, str]]:
    """The available sets, and the reason for each missing one.

    Sets that `data` names are loaded first, so that a wrong source is reported before a download.
    """
    class_names = {task.set: task.class_names for task in tasks}
    if not class_names:
        return {}, {}
    sources = _find_sources(options)
    if unused := sorted(set(sources) - set(class_names)):
        raise ValueError(f"data: {unused} are not among --sets, {', '.join(class_names)}. Add them there.")
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
        reasons = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in group_reasons(missing).items())
        raise ValueError(f"data: none of the sets is available ({reasons}). Give one with --data SET=SOURCE.")
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
        name, _, location = entry.rpartition("=")
        name = name or location
        if name in retrieval_sets or not location:
            raise ValueError(f"retrieval: {entry!r} repeats a name, or names no source. Give NAME=SOURCE.")
        retrieval_sets[name] = open_retrieval_set(
            name,
            location,
            options.split,
            options.image_column,
            options.caption_columns,
            options.allow_urls,
            options.allow_paths,
        )
    return list(retrieval_sets.values())
