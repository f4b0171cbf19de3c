"""`training/eval.py` with a protocol, from its command line to its files."""

import json
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from accelerate import debug_launcher
from accelerate.state import AcceleratorState

from tests.training.evaluation.drawings import (
    CIFAR_10,
    VOC,
    drawing,
    rows_of,
    write_folders,
    write_parquet,
)
from training import eval as eval_script
from training.evaluation import run as evaluation
from training.evaluation.options import EvalOptions
from training.evaluation.run import Evaluation, protocol_tasks
from training.evaluation.sets import protocols
from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.labeled_sets import ClassLookup, class_ids
from training.teachers import DualEncoder
from training.utils.process import find_processes
from training.utils.results import Results, Row

pytestmark = pytest.mark.slow

PROTOCOL = ["--protocol", "elevater-en", "elevater-zh"]
SETS = ["--sets", "cifar-10", "voc-2007-classification", "mnist"]
# short enough that the tiny models do not truncate them
TEMPLATES = {"en": ["a {}.", "{}"], "zh": ["一个{}", "{}"]}
NUM = sum(map(len, CIFAR_10.values()))
CIFAR_TITLE = f"cifar-10 ({NUM} of 10,000 images)"
VOC_TITLE = f"voc-2007-classification ({len(VOC)} of 4,952 images)"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two small sets of real drawings; the third set of `SETS` is missing."""
    folder = tmp_path_factory.mktemp("sets")
    write_folders(folder / "cifar", CIFAR_10)
    rows = []
    for name, code in VOC.items():
        rows.append({"image": {"bytes": drawing(code).read_bytes()}, "label": ["person", name]})
    write_parquet(folder / "voc.parquet", rows)
    return [
        "--data",
        f"cifar-10={folder / 'cifar'}",
        f"voc-2007-classification={folder / 'voc.parquet'}",
    ]


@pytest.fixture(scope="module")
def arguments(teacher_folder, data, tmp_path_factory):
    path = tmp_path_factory.mktemp("templates") / "templates.json"
    path.write_text(json.dumps(TEMPLATES), encoding="utf-8")
    return ["--model", str(teacher_folder), *PROTOCOL, *SETS, *data, "--templates", str(path)]


@pytest.fixture(scope="module")
def evaluated(arguments, altclip_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    more = ["--model", str(altclip_folder), "--output_dir", str(folder)]
    return eval_script.main([*arguments, *more]), folder


def label_ids(rows):
    return class_ids(rows["label"], ClassLookup(ClassNames.read("cifar-10"), {}, ""))


def test_top1_equals_an_independent_computation(evaluated, teacher):
    results, _ = evaluated
    rows = rows_of(CIFAR_10)
    images = torch.from_numpy(teacher.encode_images(rows["image"]))
    found = []
    fields = {"model": teacher.name, "set": CIFAR_TITLE}
    for language, names in ClassNames.read("cifar-10").names.items():
        texts = [line.format(name) for name in names for line in TEMPLATES[language]]
        embeddings = torch.from_numpy(teacher.encode_texts(texts, truncate=True))
        classes = F.normalize(embeddings.unflatten(0, (10, -1)).mean(1), dim=1)
        predictions = (images @ classes.T).argmax(1)
        accuracy = (predictions == label_ids(rows)).double().mean()
        assert results.values(**fields, language=language, metric="top1") == [accuracy]
        found.append(predictions)
    agreement = (found[0] == found[1]).double().mean()
    assert results.values(**fields, language="en, zh", metric="agreement") == [agreement]


def test_the_protocol_crops_images_also_for_models_that_squash(arguments, tmp_path, monkeypatch):
    encode = DualEncoder.encode_images
    seen = []

    def watch(model, images):
        seen.append(model.images.squashes)
        return encode(model, images)

    monkeypatch.setattr(DualEncoder, "encode_images", watch)
    eval_script.main([*arguments, "--output_dir", str(tmp_path)])
    assert seen == [False, False]


def test_results_describe_the_data(evaluated, data):
    written = json.loads((evaluated[1] / "results.json").read_text(encoding="utf-8"))
    eval_tasks = {(task["set"], task["protocol"]): task for task in written["meta"]["eval_tasks"]}
    assert len(eval_tasks) == 6
    task = eval_tasks["cifar-10", "elevater-zh"]
    assert task["source"] in data[1]
    assert len(task["revision"]) == 32
    assert task["images"] == NUM
    assert task["differs"] == [f"{NUM} images, the protocol's test has 10,000"]
    assert not task["missing"]
    assert eval_tasks["cifar-10", "elevater-en"]["differs"][-1] == "templates are not ELEVATER's"
    assert eval_tasks["mnist", "elevater-en"]["missing"]


@pytest.fixture
def table(evaluated):
    return (evaluated[1] / "table.md").read_text(encoding="utf-8").splitlines()


def cells_of(line):
    return line.strip("| ").split(" | ")


def test_the_table_has_the_metric_of_each_set(evaluated, teacher_folder, table):
    results, folder = evaluated
    assert (folder / "results.png").exists()
    cells = dict(zip(cells_of(table[0]), cells_of(table[2]), strict=True))
    fields = {"set": VOC_TITLE, "language": "zh", "metric": "11_point_map"}
    (value,) = results.values(model=str(teacher_folder), **fields)
    assert len(cells) == 5
    assert cells[f"{VOC_TITLE} zh 11_point_map"].startswith(f"{100 * value:.1f}")


def test_the_table_says_what_is_missing(evaluated, table):
    assert any(line.startswith("missing data: mnist (") for line in table)
    assert f"cifar-10, elevater-zh: {NUM} images, the protocol's test has 10,000" in table
    assert not evaluated[0].values(metric="elevater_score")


@dataclass(frozen=True)
class Whole:
    """A set that differs from the protocol's in some way, or in none."""

    differences: list[str] = field(default_factory=list)


