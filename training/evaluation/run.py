"""One evaluation: the tasks and data that the options name, all models on all of them, and the files of the result."""

import gc
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import evaluate
import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, Features, List, Value
from torch import Tensor
from tqdm.auto import tqdm

from modeling_dcclip.runtime_dcclip import Lineage
from training.evaluation.classify import (
    class_embeddings,
    measure,
    task_metrics,
)
from training.evaluation.encoder import Embeddings, encode_shared
from training.evaluation.options import EvalOptions
from training.evaluation.retrieval import (
    PROTOCOL,
    RetrievalSet,
    open_retrieval_set,
    score,
)
from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.labeled_sets import (
    HUB,
    LabeledSet,
    MissingDataError,
    Source,
    open_set,
)
from training.evaluation.sets.protocols import (
    CLASS_NAMES,
    ELEVATER,
    IMAGENET,
    PROTOCOLS,
    SETS,
    find_sets,
    set_title,
)
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
from training.teachers import DualEncoder, weights_fingerprint
from training.text.writing_systems import LANGUAGES
from training.utils.files import write_text
from training.utils.results import PLOT_FILE, RESULTS_FILE, Results, Row, make_meta

TABLE_FILE = "table.md"
REPORT_FILES = (RESULTS_FILE, TABLE_FILE, PLOT_FILE)
AGREEMENT = "agreement"
SCORE = "elevater_score"
MISSING = "missing data"
BARE_NAME = Templates(("{}",), "none")


class Agreement(evaluate.Metric):
    """Share of images with the same predicted class in all languages, as a metric of `evaluate`.

    `compute(predictions=...)` takes the class indices of each image, one column per language, (N, L) int64.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of samples with the same prediction in all languages.",
            citation="",
            inputs_description="predictions: class indices of each sample, one column per language.",
            features=Features({"predictions": List(Value("int64"))}),
        )

    def _compute(self, predictions: list[list[int]]) -> dict[str, float]:
        return {AGREEMENT: sum(len(set(row)) == 1 for row in predictions) / len(predictions)}


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
    """

    set: str
    protocol: str
    language: str
    class_names: ClassNames
    names_source: str
    templates: Templates

    @property
    def candidates(self) -> list[str]:
        """Names of the classes in the language of the task, in class order."""
        return self.class_names.in_language(self.language)

    @property
    def classes_key(self) -> Hashable:
        """Key of the embeddings of the classes."""
        return tuple(self.candidates), self.templates.lines

    @property
    def metric(self) -> str:
        """Metric that the table shows."""
        return SETS[self.set].metric if self.protocol in PROTOCOLS else "top1"


def protocol_tasks(protocols: Sequence[str], sets: Sequence[str], templates: str) -> list[EvalTask]:
    """Tasks of all sets in all protocols, set by set.

    Raises:
        ValueError: Class names or templates are missing.
    """
    tasks = []
    for name in sets:
        if name == IMAGENET:
            class_names = imagenet_names(with_chinese="elevater-zh" in protocols)
            sources = dict.fromkeys(("en", "zh"), CLIP_BENCHMARK)
        else:
            class_names = ClassNames.read(name)
            sources = {"en": "ELEVATER", "zh": f"{OURS} (names/{name}.json)"}
        for protocol in protocols:
            language = PROTOCOLS[protocol]
            lines = templates_of(name, language, templates)
            task = EvalTask(name, protocol, language, class_names, sources[language], lines)
            tasks.append(task)
    return tasks


def _own_tasks(options: EvalOptions, sets: Sequence[str]) -> list[EvalTask]:
    """Tasks of the user's own sets and class names."""
    assert options.class_names is not None
    class_names = ClassNames.read(options.class_names, options.language)
    available = [language for language in LANGUAGES if language in class_names.names]
    languages = list(dict.fromkeys(options.language or available or [class_names.key]))
    for language in languages:
        class_names.in_language(language)
    source = options.class_names if options.class_names in SETS else Path(options.class_names).name
    tasks = []
    for name, language in product(sets, languages):
        lines = BARE_NAME
        if options.templates not in SOURCES:
            lines = read_templates(options.templates, language, name)
        tasks.append(EvalTask(name, CLASS_NAMES, language, class_names, source, lines))
    return tasks


