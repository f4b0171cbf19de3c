"""Evaluation tasks: one set, measured by one protocol, in one language."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.imagenet import imagenet_names
from training.evaluation.sets.protocols import CLASS_NAMES, IMAGENET, PROTOCOLS, SETS, Protocol
from training.evaluation.sets.templates import OURS, Templates, read_templates, templates_of


@dataclass(frozen=True)
class EvalTask:
    """One classification task.

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
        """Names of the classes that the data use as labels, in class order."""
        return self.class_names.names[self.class_names.key]


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


def own_tasks(
    sets: list[str], class_names: ClassNames, names_source: str, languages: list[str], templates: str | None
) -> list[EvalTask]:
    """Tasks of the user's own sets, all with the same classes.

    Args:
        sets: Names of the sets.
        class_names: Names of the classes.
        names_source: Source of the class names: a file, or the id of a set of ELEVATER.
        languages: Languages of the candidate classes.
        templates: JSON file, as `read_templates` takes it; None for the plain class names.

    Raises:
        ValueError: Class names or templates are missing in a language.
    """
    for language in languages:
        class_names.in_language(language)
    plain = Templates(("{}",), "none")
    source = names_source if names_source in SETS else Path(names_source).name
    return [
        EvalTask(
            name,
            CLASS_NAMES,
            language,
            class_names,
            source,
            read_templates(templates, language, name) if templates else plain,
        )
        for name in sets
        for language in languages
    ]