def scores_of(sets):
    """Scores of ELEVATER in Chinese from sets whose values are 0, 0.05, 0.1 and so on."""
    options = EvalOptions(model=["m"], output_dir="o", protocol=["elevater-zh"])
    tasks = protocol_tasks(["elevater-zh"], list(protocols.ELEVATER), "ours")
    fields = {"model": "m", "protocol": "elevater-zh", "language": "zh"}
    rows = []
    for number, task in enumerate(tasks):
        rows.append(Row(set=task.set, metric=task.metric, value=0.05 * number, **fields))
    return Evaluation(options, tasks, sets).scores(rows)


def test_a_score_is_the_mean_of_all_twenty_sets_of_the_protocol():
    sets = {name: Whole() for name in protocols.ELEVATER}
    (score,) = scores_of(sets)
    assert score.value == pytest.approx(0.05 * 9.5)
    assert score.protocol == "elevater-zh"
    assert not scores_of(sets | {"dtd": Whole(["10 images"])})
    del sets["dtd"]
    assert not scores_of(sets)


def test_the_source_of_class_names_is_that_of_their_language(monkeypatch):
    names = ClassNames({"en": ["frog"], "zh": ["青蛙"]})
    asked = []
    monkeypatch.setattr(
        evaluation, "imagenet_names", lambda with_chinese: asked.append(with_chinese) or names
    )
    sources = {"en": "ELEVATER", "zh": "ours (names/cifar-10.json)"}
    for language in ("en", "zh"):
        imagenet, cifar = protocol_tasks(
            [f"elevater-{language}"], ["imagenet-1k", "cifar-10"], "ours"
        )
        assert (imagenet.class_names, imagenet.names_source) == (names, "clip-benchmark")
        assert (cifar.language, cifar.names_source) == (language, sources[language])
    assert asked == [False, True]


def test_several_processes_share_the_images_and_write_the_same_results(
    evaluated, arguments, tmp_path
):
    def work():
        torch.set_num_threads(1)
        assert find_processes().num_processes == 2
        eval_script.main([*arguments, "--output_dir", str(tmp_path)])

    AcceleratorState._reset_state(reset_partial_state=True)
    debug_launcher(work)
    together = Results.read(tmp_path / "results.json").rows
    written = Results.read(evaluated[1] / "results.json").rows
    alone = [row for row in written if row.model == together[0].model]
    for one, other in zip(together, alone, strict=True):
        assert (one.set, one.protocol, one.metric) == (other.set, other.protocol, other.metric)
        assert one.value == pytest.approx(other.value, abs=1e-6)


def test_plain_class_names_are_candidates_in_one_language(teacher_folder, tmp_path):
    names = ClassNames.read("cifar-10").names["zh"]
    rows = rows_of(CIFAR_10)
    labels = [names[number] for number in label_ids(rows).tolist()]
    chinese = rows.remove_columns("label").add_column("label", labels)
    data = write_parquet(tmp_path / "rows.parquet", chinese)
    path = tmp_path / "names.txt"
    path.write_text("\n".join(names), encoding="utf-8")
    common = ["--model", str(teacher_folder), "--data", f"mine={data}"]
    common += ["--output_dir", str(tmp_path / "out"), "--class_names"]
    plain = eval_script.main([*common, str(path)])
    both = eval_script.main([*common, "cifar-10", "--language", "zh"])
    assert plain.rows == both.rows
    assert {row.language for row in plain.rows} == {"zh"}
    assert "mine zh top5" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"protocol": []}, "protocol: give either"),
        ({"language": ["zh"]}, "language: a protocol has its own"),
        ({"protocol": [], "class_names": "cifar-10"}, "data: with --class_names, the sets are"),
        (
            {"protocol": [], "class_names": "cifar-10", "sets": ["mnist"], "data": ["mnist=x"]},
            "data: with --class_names, the sets are",
        ),
        ({"sets": ["mnist"], "data": ["dtd=x"]}, r"data: \['dtd'\] are not among the sets"),
        (
            {"protocol": [], "retrieval": ["a=data/NO.parquet"]},
            "retrieval: .*'data/NO.parquet'.* Unable to find",
        ),
    ],
)
def test_options_names_and_sources_that_cannot_be_used_are_refused(fields, message):
    defaults = {"model": ["m"], "output_dir": "out", "protocol": ["elevater-en"]}
    with pytest.raises(ValueError, match=message):
        Evaluation.open(EvalOptions(**defaults | fields))