def _named_sources(field: str, entries: Sequence[str], names_itself: bool) -> dict[str, str]:
    """Locations by name, from entries NAME=SOURCE; with `names_itself`, a source alone is also its name."""
    found: dict[str, str] = {}
    for entry in entries:
        name, separator, location = entry.partition("=")
        if names_itself and not separator:
            location = entry
        if not location or name in found:
            raise ValueError(
                f"{field}: {entry!r} names no source, or a name twice. Give NAME=SOURCE, each name once."
            )
        found[name] = location
    return found


@dataclass(frozen=True)
class Evaluation:
    """Tasks and data of a run.

    Args:
        options: Options of the command.
        tasks: Classification tasks, set by set.
        sets: Test sets that are available, by id.
        missing: Reason why each other set is missing, by id.
        retrieval_sets: Images with captions, for retrieval.
    """

    options: EvalOptions
    tasks: Sequence[EvalTask] = ()
    sets: dict[str, LabeledSet] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    retrieval_sets: Sequence[RetrievalSet] = ()

    @classmethod
    def open(cls, options: EvalOptions) -> "Evaluation":
        """Find the tasks and load the data, in this order, so that a wrong option is reported before any download.

        Raises:
            ValueError: An option names something that does not exist, or no set is available.
        """
        sources = _named_sources("data", options.data, not options.protocol)
        missing: dict[str, str] = {}
        tasks: list[EvalTask] = []
        if options.protocol:
            names = options.sets or ["all" if imagenet_is_installed() else "elevater"]
            if not options.sets and not imagenet_is_installed():
                missing[IMAGENET] = NOT_INSTALLED
            protocols = list(dict.fromkeys(options.protocol))
            tasks = protocol_tasks(protocols, find_sets(names), options.templates)
        elif options.class_names:
            tasks = _own_tasks(options, list(sources))
        class_names = {task.set: task.class_names for task in tasks}
        if unused := sorted(set(sources) - set(class_names)):
            raise ValueError(
                f"data: {unused} are not among the sets {', '.join(class_names)}. Name sets with --sets."
            )
        retrieval_sets = []
        for name, location in _named_sources("retrieval", options.retrieval, True).items():
            opened = open_retrieval_set(
                name,
                location,
                options.split,
                options.image_column,
                options.caption_columns,
                options.allow_paths,
            )
            retrieval_sets.append(opened)
        sets: dict[str, LabeledSet] = {}
        # those that `data` names first, so that a wrong source is reported before a download
        ordered = sorted(class_names, key=lambda name: name not in sources)
        for name in tqdm(ordered, desc="test sets", unit="set", leave=False):
            source = Source(HUB)
            if name in sources:
                source = Source(
                    sources[name],
                    options.split,
                    options.image_column,
                    options.label_column,
                    options.allow_paths,
                )
            eval_set = SETS[name] if options.protocol else None
            try:
                sets[name] = open_set(name, source, class_names[name], eval_set)
            except MissingDataError as error:
                missing[name] = str(error)
        evaluation = cls(options, tasks, sets, missing, retrieval_sets)
        if tasks and not sets:
            reasons = "; ".join(evaluation._missing_sets())
            raise ValueError(
                f"data: none of the sets is available ({reasons}). Give one with --data SET=SOURCE."
            )
        return evaluation

    def measure_all(self, state: PartialState) -> Results:
        """Measure every model of the options, one after the other, on this process and the others.

        Raises:
            ValueError: A model, image or label cannot be used, or the embeddings of two models differ in width.
        """
        options = self.options
        rows: list[Row] = []
        models: list[dict[str, Any]] = []
        other = None
        if options.text_model is not None:
            other, description = self.encode(options.text_model, state)
        for name in options.model:
            own, found = self.encode(name, state)
            models.append(found)
            for width in options.widths:
                truncated = own.truncated(width)
                rows += self.measure(truncated, truncated)
            rows += self.measure(own, own)
            if other is not None:
                first = own.comparable_with(other)
                second = other.comparable_with(own)
                rows += self.measure(first, second) + self.measure(second, first)
        if other is not None:  # a card describes the first model of the results
            models.append(description)
        meta = make_meta(
            data=" ".join([*options.data, *options.retrieval]) or "hub",
            seed=None,
            models=models,
            eval_tasks=[self._describe(task) for task in self.tasks],
            retrieval=[each.describe() for each in self.retrieval_sets],
        )
        return Results(meta, rows + self.scores(rows))

    def write(self, results: Results) -> str:
        """Write results.json, table.md and results.png, and return the text to print: table, notes and paths."""
        folder = Path(self.options.output_dir)
        more = {"top5"} if self.options.class_names else set()
        metrics = {self._title(task.set): {task.metric} | more for task in self.tasks}
        rows = [
            row
            for row in results.rows
            if row.protocol == PROTOCOL or row.metric in metrics.get(str(row.set), {SCORE})
        ]
        notes = [f"{MISSING}: {each}" for each in self._missing_sets()]
        for task in self._available():
            if differs := "; ".join(self._describe(task)["differs"]):
                notes.append(f"{task.set}, {task.protocol}: {differs}")
        for each in self.retrieval_sets:
            for language, count in each.unusable.items():
                notes.append(f"{each.name}: {count:,} {language} captions without letters left out")
        text = "\n\n".join([Results({}, rows).table(), *notes])
        paths = [results.write(folder), folder / TABLE_FILE, results.plot(folder)]
        write_text(folder / TABLE_FILE, f"{text}\n")
        return "\n\n".join([text, "\n".join(map(str, paths))])

    def encode(self, name: str, state: PartialState) -> tuple[Embeddings, dict[str, Any]]:
        """Load a model and encode all images and texts; the model and how it prepares them, for `results.json`."""
        model = DualEncoder.from_pretrained(
            name, trust_remote_code=self.options.trust_remote_code
        ).to(state.device)
        described = model.describe()  # raises if the model does not state how texts are prepared
        tensors: dict[Hashable, Tensor] = {}
        cut: dict[str, int] = {}  # number of truncated texts by set
        for set_name, labeled in self.sets.items():
            encoder = model.squashing(SETS[set_name].squashed) if self.options.protocol else model
            tensors[set_name] = _encode_images(encoder, state, labeled.rows, set_name)
        for task in self._available():
            names = task.candidates
            lines = task.templates.lines
            if task.classes_key not in tensors:
                tensors[task.classes_key] = _encode_classes(model, state, names, lines)
            texts = [line.format(candidate) for candidate, line in product(names, lines)]
            cut[f"{task.set}, {task.protocol}, {task.language}"] = model.count_truncated(texts)
        for each in self.retrieval_sets:
            tensors["images", each.name] = _encode_images(model, state, each.rows, each.name)
            for language, captions in each.captions.items():
                tensors[each.name, language] = _encode_captions(model, state, captions)
                cut[f"{each.name}, {language}"] = model.count_truncated(captions)
        facts = {"name": name, "weights": weights_fingerprint(model.model), **described}
        facts["texts_cut"] = {key: number for key, number in cut.items() if number}
        fields = ("teacher", "teacher_weights", "rotation")
        lineage = Lineage(
            name, model.revision, *(getattr(model.config, field, None) for field in fields)
        )
        rotation = getattr(model.model, "rotation", None)
        embeddings = Embeddings(name, lineage, rotation, tensors)
        del model
        gc.collect()  # before the next model is loaded: two large models may not fit in memory together
        return embeddings, facts

    def measure(self, images: Embeddings, texts: Embeddings) -> list[Row]:
        """Rows of all tasks, of the agreement of languages, and of retrieval.

        The images are of one model, the texts of the same or a different one.
        """
        name = images.name
        if texts.name != name:
            name = f"{name} images, {texts.name} texts"
        rows: list[Row] = []
        # by title of the set and by language
        predictions: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
        for task in self._available():
            labels = self.sets[task.set].labels
            found = images.tensors[task.set]
            classes = texts.tensors[task.classes_key]
            try:
                measured = measure(found, classes, labels, task_metrics(labels, task.metric))
            except ValueError as error:
                raise ValueError(f"data: {task.set}: {error}") from error
            title = self._title(task.set)
            rows += measured.rows(
                model=name, set=title, protocol=task.protocol, language=task.language
            )
            predictions[title][task.language] = measured.predictions
        for title, by_language in predictions.items():
            if len(by_language) > 1:
                columns = torch.stack([*by_language.values()], 1).tolist()
                share = Agreement().compute(predictions=columns)[AGREEMENT]
                languages = ", ".join(by_language)
                rows.append(
                    Row(model=name, metric=AGREEMENT, value=share, set=title, language=languages)
                )
        for each in self.retrieval_sets:
            found = images.tensors["images", each.name]
            for language in each.captions:
                captions = texts.tensors[each.name, language]
                rows += score(each, language, found, captions, name)
        return rows

    def scores(self, rows: Sequence[Row]) -> list[Row]:
        """The ELEVATER score of every model and protocol: the mean of the protocol's metric over the twenty sets.

        A protocol with a missing set, or a set that differs from its test split, has no score.
        """
        whole = [name for name in ELEVATER if name in self.sets and not self.sets[name].differences]
        if len(whole) < len(ELEVATER):
            return []
        values = defaultdict(list)
        for row in rows:
            in_score = row.set in ELEVATER and row.metric == ELEVATER[row.set].metric
            if row.protocol in PROTOCOLS and in_score:
                values[row.model, row.protocol].append(row.value)
        return [
            Row(
                model=model,
                metric=SCORE,
                value=fmean(found),
                protocol=protocol,
                language=PROTOCOLS[protocol],
            )
            for (model, protocol), found in values.items()
        ]

    def _describe(self, task: EvalTask) -> dict[str, Any]:
        """Facts about a task and its data for `results.json`."""
        facts = {
            "set": task.set,
            "protocol": task.protocol,
            "language": task.language,
            "metric": task.metric,
            "classes": len(task.candidates),
            "names": task.names_source,
            "templates": task.templates.source,
            "num_templates": len(task.templates.lines),
            "missing": self.missing.get(task.set),
        }
        if task.set not in self.sets:
            return facts
        labeled = self.sets[task.set]
        differs = [*labeled.differences]
        if task.protocol == "elevater-en" and task.templates.source != CLIP_BENCHMARK:
            differs.append("templates are not ELEVATER's")
        return facts | {
            "source": labeled.source,
            "split": labeled.split,
            "revision": labeled.revision or labeled.version,
            "images": len(labeled.labels),
            "differs": differs,
        }

    def _available(self) -> list[EvalTask]:
        return [task for task in self.tasks if task.set in self.sets]

    def _title(self, name: str) -> str:
        """Name of a set in rows and tables, which says if it is a part."""
        return set_title(name, len(self.sets[name].labels)) if name in self.sets else name

    def _missing_sets(self) -> list[str]:
        """The missing sets, grouped by their reason."""
        groups = defaultdict(list)
        for name, reason in self.missing.items():
            groups[reason].append(name)
        return [f"{', '.join(names)} ({reason})" for reason, names in groups.items()]


