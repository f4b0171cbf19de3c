"""A task: one set, measured by one protocol, in one language."""

from dataclasses import dataclass
from pathlib import Path

from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.imagenet import imagenet_names
from training.evaluation.sets.protocols import CLASS_NAMES, IMAGENET, PROTOCOLS, SETS, Protocol
from training.evaluation.sets.templates import OURS, Templates, read_templates, templates_of


@dataclass(frozen=True)
class EvalTask:
    """What is asked of a model.

    Args:
        set: id of the test set.
        protocol: name of the protocol.
        language: of the candidates.
        class_names: the classes.
        names_source: where the candidates' names are from.
        templates: the sentences around them.
        metric: the one that the table shows.
        squashed: whether images are squashed.
    """

    set: str
    protocol: str
    language: str
    class_names: ClassNames
    names_source: str
    templates: Templates
    metric: str = "top1"
    squashed: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        """Tells it from other eval_tasks."""
        return self.set, self.protocol, self.language

    @property
    def title(self) -> str:
        """Protocol and language; a protocol with a name has one language."""
        return self.protocol if self.protocol in PROTOCOLS else f"{self.protocol}, {self.language}"

    @property
    def candidates(self) -> list[str]:
        """Names of the classes in the task's language, in their order."""
        return self.class_names.in_language(self.language)

    @property
    def keys(self) -> list[str]:
        """Names of the classes as the labels know them."""
        return self.class_names.names[self.class_names.key]


def protocol_tasks(protocols: list[Protocol], sets: list[str], templates: str, imagenet_zh: str) -> list[EvalTask]:
    """All sets by all protocols, set by set.

    Args:
        protocols: ways to measure.
        sets: their ids.
        templates: as `templates_of` takes them.
        imagenet_zh: as `imagenet_names` takes it.

    Raises:
        ValueError: names or templates are not there.
    """
    eval_tasks = []
    for name in sets:
        if name == IMAGENET:
            chinese = any(protocol.language == "zh" for protocol in protocols)
            class_names, sources = imagenet_names(imagenet_zh if chinese else None)
        else:
            class_names = ClassNames.read(name)
            sources = {"en": "ELEVATER", "zh": f"{OURS} (names/{name}.json)"}
        for protocol in protocols:
            eval_tasks.append(
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
    return eval_tasks


def own_tasks(
    sets: list[str], class_names: ClassNames, names_source: str, languages: list[str], templates: str | None
) -> list[EvalTask]:
    """Sets of the user's own, all with the same classes.

    Args:
        sets: their names.
        class_names: the classes.
        names_source: where these are from.
        languages: of the candidates.
        templates: JSON file, as `read_templates` takes it; None for the plain names.

    Raises:
        ValueError: there are no names or templates in a language.
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
