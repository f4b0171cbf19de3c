"""The options of `training/eval.py`, and what they ask for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.eval_tasks import EvalTask, own_tasks, protocol_tasks
from training.evaluation.sets.imagenet import NOT_HERE, imagenet_is_here
from training.evaluation.sets.labelled_sets import LabelledSet, open_set
from training.evaluation.sets.locations import HUB, MissingDataError, Source
from training.evaluation.sets.pairs import PairSet, open_pairs
from training.evaluation.sets.protocols import CLASS_NAMES, IMAGENET, PROTOCOLS, SETS, find_protocol, find_sets
from training.evaluation.sets.templates import OURS, SOURCES


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """What to measure. Either `protocol` names a way to measure ELEVATER's sets, or `class_names` the classes of sets
    of your own; and `retrieval`, with either or alone, images with captions.

    Args:
        model: folder or Hub id, with or without `@revision`, of a model with image and text features; several are a
            list.
        output_dir: where results.json, table.md and images go.
        protocol: elevater-en, elevater-zh, cn-clip-compat; several are a list.
        data: SET=SOURCE, several are a list. SOURCE is a folder with a folder a class, a parquet file, a Hub id with
            or without `@revision`, or `module:function`. A set of the protocol that is not named is read from its own
            place on the Hub, as SET=hub says in words.
        sets: with `protocol`: sets by name, or all, elevater, cn-clip-10, imagenet.
        class_names: JSON list of {language: name}, one entry a class, or the id of one of ELEVATER's sets, such as
            cifar-100.
        language: with `class_names`: languages of the candidates (ISO 639-1 codes); en and zh where none is given.
        templates: auto (from the packages clip-benchmark and cn-clip where they are installed, else ours), ours, or a
            JSON file of {language: [templates]} or {language: {set: [templates]}}; with `class_names`, auto is the
            plain name.
        imagenet_zh: ImageNet's Chinese names: clip-benchmark, cn-clip, or a file with a name a line.
        text_model: folder or Hub id of another model that reads for each model, and sees for it, such as the teacher:
            whether their embeddings can be compared.
        retrieval: NAME=SOURCE, several are a list: images with captions, each searched for by the other. SOURCE is
            a parquet file, a folder that `datasets` understands, a Hub id with or without `@revision`, or
            `module:function`.
        caption_columns: with `retrieval`: language to column, as in --caption_columns.zh COLUMN, whose cells are a
            caption or a list of them; default: those of `en` and `zh` that are there.
        split: of the data, where there are several; default: test, or what the set's own place on the Hub calls it.
        image_column: column of the images; default: the first of the usual names, `image` with `retrieval`.
        label_column: column of the labels; default: the first of the usual names that has names of classes.
        label_names: SET=FILE, the names of numbered labels, one a line; several are a list.
        label_language: with `class_names`: language in which the data name their labels.
        cache_dir: where embeddings are kept; default: output_dir/cache.
        published: print what others published beside.
        per_class: write tables of every class.
        confusion: draw which classes are taken for which.
        trust_remote_code: run code that comes with a model; one on the Hub is then named ID@COMMIT.
        stage: written to the rows.
        seed: of the model's training, written to the rows.
    """

    model: list[str]
    output_dir: str
    protocol: list[str] = field(default_factory=list)
    data: list[str] = field(default_factory=list)
    sets: list[str] = field(default_factory=list)
    class_names: str | None = None
    language: list[str] = field(default_factory=list)
    templates: str = "auto"
    imagenet_zh: str = "clip-benchmark"
    text_model: str | None = None
    retrieval: list[str] = field(default_factory=list)
    caption_columns: dict[str, str] | None = None
    split: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    label_names: list[str] = field(default_factory=list)
    label_language: str = "en"
    cache_dir: str | None = None
    published: bool = False
    per_class: bool = False
    confusion: bool = False
    trust_remote_code: bool = False
    stage: str | None = None
    seed: int | None = None

    def __post_init__(self):
        if not self.model:
            raise ValueError("model: none is given. Name a folder or a Hub id with --model.")
        classifies = bool(self.protocol) + bool(self.class_names)
        if classifies == 2 or not (classifies or self.retrieval):
            raise ValueError(
                f"protocol: give either --protocol ({', '.join(PROTOCOLS)}), or --class_names for sets of your own, "
                "or --retrieval alone."
            )
        of_labels = ("data", "sets", "language", "label_column", "label_names", "published", "per_class", "confusion")
        if not classifies and (given := [name for name in of_labels if getattr(self, name)]):
            raise ValueError(
                f"{given[0]}: goes with labelled sets, and --retrieval alone has none. Give --protocol or "
                "--class_names too."
            )
        if self.caption_columns and not self.retrieval:
            raise ValueError("caption_columns: these are of --retrieval NAME=SOURCE, of which there is none.")
        if self.class_names and (self.sets or not self.data):
            raise ValueError("data: with --class_names, the sets are those that --data NAME=SOURCE names.")
        if self.class_names and (self.published or self.templates == OURS):
            raise ValueError(
                "class_names: our templates and what others published are of ELEVATER's sets. Give --protocol, or "
                "leave --published and --templates ours out."
            )
        if self.protocol and self.language:
            raise ValueError(
                f"language: a protocol has its own; {self.language} goes with --class_names. Choose the protocol: "
                f"{', '.join(f'{name} is {protocol.language}' for name, protocol in PROTOCOLS.items())}."
            )

    def eval_tasks(self) -> list[EvalTask]:
        """What is asked of every model, set by set.

        Raises:
            ValueError: a protocol, set, language, name or template is not there.
        """
        if self.protocol:
            protocols = [find_protocol(name) for name in dict.fromkeys(self.protocol)]
            sets = self.sets or ["all" if imagenet_is_here() else "elevater"]
            return protocol_tasks(protocols, find_sets(sets), self.templates, self.imagenet_zh)
        if not self.class_names:
            return []
        class_names = ClassNames.read(self.class_names, self.label_language)
        languages = list(dict.fromkeys(self.language or ["en", "zh"]))
        templates = None if self.templates in SOURCES else self.templates
        return own_tasks(list(self.sources()), class_names, self.class_names, languages, templates)

    def sources(self) -> dict[str, Source]:
        """Where the named sets lie.

        Raises:
            ValueError: a name is given twice, or is no set of the protocol.
        """
        names = dict(self._named("label_names", self.label_names))
        sources: dict[str, Source] = {}
        for name, place in self._named("data", self.data):
            if name in sources:
                raise ValueError(f"data: {name} is given twice. Give each set one source.")
            sources[name] = Source(place, self.split, self.image_column, self.label_column, names.pop(name, None))
        if names:
            raise ValueError(f"label_names: {sorted(names)} are not among the sets of --data, {sorted(sources)}.")
        return sources

    def _named(self, option: str, entries: Sequence[str]) -> list[tuple[str, str]]:
        """(SET, SOURCE) of each entry; without a protocol, a source can go by its own name."""
        found = []
        for entry in entries:
            name, separator, place = entry.partition("=")
            if self.class_names and not separator:
                name, place = entry, entry
            elif self.protocol and name not in SETS and entry != HUB:
                raise ValueError(f"{option}: there is no set {name!r}, only {', '.join(SETS)}. Give SET=SOURCE.")
            elif not place and entry != HUB:
                raise ValueError(f"{option}: {entry!r} names no source. Give {name}=SOURCE.")
            if entry != HUB:  # by itself it says what holds anyway
                found.append((name, place))
        return found

    def open_sets(self, eval_tasks: Sequence[EvalTask]) -> tuple[dict[str, LabelledSet], dict[str, str]]:
        """Load the sets; those of the user first, so that a mistake is told before anything is fetched.

        Returns:
            The sets by id, and for those that cannot be had, why.

        Raises:
            ValueError: a source of the user cannot be read, or its labels are not the protocol's.
        """
        if not eval_tasks:
            return {}, {}
        sources = self.sources()
        class_names = {task.set: task.class_names for task in eval_tasks}
        if strangers := [name for name in sources if name not in class_names]:
            raise ValueError(f"data: {strangers} are not among --sets, {list(class_names)}. Add them there.")
        sets: dict[str, LabelledSet] = {}
        without_names = self.protocol and not self.sets and not imagenet_is_here()
        missing = {IMAGENET: NOT_HERE} if without_names else {}
        names = sorted(class_names, key=lambda name: name not in sources)
        for name in tqdm(names, desc="test sets", unit="set", leave=False):
            facts = None if CLASS_NAMES in {task.protocol for task in eval_tasks} else SETS[name]
            source = sources.get(name, Source(HUB))
            try:
                sets[name] = open_set(name, source, class_names[name], facts)
            except MissingDataError as error:
                missing[name] = str(error)
        if not sets:
            raise ValueError(f"data: none of the sets can be had. {missing}. Name one with --data SET=SOURCE.")
        return sets, missing

    def pair_sets(self) -> list[PairSet]:
        """Images with captions, to search.

        Raises:
            ValueError: a source cannot be read, or a name is given twice.
        """
        found: dict[str, PairSet] = {}
        for entry in self.retrieval:
            name, _, place = entry.rpartition("=")
            name = name or place
            if name in found or not place:
                raise ValueError(f"retrieval: {entry!r} repeats a name, or names no source. Give NAME=SOURCE.")
            found[name] = open_pairs(name, place, self.split, self.image_column, self.caption_columns)
        return list(found.values())

    @property
    def keeps_details(self) -> bool:
        """Whether more than numbers is wanted."""
        return self.per_class or self.confusion

    @property
    def cache_folder(self) -> Path:
        """Where embeddings are kept."""
        return Path(self.cache_dir) if self.cache_dir else Path(self.output_dir) / "cache"
