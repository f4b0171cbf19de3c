"""From options to the tasks and the data of a run."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tqdm.auto import tqdm

from training.evaluation.options import EvalOptions
from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.eval_tasks import EvalTask, own_tasks, protocol_tasks
from training.evaluation.sets.imagenet import NOT_INSTALLED, imagenet_is_installed
from training.evaluation.sets.labelled_sets import LabelledSet, open_set
from training.evaluation.sets.protocols import CLASS_NAMES, IMAGENET, SETS, find_protocol, find_sets
from training.evaluation.sets.retrieval_sets import RetrievalSet, open_retrieval_set
from training.evaluation.sets.sources import HUB, MissingDataError, Source
from training.evaluation.sets.templates import SOURCES
from training.text.writing_systems import LANGUAGES


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
        tasks = make_tasks(options)
        retrieval_sets = open_retrieval_sets(options)
        sets, missing = open_sets(options, tasks)
        return cls(tasks, sets, missing, retrieval_sets)

    @property
    def available_tasks(self) -> list[EvalTask]:
        """Tasks whose set is available."""
        return [task for task in self.tasks if task.set in self.sets]


def make_tasks(options: EvalOptions) -> list[EvalTask]:
    """Classification tasks of a run, set by set.

    Raises:
        ValueError: A protocol, set, language, class name or template does not exist.
    """
    if options.protocol:
        protocols = [find_protocol(name) for name in dict.fromkeys(options.protocol)]
        sets = options.sets or ["all" if imagenet_is_installed() else "elevater"]
        return protocol_tasks(protocols, find_sets(sets), options.templates, options.imagenet_zh)
    if not options.class_names:
        return []
    class_names = ClassNames.read(options.class_names, options.label_language, options.language)
    default = [language for language in LANGUAGES if language in class_names.names] or [class_names.key]
    languages = list(dict.fromkeys(options.language or default))
    templates = None if options.templates in SOURCES else options.templates
    return own_tasks(list(find_sources(options)), class_names, options.class_names, languages, templates)


def find_sources(options: EvalOptions) -> dict[str, Source]:
    """Source of each set that `data` names.

    Raises:
        ValueError: A set is named twice, or does not belong to the protocol.
    """
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
            raise ValueError(f"{option}: there is no set {name!r}, only {', '.join(SETS)}. Give SET=SOURCE.")
        elif not location and entry != HUB:
            raise ValueError(f"{option}: {entry!r} names no source. Give {name}=SOURCE.")
        if entry != HUB:  # `hub` alone is the default of every set
            pairs.append((name, location))
    return pairs


def open_sets(options: EvalOptions, tasks: Sequence[EvalTask]) -> tuple[dict[str, LabelledSet], dict[str, str]]:
    """Load the labelled sets, each once, first those that `data` names: a wrong source is reported before a download.

    Args:
        options: Options of the run.
        tasks: Tasks of the run, as `make_tasks` returns them.

    Returns:
        The available sets by id, and the reason for each missing set.

    Raises:
        ValueError: A source that `data` names cannot be used, or no set is available.
    """
    class_names = {task.set: task.class_names for task in tasks}
    if not class_names:
        return {}, {}
    sources = find_sources(options)
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


def open_retrieval_sets(options: EvalOptions) -> list[RetrievalSet]:
    """Load the images with captions that `retrieval` names.

    Raises:
        ValueError: A source cannot be loaded, or a name is given twice.
    """
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
