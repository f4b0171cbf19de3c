"""`training/eval.py` with a protocol, from its command line to its files."""

import json
from pathlib import Path

import pytest
import torch
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
from training.evaluation.options import EvalOptions
from training.evaluation.plan import EvalPlan, protocol_tasks
from training.evaluation.report import elevater_scores, results_table
from training.evaluation.runner import Agreement
from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.labelled_sets import LabelledSet
from training.evaluation.sets.protocols import ELEVATER
from training.teachers import DualEncoder
from training.utils.process import find_processes
from training.utils.results import Results, Row

pytestmark = pytest.mark.slow

PROTOCOL = ["--protocol", "elevater-en", "elevater-zh"]
SETS = ["--sets", "cifar-10", "voc-2007-classification", "mnist"]
TEMPLATES = {
    "en": ["a {}.", "{}"],
    "zh": ["一个{}", "{}"],
}  # short enough that the tiny models do not truncate them
NUM = sum(map(len, CIFAR_10.values()))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[str]:
    """Two small sets of real drawings; the third set of `SETS` is missing."""
    folder = tmp_path_factory.mktemp("sets")
    write_folders(folder / "cifar", CIFAR_10)
    rows = [
        {"image": {"bytes": drawing(code).read_bytes()}, "label": ["person", name]}
        for name, code in VOC.items()
    ]
    write_parquet(folder / "voc.parquet", rows)
    return [
        "--data",
        f"cifar-10={folder / 'cifar'}",
        f"voc-2007-classification={folder / 'voc.parquet'}",
    ]


@pytest.fixture(scope="module")
def arguments(teacher_folder, data, tmp_path_factory) -> list[str]:
    path = tmp_path_factory.mktemp("templates") / "templates.json"
    path.write_text(json.dumps(TEMPLATES), encoding="utf-8")
    return ["--model", str(teacher_folder), *PROTOCOL, *SETS, *data, "--templates", str(path)]


@pytest.fixture(scope="module")
def evaluated(arguments, altclip_folder, tmp_path_factory) -> tuple[Results, Path]:
    folder = tmp_path_factory.mktemp("out")
    more = ["--model", str(altclip_folder)]
    return eval_script.main([*arguments, *more, "--output_dir", str(folder)]), folder


