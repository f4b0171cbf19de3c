"""One evaluation: the tasks and data that the options name, all models on all of them, and the files of the result."""

import gc
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import evaluate
import torch
from accelerate import PartialState
from datasets import Features, List, Value
from torch import Tensor
from tqdm.auto import tqdm

from training.evaluation.classify import (
    Measurement,
    class_embeddings,
    joint_name,
    measure,
    require_equal_widths,
    task_metrics,
)
from training.evaluation.encoder import Embeddings, encode_shared
from training.evaluation.options import EvalOptions
from training.evaluation.retrieval import (
    RetrievalSet,
    open_retrieval_set,
    retrieval_table,
    score,
)
from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.labelled_sets import (
    HUB,
    LabelledSet,
    MissingDataError,
    Source,
    open_set,
)
from training.evaluation.sets.protocols import (
    BARE,
    CLASS_NAMES,
    ELEVATER,
    IMAGENET,
    METRICS,
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
from training.utils.results import PLOT_FILE, RESULTS_FILE, Results, Row, make_meta, markdown_table

TABLE_FILE = "table.md"
REPORT_FILES = (RESULTS_FILE, TABLE_FILE, PLOT_FILE)
TWO_NUMBERS = (
    "Two numbers in a cell, such as 55.0 / 94.0, are the accuracy of top-1 and top-5, in percent."
)
AGREEMENT = "agreement"
SCORE = "elevater_score"
MISSING = "missing data"
BARE_NAME = Templates(("{}",), "none")
RESIZING = {True: "squashed", False: "cropped", None: "prepared by the model"}
TASK_COLUMNS = ["set", "protocol", "language", "metric", "images", "source", "split", "revision", "names",
                "templates", "num_templates", "differs"]  # fmt: skip


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
        protocol: Name of the protocol, with `BARE` at its end for class names without a template.
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
        named = self.protocol.removesuffix(BARE) in PROTOCOLS
        return self.protocol if named else f"{self.protocol}, {self.language}"

    @property
    def candidates(self) -> list[str]:
        """Names of the classes in the language of the task, in class order."""
        return self.class_names.in_language(self.language)

    @property
    def images_key(self) -> Hashable:
        """Key of the embeddings of the images."""
        return self.set, self.squashed

    @property
    def classes_key(self) -> Hashable:
        """Key of the embeddings of the classes."""
        return tuple(self.candidates), self.templates.lines


def protocol_tasks(
    protocols: Sequence[str], sets: Sequence[str], templates: str, bare_names: bool = False
) -> list[EvalTask]:
    """Tasks of all sets in all protocols, set by set; with `bare_names`, each of them without a template too.

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
            forms = {"": templates_of(name, language, templates)}
            forms |= {BARE: BARE_NAME} if bare_names else {}
            for form, lines in forms.items():
                fields = (name, protocol + form, language, class_names, sources[language], lines)
                tasks.append(EvalTask(*fields, eval_set.metric, eval_set.squashed))
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
        forms = {"": BARE_NAME}
        if options.templates not in SOURCES:
            lines = read_templates(options.templates, language, name)
            forms = {"": lines} | ({BARE: BARE_NAME} if options.bare_names else {})
        for form, templates in forms.items():
            protocol = CLASS_NAMES + form
            tasks.append(EvalTask(name, protocol, language, class_names, source, templates))
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


def _open_retrieval_sets(options: EvalOptions) -> list[RetrievalSet]:
    found: dict[str, RetrievalSet] = {}
    for entry in options.retrieval:
        name, _, location = entry.partition("=") if "=" in entry else (entry, "", entry)
        if name in found or not (name and location):
            raise ValueError(
                f"retrieval: {entry!r} repeats a name, or names no source. Give NAME=SOURCE."
            )
        columns = options.image_column, options.caption_columns
        found[name] = open_retrieval_set(
            name, location, options.split, *columns, options.allow_paths
        )
    return list(found.values())


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
    sets: dict[str, LabelledSet] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    retrieval_sets: Sequence[RetrievalSet] = ()

    @classmethod
    def open(cls, options: EvalOptions) -> "Evaluation":
        """Find the tasks and load the data, in this order, so that a wrong option is reported before any download.

        Raises:
            ValueError: An option names something that does not exist, or no set is available.
        """
        sources, missing = _find_sources(options), dict[str, str]()
        tasks: list[EvalTask] = []
        if options.protocol:
            names = options.sets or ["all" if imagenet_is_installed() else "elevater"]
            if not options.sets and not imagenet_is_installed():
                missing[IMAGENET] = NOT_INSTALLED
            protocols = list(dict.fromkeys(options.protocol))
            tasks = protocol_tasks(
                protocols, find_sets(names), options.templates, options.bare_names
            )
        elif options.class_names:
            tasks = _own_tasks(options, list(sources))
        class_names = {task.set: task.class_names for task in tasks}
        if unused := sorted(set(sources) - set(class_names)):
            raise ValueError(
                f"data: {unused} are not among --sets, {', '.join(class_names)}. Add them there."
            )
        retrieval_sets = _open_retrieval_sets(options)
        sets: dict[str, LabelledSet] = {}
        # those that `data` names first, so that a wrong source is reported before a download
        ordered = sorted(class_names, key=lambda name: name not in sources)
        for name in tqdm(ordered, desc="test sets", unit="set", leave=False):
            eval_set = SETS[name] if options.protocol else None
            source = sources.get(name, Source(HUB))
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

    def run(self, state: PartialState) -> Results:
        """Measure every model of the options, one after the other, on this process and the others.

        Raises:
            ValueError: A model, image or label cannot be used, or the embeddings of two models differ in width.
        """
        options, rows, models = self.options, list[Row](), list[dict[str, Any]]()
        other = None
        if options.text_model is not None:
            other, description = self._encode(options.text_model, state)
        for name in options.model:
            own, found = self._encode(name, state)
            models.append(found)
            for measured in (*map(own.truncated, options.widths), own):
                rows += self.measure(measured, measured)
            if other is not None:
                pair = own.comparable_with(other), other.comparable_with(own)
                rows += self.measure(*pair) + self.measure(*reversed(pair))
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
        """Write results.json, table.md and results.png, and return the text to print: the tables and the paths."""
        folder = Path(self.options.output_dir)
        parts = []
        if self.tasks:
            parts += [self.table(results.rows)]
            parts += [TWO_NUMBERS] if self.options.class_names else []
            parts += [self._tasks_table(), *(f"{MISSING}: {each}" for each in self._missing_sets())]
        if self.retrieval_sets:
            parts.append(retrieval_table(results.rows, self.retrieval_sets))
        text = "\n\n".join(parts)
        paths = [results.write(folder), folder / TABLE_FILE, results.plot(folder)]
        write_text(folder / TABLE_FILE, f"{text}\n")
        return "\n\n".join([text, "\n".join(map(str, paths))])

    def _encode(self, name: str, state: PartialState) -> tuple[Embeddings, dict[str, Any]]:
        """Load a model and encode all images and texts; the model and how it prepares them, for `results.json`."""
        model = DualEncoder.from_pretrained(
            name, trust_remote_code=self.options.trust_remote_code
        ).to(state.device)
        described = model.describe()  # raises if the model does not state how texts are prepared
        tensors: dict[Hashable, Tensor] = {}
        cut: dict[str, int] = {}  # number of truncated texts by set
        for task in self._available():
            if task.images_key not in tensors:
                labelled = self.sets[task.set]
                tensors[task.images_key] = _encode_images(model, state, labelled, task.squashed)
            if task.classes_key not in tensors:
                tensors[task.classes_key] = _encode_classes(model, state, task)
            prompts = product(task.candidates, task.templates.lines)
            texts = [line.format(candidate) for candidate, line in prompts]
            cut[f"{task.set}, {task.title}"] = model.count_truncated(texts)
        for each in self.retrieval_sets:
            tensors[each.name] = _encode_images(model, state, each)
            for language, captions in each.captions.items():
                tensors[each.name, language] = _encode_captions(model, state, captions)
                cut[f"{each.name}, {language}"] = model.count_truncated(captions)
        facts = {"name": name, "weights": weights_fingerprint(model.model)} | described
        teacher = getattr(model.config, "teacher", None)
        rotation = getattr(model.model, "rotation", None)
        del model
        gc.collect()  # before the next model is loaded: two large models may not fit in memory together
        texts_cut = {key: count for key, count in cut.items() if count}
        return Embeddings(name, name, teacher, rotation, tensors), facts | {"texts_cut": texts_cut}

    def measure(self, images: Embeddings, texts: Embeddings) -> list[Row]:
        """Rows of all tasks, of the agreement of languages, and of retrieval.

        The images are of one model, the texts of the same or a different one.
        """
        name, rows = joint_name(images.name, texts.name), list[Row]()
        predictions: dict[str, dict[str, Tensor]] = {}  # by title of the set and by language
        for task in self._available():
            measured = self._measure_task(task, images, texts)
            title = self._title(task.set)
            fields = {"protocol": task.protocol, "language": task.language}
            rows += measured.rows(model=name, set=title, **fields)
            if not task.protocol.endswith(BARE):
                predictions.setdefault(title, {})[task.language] = measured.predictions
        for title, found in predictions.items():
            if len(found) > 1:
                classes = torch.stack([*found.values()], 1)
                share = Agreement().compute(predictions=classes.tolist())[AGREEMENT]
                languages = ", ".join(found)
                agreement = Row(
                    model=name, metric=AGREEMENT, value=share, set=title, language=languages
                )
                rows.append(agreement)
        for each in self.retrieval_sets:
            for language in each.captions:
                found_images, found_texts = (
                    images.tensors[each.name],
                    texts.tensors[each.name, language],
                )
                require_equal_widths(images.name, found_images, texts.name, found_texts)
                rows += score(each, language, found_images, found_texts, name)
        return rows

    def _measure_task(self, task: EvalTask, images: Embeddings, texts: Embeddings) -> Measurement:
        labels = self.sets[task.set].labels
        found, classes = images.tensors[task.images_key], texts.tensors[task.classes_key]
        require_equal_widths(images.name, found, texts.name, classes)
        try:
            return measure(found, classes, labels, task_metrics(labels, task.metric))
        except ValueError as error:
            raise ValueError(f"data: {task.set}: {error}") from error

    def scores(self, rows: Sequence[Row]) -> list[Row]:
        """The ELEVATER score of every model and protocol: the mean of the protocol's metric over the twenty sets.

        A protocol with a missing set, or a set that differs from its test split, has no score.
        """
        values, found = _values(rows), []
        whole = [name for name in self._of_score() if not self.sets[name].differences]
        if len(whole) < len(ELEVATER):
            return []
        for model in dict.fromkeys(row.model for row in rows):
            for title, tasks in self._by_title().items():
                if title in PROTOCOLS:
                    language = PROTOCOLS[title]
                    keys = [(model, each, title, language, tasks[each].metric) for each in whole]
                    mean = fmean(values[key] for key in keys)
                    row = Row(
                        model=model, metric=SCORE, value=mean, protocol=title, language=language
                    )
                    found.append(row)
        return found

    def table(self, rows: Sequence[Row]) -> str:
        """One row per model and protocol, one column per set, in percent."""
        columns = list(dict.fromkeys(task.set for task in self.tasks))
        header = ["model", "protocol", *map(self._title, columns)]
        header += ["ELEVATER score"] if self.options.protocol else []
        lines, values = [header, ["---"] * len(header)], _values(rows)
        for model in dict.fromkeys(row.model for row in rows):
            for title, tasks in self._by_title().items():
                cells = [self._cell(values, model, tasks.get(name)) for name in columns]
                cells += [self._score_cell(values, model, tasks)] if self.options.protocol else []
                lines.append([model, title, *cells])
        return markdown_table(lines)

    def _cell(self, values: dict[tuple, float], model: str, task: EvalTask | None) -> str:
        """Value of a set in percent; of the user's own sets, top-1 and top-5."""
        if task is None:
            return ""
        if task.set not in self.sets:
            return MISSING
        shown = [task.metric, "top5"] if self.options.class_names else [task.metric]
        key = (model, self._title(task.set), task.protocol, task.language)
        found = [values.get((*key, metric)) for metric in shown]
        return " / ".join(f"{100 * value:.1f}" for value in found if value is not None)

    def _score_cell(
        self, values: dict[tuple, float], model: str, tasks: Mapping[str, EvalTask]
    ) -> str:
        """The score, or how many of the sets are there and how many of them differ from the protocol."""
        task = next(iter(tasks.values()))
        score = values.get((model, None, task.protocol, task.language, SCORE))
        if score is not None:
            return f"{100 * score:.1f}"
        differ = [bool(self.sets[name].differences) for name in tasks if name in self._of_score()]
        return f"{len(differ)} of {len(ELEVATER)}" + f", {sum(differ)} differ" * any(differ)

    def _tasks_table(self) -> str:
        """Metric, data, class names and templates of every task, and its differences from the protocol."""
        lines = [TASK_COLUMNS, ["---"] * len(TASK_COLUMNS)]
        for task in self._available():
            facts = self._describe(task)
            facts |= {"metric": METRICS[task.metric], "differs": "; ".join(facts["differs"])}
            lines.append([str(facts[column] or "") for column in TASK_COLUMNS])
        return markdown_table(lines)

    def _describe(self, task: EvalTask) -> dict[str, Any]:
        """Facts about a task and its data for `results.json`."""
        labelled = self.sets.get(task.set)
        differs = [*labelled.differences] if labelled else []
        if labelled and task.protocol == "elevater-en" and task.templates.source != CLIP_BENCHMARK:
            differs.append("templates are not ELEVATER's")
        return {
            "set": task.set,
            "protocol": task.protocol,
            "language": task.language,
            "metric": task.metric,
            "classes": len(task.candidates),
            "names": task.names_source,
            "templates": task.templates.source,
            "num_templates": len(task.templates.lines),
            "images_are": RESIZING[task.squashed],
            "source": labelled and labelled.source,
            "split": labelled and labelled.split,
            "revision": labelled and (labelled.revision or labelled.version),
            "images": labelled and len(labelled.rows),
            "differs": differs,
            "missing": self.missing.get(task.set),
        }

    def _available(self) -> list[EvalTask]:
        return [task for task in self.tasks if task.set in self.sets]

    def _title(self, name: str) -> str:
        """Name of a set in rows and tables, which says if it is a part."""
        return set_title(name, len(self.sets[name].rows)) if name in self.sets else name

    def _by_title(self) -> dict[str, dict[str, EvalTask]]:
        """Tasks by protocol and language, and by set."""
        found: dict[str, dict[str, EvalTask]] = {}
        for task in self.tasks:
            found.setdefault(task.title, {})[task.set] = task
        return found

    def _of_score(self) -> list[str]:
        """The available sets that count for the ELEVATER score."""
        return [name for name in self.sets if name in ELEVATER]

    def _missing_sets(self) -> list[str]:
        """The missing sets, grouped by their reason."""
        groups: dict[str, list[str]] = {}
        for name, reason in self.missing.items():
            groups.setdefault(reason, []).append(name)
        return [f"{', '.join(names)} ({reason})" for reason, names in groups.items()]


def _encode_images(
    model: DualEncoder,
    state: PartialState,
    dataset: LabelledSet | RetrievalSet,
    squashed: bool | None = None,
) -> Tensor:
    """Embeddings of the images of a set, (N, D) float32, L2-normalized."""

    def encode(start: int, stop: int) -> Tensor:
        try:
            return model.encode_images(dataset.rows.select(range(start, stop)), squash=squashed)
        except ValueError as error:
            raise ValueError(
                f"data: {dataset.name} ({dataset.source}), from row {start}: {error}"
            ) from error

    return encode_shared(state, len(dataset.rows), encode)


def _encode_classes(model: DualEncoder, state: PartialState, task: EvalTask) -> Tensor:
    """Embeddings of the candidate classes, (C, D) float32, L2-normalized."""
    names = task.candidates

    def encode(start: int, stop: int) -> Tensor:
        return class_embeddings(model, names[start:stop], task.templates.lines)

    return encode_shared(state, len(names), encode)


def _encode_captions(model: DualEncoder, state: PartialState, captions: Sequence[str]) -> Tensor:
    """Embeddings of captions, (T, D) float32, L2-normalized. Equal captions have the same, so that they tie."""
    numbers = {text: number for number, text in enumerate(dict.fromkeys(captions))}
    unique = list(numbers)

    def encode(start: int, stop: int) -> Tensor:
        return model.encode_texts(unique[start:stop])

    embeddings = encode_shared(state, len(unique), encode)
    return embeddings[[numbers[text] for text in captions]]


def _values(rows: Sequence[Row]) -> dict[tuple, float]:
    return {(row.model, row.set, row.protocol, row.language, row.metric): row.value for row in rows}