def _encode_images(model: DualEncoder, state: PartialState, rows: Dataset, name: str) -> Tensor:
    """Embeddings of the images of a set, (N, D) float32, L2-normalized."""

    def encode(numbers: Sequence[int]) -> np.ndarray:
        try:
            return model.encode_images(rows.select(numbers)["image"])
        except ValueError as error:
            raise ValueError(f"data: {name}, from row {numbers[0]}: {error}") from error

    return encode_shared(state, len(rows), encode)


def _encode_classes(
    model: DualEncoder, state: PartialState, names: Sequence[str], lines: Sequence[str]
) -> Tensor:
    """Embeddings of candidate classes, (C, D) float32, L2-normalized."""

    def encode(numbers: Sequence[int]) -> Tensor:
        return class_embeddings(model, [names[each] for each in numbers], lines)

    return encode_shared(state, len(names), encode)


def _encode_captions(model: DualEncoder, state: PartialState, captions: Sequence[str]) -> Tensor:
    """Embeddings of captions, (T, D) float32, L2-normalized. Equal captions have the same, so that they tie."""
    known: dict[str, int] = {}
    numbers_of_captions = [known.setdefault(text, len(known)) for text in captions]
    unique = list(known)

    def encode(numbers: Sequence[int]) -> np.ndarray:
        return model.encode_texts([unique[number] for number in numbers], truncate=True)

    return encode_shared(state, len(unique), encode)[numbers_of_captions]