def columns(table: str) -> dict[tuple[str, str], dict[str, str]]:
    """The first table of table.md: cells by (model, protocol) and column."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.split("\n\n")[0].splitlines()
    ]
    return {(line[0], line[1]): dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


def test_top1_equals_an_independent_computation(evaluated, teacher_folder):
    results, _ = evaluated
    model, rows = DualEncoder.from_pretrained(teacher_folder), rows_of(CIFAR_10)
    found = []
    for language in ("en", "zh"):
        names = ClassNames.read("cifar-10")
        texts = [
            line.format(name) for name in names.names[language] for line in TEMPLATES[language]
        ]
        classes = model.encode_texts(texts).unflatten(0, (10, -1)).mean(1)
        predictions = (
            model.encode_images(rows) @ (classes / classes.norm(dim=1, keepdim=True)).T
        ).argmax(1)
        accuracy = (predictions == names.label_ids(rows["label"])).double().mean().item()
        fields = {"model": str(teacher_folder), "set": "cifar-10", "language": language}
        assert results.values(**fields, metric="top1") == [accuracy]
        found.append(predictions)
    fields |= {"language": "en, zh", "metric": "agreement"}
    assert results.values(**fields) == [(found[0] == found[1]).double().mean().item()]


def test_agreement_counts_images_whose_predictions_are_all_equal():
    assert Agreement(keep_in_memory=True).compute(
        predictions=[[1, 1, 1], [1, 1, 2], [0, 0, 0], [2, 1, 0]]
    ) == {"agreement": 0.5}


def test_results_describe_the_data_and_the_models(evaluated, data):
    results, folder = evaluated
    written = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert len(written["rows"]) == len(results.rows)
    eval_tasks = {(task["set"], task["protocol"]): task for task in written["meta"]["eval_tasks"]}
    assert len(eval_tasks) == 6
    task = eval_tasks["cifar-10", "elevater-zh"]
    assert task["source"] in data[1] and len(task["revision"]) == 32 and task["images"] == NUM
    assert (task["metric"], task["num_templates"], task["classes"]) == ("top1", 2, 10)
    assert task["templates"].endswith("templates.json")
    assert "ours" in task["names"] and task["differs"] == [
        f"{NUM} images, the protocol's test has 10,000"
    ]
    assert eval_tasks["cifar-10", "elevater-en"]["differs"][-1] == "templates are not ELEVATER's"
    assert eval_tasks["mnist", "elevater-en"]["missing"] and not task["missing"]
    assert all(
        {"name", "revision", "weights", "texts"} <= set(model)
        for model in written["meta"]["models"]
    )


def test_the_table_has_one_row_per_model_one_column_per_set_and_no_score(
    evaluated, teacher_folder, altclip_folder
):
    results, folder = evaluated
    table = (folder / "table.md").read_text(encoding="utf-8")
    assert (folder / "results.png").exists()
    rows = columns(table)
    for model in (str(teacher_folder), str(altclip_folder)):
        row = rows[model, "elevater-zh"]
        assert row["ELEVATER score"] == "2 of 20, 2 differ" and row["mnist"] == "missing data"
        (value,) = results.values(
            model=model, set="voc-2007-classification", language="zh", metric="11_point_map"
        )
        assert row["voc-2007-classification"] == f"{100 * value:.1f}"
    assert "missing data: mnist (" in table
    assert not [row for row in results.rows if row.metric == "elevater_score"]


def test_a_score_needs_all_twenty_sets_of_the_protocol():
    eval_tasks = protocol_tasks(["elevater-zh"], list(ELEVATER), "ours")
    complete = {name: LabelledSet(name, [], None, "a", None, "b", []) for name in ELEVATER}
    plan = EvalPlan(eval_tasks, complete)
    rows = [
        Row(
            model="m",
            set=task.set,
            protocol=task.protocol,
            language="zh",
            metric=task.metric,
            value=0.05 * number,
        )
        for number, task in enumerate(eval_tasks)
    ]
    (score,) = elevater_scores(rows, plan)
    assert score.value == pytest.approx(0.05 * 9.5) and score.protocol == "elevater-zh"
    assert results_table([*rows, score], plan).endswith("| 47.5 |")
    for sets in (
        {name: labelled for name, labelled in complete.items() if name != "dtd"},
        complete | {"dtd": LabelledSet("dtd", [], None, "a", None, "b", ["10 images"])},
    ):
        assert not elevater_scores(rows, EvalPlan(eval_tasks, sets))
    assert results_table(rows, EvalPlan(eval_tasks, {})).endswith("| 0 of 20 |")


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
    assert [(r.set, r.protocol, r.metric) for r in together] == [
        (r.set, r.protocol, r.metric) for r in alone
    ]
    assert [row.value for row in together] == pytest.approx([row.value for row in alone], abs=1e-6)


def test_plain_class_names_are_candidates_in_one_language(teacher_folder, tmp_path):
    names = ClassNames.read("cifar-10")
    rows = rows_of(CIFAR_10)
    labels = [names.names["zh"][number] for number in names.label_ids(rows["label"]).tolist()]
    data = write_parquet(
        tmp_path / "rows.parquet", rows.remove_columns("label").add_column("label", labels)
    )
    path = tmp_path / "names.txt"
    path.write_text("\n".join(names.names["zh"]), encoding="utf-8")
    common = [
        "--model",
        str(teacher_folder),
        "--data",
        f"mine={data}",
        "--output_dir",
        str(tmp_path / "out"),
    ]
    plain = eval_script.main([*common, "--class_names", str(path)])
    both = eval_script.main([*common, "--class_names", "cifar-10", "--language", "zh"])
    assert plain.rows == both.rows and {row.language for row in plain.rows} == {"zh"}
    assert "are the accuracy of top-1 and top-5" in (tmp_path / "out" / "table.md").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"protocol": []}, "protocol: give either"),
        ({"language": ["zh"]}, "language: a protocol has its own"),
        ({"widths": [8, 4]}, "widths: must ascend"),
        ({"widths": [4], "text_model": "other"}, "widths: "),
        ({"caption_columns": {"zh": "a"}}, "caption_columns: "),
        ({"protocol": [], "class_names": "cifar-10"}, "data: with --class_names"),
        ({"protocol": [], "class_names": "x", "data": ["x=y"], "templates": "ours"}, "templates: "),
        ({"protocol": ["elevater-fr"]}, "protocol: 'elevater-fr'"),
        ({"data": ["cifar=x"]}, "data: 'cifar'"),
        ({"sets": ["mnist"], "data": ["dtd=x"]}, r"data: \['dtd'\] are not among --sets"),
        ({"data": ["dtd=x", "dtd=y"]}, "data: dtd is given twice"),
        ({"sets": ["mnist"], "templates": "ours"}, "data: none of the sets is"),
        (
            {"protocol": [], "class_names": "cifar-10", "data": ["x=y"], "language": ["fr"]},
            "no names in 'fr'",
        ),
        ({"protocol": [], "retrieval": ["a=NOWHERE.parquet"]}, "NOWHERE"),
        (
            {"protocol": [], "retrieval": ["a=split=test/NO.parquet"]},
            "retrieval: .*'split=test/NO.parquet'",
        ),
        (
            {"protocol": [], "retrieval": ["a=data/NO.parquet"]},
            "retrieval: .*'data/NO.parquet'.* Unable to find",
        ),
    ],
)
def test_options_names_and_sources_that_cannot_be_used_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        EvalPlan.open(
            EvalOptions(
                **{"model": ["m"], "output_dir": "out", "protocol": ["elevater-en"]} | fields
            )
        )
