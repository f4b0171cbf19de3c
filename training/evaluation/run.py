"""All models through all eval_tasks."""

import gc
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from training.evaluation.embedding_cache import EmbeddingCache, Encoder
from training.evaluation.measure import Measured, agreement, measure
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.evaluation.retrieval import score
from training.evaluation.sets.eval_tasks import EvalTask
from training.evaluation.sets.labelled_sets import LabelledSet
from training.evaluation.sets.pairs import PairSet
from training.utils.results import Row

AGREEMENT = "agreement"


@dataclass
class Outcome:
    """What came out.

    Args:
        rows: the numbers.
        models: name, revision and fingerprint of each model, how it reads and sees, and which texts it cuts.
        details: by model and task, where the caller wants more than numbers.
    """

    rows: list[Row] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)
    details: list[tuple[str, EvalTask, Measured]] = field(default_factory=list)


@dataclass(frozen=True)
class Runner:
    """Takes models through eval_tasks.

    Sets are taken one after the other and kept in the cache, so that a run that was stopped goes on where it was.

    Args:
        eval_tasks: what is asked, set by set.
        sets: the test sets that could be had, by id.
        cache: where embeddings are kept.
        stage: written to the rows.
        seed: written to the rows.
        trust_remote_code: run code that comes with a model.
        keep_details: whether to keep what tables of classes and confusion need.
        pair_sets: images with captions, to search.
    """

    eval_tasks: Sequence[EvalTask]
    sets: dict[str, LabelledSet]
    cache: EmbeddingCache
    stage: str | None = None
    seed: int | None = None
    trust_remote_code: bool = False
    keep_details: bool = False
    pair_sets: Sequence[PairSet] = ()

    def run(self, models: Sequence[str], text_model: str | None = None) -> Outcome:
        """Measure.

        Args:
            models: folders or Hub ids, as `ZeroShotModel.from_pretrained` takes them.
            text_model: another one that reads for each of them, and sees for each of them.

        Returns:
            Everything in the first process; the others return no rows.

        Raises:
            ValueError: a model, image or label cannot be used, or two models do not embed in one space.
        """
        outcome = Outcome()
        other = None
        if text_model is not None:
            other = self._encode(text_model, outcome)
            other.release()
        for name in models:
            encoder = self._encode(name, outcome)
            outcome.rows += self._measure(encoder, encoder, outcome)
            if other is not None:
                outcome.rows += self._measure(encoder, other, outcome)
                outcome.rows += self._measure(other, encoder, outcome)
            encoder.release()
            del encoder
            gc.collect()  # before the next one is loaded: two large models need not fit
        return outcome

    def _encode(self, name: str, outcome: Outcome) -> Encoder:
        """Load a model and let it encode all there is."""
        model = ZeroShotModel.from_pretrained(name, trust_remote_code=self.trust_remote_code)
        encoder = Encoder(model.to(self.cache.state.device), self.cache, name)
        told = {"name": name, "fingerprint": encoder.fingerprint} | model.describe()
        outcome.models.append(told | {"texts_cut": self._count_cut(model)})
        for task in self._possible():
            encoder.images(self.sets[task.set], task.squashed)
            encoder.classes(task.candidates, task.templates)
        for pairs in self.pair_sets:
            encoder.images(pairs)
            for texts in pairs.captions.values():
                encoder.texts(texts)
        return encoder

    def _count_cut(self, model: ZeroShotModel) -> dict[str, int]:
        """How many of a set's texts are longer than the model reads, where any is."""
        counts = {}
        for task in self._possible():
            texts = [line.format(name) for name in task.candidates for line in task.templates.lines]
            counts[f"{task.set}, {task.title}"] = model.count_cut(texts)
        for pairs in self.pair_sets:
            for language, captions in pairs.captions.items():
                counts[f"{pairs.name}, {language}"] = model.count_cut(captions)
        return {name: count for name, count in counts.items() if count}

    def _possible(self) -> Iterator[EvalTask]:
        return (task for task in self.eval_tasks if task.set in self.sets)

    def _measure(self, seer: Encoder, reader: Encoder, outcome: Outcome) -> list[Row]:
        name = seer.name if seer is reader else f"{seer.name} images, {reader.name} texts"
        rows: list[Row] = []
        measured: dict[tuple[str, ...], Measured] = {}
        for task in self._possible():
            images = seer.images(self.sets[task.set], task.squashed)
            classes = reader.classes(task.candidates, task.templates)
            if images is None or classes is None:
                continue  # the first process measures
            _require_one_space(seer, images, reader, classes)
            try:
                found = measure(images, classes, self.sets[task.set].labels, task.metric)
            except ValueError as error:
                raise ValueError(f"data: {task.set}: {error}") from error
            measured[task.key] = found
            rows += self._rows(name, task, found)
            if self.keep_details:
                outcome.details.append((name, task, found))
        return rows + self._over_languages(name, measured) + self._search(name, seer, reader)

    def _search(self, name: str, seer: Encoder, reader: Encoder) -> list[Row]:
        """Retrieval, both ways, in every language."""
        rows: list[Row] = []
        for pairs in self.pair_sets:
            for language, captions in pairs.captions.items():
                seen, read = seer.images(pairs), reader.texts(captions)
                if seen is None or read is None:
                    continue  # the first process measures
                _require_one_space(seer, seen, reader, read)
                rows += score(pairs, language, seen, read, name, stage=self.stage, seed=self.seed)
        return rows

    def _rows(self, name: str, task: EvalTask, found: Measured) -> list[Row]:
        return [
            Row(
                model=name,
                stage=self.stage,
                set=task.set,
                protocol=task.protocol,
                language=task.language,
                metric=metric,
                value=value,
                seed=self.seed,
                interval=found.intervals.get(metric),
            )
            for metric, value in found.values.items()
        ]

    def _over_languages(self, name: str, measured: dict[tuple[str, ...], Measured]) -> list[Row]:
        """The mean over languages, and how often the answers agree, where a set was measured in several."""
        derived = []
        for set_name, eval_tasks in languages_of(self._possible()).items():
            languages = ", ".join(task.language for task in eval_tasks)
            protocol = ", ".join(dict.fromkeys(task.protocol for task in eval_tasks))
            found = [measured[task.key] for task in eval_tasks if task.key in measured]
            if not found:
                continue  # the first process measures
            mean = statistics.fmean(one.values[eval_tasks[0].metric] for one in found)
            same = agreement([one.answers for one in found])
            for metric, value in ((eval_tasks[0].metric, mean), (AGREEMENT, same)):
                derived.append(
                    Row(
                        model=name,
                        stage=self.stage,
                        set=set_name,
                        protocol=protocol,
                        language=languages,
                        metric=metric,
                        value=value,
                        seed=self.seed,
                    )
                )
        return derived


def _require_one_space(seer: Encoder, seen: Tensor, reader: Encoder, read: Tensor):
    if seen.shape[1] != read.shape[1]:
        raise ValueError(
            f"text_model: {reader.name!r} embeds in {read.shape[1]} dimensions, {seer.name!r} in {seen.shape[1]}: "
            "they cannot be compared. Name a model of the same space, such as its teacher."
        )


def languages_of(eval_tasks: Iterable[EvalTask]) -> dict[str, list[EvalTask]]:
    """By set, the eval_tasks that differ in their language alone, where there are two or more."""
    groups: dict[tuple[str, str], list[EvalTask]] = {}
    for task in eval_tasks:
        groups.setdefault((task.set, task.protocol.removesuffix(f"-{task.language}")), []).append(task)
    return {name: group for (name, _), group in groups.items() if len(group) > 1}
