"""`training/eval.py` by protocol, from its command line to its files."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.training.evaluation.drawings import CIFAR_10, VOC, drawing, rows_of, write_folders, write_parquet
from training import eval as eval_script
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.protocols import ELEVATER, PROTOCOLS
from training.utils.results import Results, Row

PROTOCOL = ["--protocol", "elevater-en", "elevater-zh"]
SETS = ["--sets", "cifar-10", "voc-2007-classification", "mnist"]
TEMPLATES = {"en": ["a {}.", "{}"], "zh": ["一个{}", "{}"]}  # short ones, which the tiny models can read whole
NUM = sum(map(len, CIFAR_10.values()))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[str]:
    """Two small sets of real drawings; a third set is asked for and cannot be had."""
    folder = tmp_path_factory.mktemp("sets")
    write_folders(folder / "cifar", CIFAR_10)
    rows = [{"image": {"bytes": drawing(code).read_bytes()}, "label": ["person", name]} for name, code in VOC.items()]
    write_parquet(folder / "voc.parquet", rows)
    return ["--data", f"cifar-10={folder / 'cifar'}", f"voc-2007-classification={folder / 'voc.parquet'}"]


@pytest.fixture(scope="module")
def arguments(teacher_folder, data, tmp_path_factory) -> list[str]:
    path = tmp_path_factory.mktemp("templates") / "templates.json"
    path.write_text(json.dumps(TEMPLATES), encoding="utf-8")
    return ["--model", str(teacher_folder), *PROTOCOL, *SETS, *data, "--templates", str(path)]


@pytest.fixture(scope="module")
def evaluated(arguments, altclip_folder, tmp_path_factory) -> tuple[Results, Path]:
    folder = tmp_path_factory.mktemp("out")
    more = ["--model", str(altclip_folder), "--published", "--per_class", "--confusion"]
    return eval_script.main([*arguments, *more, "--output_dir", str(folder)]), folder


def columns(table: str) -> dict[tuple[str, str], dict[str, str]]:
    """The first table of table.md: cells by (model, protocol) and column."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n\n")[0].splitlines()]
    return {(line[0], line[1]): dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


def test_numbers_are_those_of_the_model_the_names_and_the_templates(evaluated, teacher_folder):
    results, _ = evaluated
    model, rows = ZeroShotModel.from_pretrained(teacher_folder), rows_of(CIFAR_10)
    for language in ("en", "zh"):
        names, protocol = ClassNames.read("cifar-10"), PROTOCOLS[f"elevater-{language}"]
        texts = [line.format(name) for name in names.names[language] for line in TEMPLATES[language]]
        classes = model.encode_texts(texts).unflatten(0, (10, -1)).mean(1)
        answers = (model.encode_images(rows) @ (classes / classes.norm(dim=1, keepdim=True)).T).argmax(1)
        right = (answers == names.label_ids(rows["label"])).double().mean().item()
        wanted = {"model": str(teacher_folder), "set": "cifar-10", "protocol": protocol.name, "language": language}
        assert results.values(**wanted, metric="top1") == [right]


def test_every_result_says_what_it_was_measured_on(evaluated, data):
    results, folder = evaluated
    written = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert len(written["rows"]) == len(results.rows)
    eval_tasks = {(task["set"], task["protocol"]): task for task in written["meta"]["eval_tasks"]}
    assert len(eval_tasks) == 6
    task = eval_tasks["cifar-10", "elevater-zh"]
    assert task["source"] in data[1] and len(task["revision"]) == 32 and task["images"] == NUM
    assert (task["metric"], task["num_templates"], task["classes"]) == ("top1", 2, 10)
    assert task["templates"].endswith("templates.json")
    assert "ours" in task["names"] and task["differs"] == [f"{NUM} images, the protocol's test has 10,000"]
    assert eval_tasks["cifar-10", "elevater-en"]["differs"][-1] == "templates are not ELEVATER's"
    assert eval_tasks["mnist", "elevater-en"]["missing"] and not task["missing"]
    assert all({"name", "revision", "fingerprint", "texts"} <= set(model) for model in written["meta"]["models"])


def test_the_table_has_a_row_a_model_and_a_column_a_set_and_no_score(evaluated, teacher_folder, altclip_folder):
    results, folder = evaluated
    table = (folder / "table.md").read_text(encoding="utf-8")
    rows = columns(table)
    for model in (str(teacher_folder), str(altclip_folder)):
        row = rows[model, "elevater-zh"]
        assert row["ELEVATER score"] == "2 of 20, 2 differ" and row["mnist"] == "missing data"
        (value,) = results.values(model=model, set="voc-2007-classification", language="zh", metric="11_point_map")
        assert row["voc-2007-classification"] == f"{100 * value:.1f}"
        (same,) = results.values(model=model, set="cifar-10", metric="agreement")
        assert rows[model, "same answer in all languages"]["cifar-10"] == f"{100 * same:.1f}"
        both = results.values(model=model, set="cifar-10", protocol="elevater-en", metric="top1")
        both += results.values(model=model, set="cifar-10", protocol="elevater-zh", metric="top1")
        assert rows[model, "mean over languages"]["cifar-10"] == f"{50 * sum(both):.1f}"
    assert rows["CN-CLIP RN50 (77 M)", "published, zh, cn-clip-compat"]["mnist"] == "50.2"
    assert "arXiv 2211.01335" in table and "missing data: mnist (" in table
    assert not [row for row in results.rows if row.metric == "elevater_score"]


def test_images_and_tables_of_classes_are_written_on_demand(evaluated):
    _, folder = evaluated
    tables, drawn = sorted((folder / "per_class").glob("*.md")), sorted((folder / "confusion").glob("*.png"))
    assert len(tables) == 8 and len(drawn) == 4  # several labels an image have no confusion
    (text,) = (
        p.read_text(encoding="utf-8") for p in tables if "cifar-10_elevater-zh" in p.name and "altclip" in p.name
    )
    assert "| airplane | 飞机 | 2 |" in text
    for path in (*drawn, folder / "languages.png"):
        with Image.open(path) as image:
            assert len(image.convert("L").getcolors()) > 20


def test_a_killed_run_goes_on_with_the_sets_that_are_not_done(arguments, tmp_path, monkeypatch):
    encoded, encode = [], ZeroShotModel.encode_images

    def encode_one(self, rows, *rest, **fields):
        if len(encoded) == 1 and not (tmp_path / "go").exists():
            raise KeyboardInterrupt
        encoded.append(len(rows))
        return encode(self, rows, *rest, **fields)

    monkeypatch.setattr(ZeroShotModel, "encode_images", encode_one)
    with pytest.raises(KeyboardInterrupt):
        eval_script.main([*arguments, "--output_dir", str(tmp_path)])
    (tmp_path / "go").touch()
    first = eval_script.main([*arguments, "--output_dir", str(tmp_path)])
    assert encoded == [NUM, len(VOC)]
    again = eval_script.main([*arguments, "--output_dir", str(tmp_path / "b"), "--cache_dir", str(tmp_path / "cache")])
    assert encoded == [NUM, len(VOC)] and again.rows == first.rows


def test_two_models_read_and_see_for_each_other(arguments, teacher_folder, altclip_folder, tmp_path):
    more = ["--text_model", str(altclip_folder), "--output_dir", str(tmp_path)]
    results = eval_script.main([*arguments, *more])
    seen_by = [
        f"{teacher_folder} images, {altclip_folder} texts",
        f"{altclip_folder} images, {teacher_folder} texts",
    ]
    assert list(dict.fromkeys(row.model for row in results.rows)) == [str(teacher_folder), *seen_by]
    for model in seen_by:
        assert len(results.values(model=model, set="cifar-10", metric="top1")) == 3  # two languages and their mean


def test_a_score_needs_all_twenty_sets_as_the_protocol_has_them():
    from training.evaluation.report.table import results_table, scores
    from training.evaluation.sets.eval_tasks import protocol_tasks
    from training.evaluation.sets.labelled_sets import LabelledSet

    eval_tasks = protocol_tasks([PROTOCOLS["elevater-zh"]], list(ELEVATER), "ours", "none")
    whole = {name: LabelledSet(name, [], None, "a", None, "b", []) for name in ELEVATER}
    rows = [
        Row(model="m", set=task.set, protocol=task.protocol, language="zh", metric=task.metric, value=0.05 * number)
        for number, task in enumerate(eval_tasks)
    ]
    (score,) = scores(rows, eval_tasks, whole)
    assert score.value == pytest.approx(0.05 * 9.5) and score.protocol == "elevater-zh"
    assert results_table([*rows, score], eval_tasks, whole).endswith("| 47.5 |")
    for sets in (
        {name: found for name, found in whole.items() if name != "dtd"},
        whole | {"dtd": LabelledSet("dtd", [], None, "a", None, "b", ["10 images"])},
    ):
        assert not scores(rows, eval_tasks, sets)
    assert results_table(rows, eval_tasks, {}).endswith("| 0 of 20 |")


def test_several_processes_share_the_images_and_write_the_same(evaluated, arguments, run_python, tmp_path):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run_python(*launch, "training/eval.py", *arguments, "--output_dir", str(tmp_path))
    together = Results.read(tmp_path / "results.json").rows
    alone = [row for row in evaluated[0].rows if row.model == together[0].model]
    assert [(r.set, r.protocol, r.metric) for r in together] == [(r.set, r.protocol, r.metric) for r in alone]
    assert [row.value for row in together] == pytest.approx([row.value for row in alone], abs=1e-6)


# bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "elevater-fr"], "protocol: there is no 'elevater-fr', only elevater-en"),
        (["--protocol", "elevater-en", "--sets", "cifar"], "sets: there is no 'cifar'"),
        (["--protocol", "elevater-en", "--data", "cifar=x"], "data: there is no set 'cifar'"),
        (["--protocol", "elevater-en", "--data", "mnist"], "data: 'mnist' names no source"),
        (["--protocol", "elevater-en", "--sets", "mnist", "--data", "dtd=x"], "data: ['dtd'] are not among --sets"),
        (["--protocol", "elevater-en", "--data", "dtd=x", "dtd=y"], "data: dtd is given twice"),
        (["--protocol", "elevater-en", "--label_names", "dtd=x"], "label_names: ['dtd'] are not among"),
        (["--protocol", "elevater-en", "--language", "zh"], "language: a protocol has its own"),
        (["--protocol", "elevater-en", "--sets", "mnist", "--templates", "ours"], "data: none of the sets can be had"),
        (["--protocol", "elevater-en", "--class_names", "cifar-10"], "protocol: give either"),
        ([], "protocol: give either"),
        (["--class_names", "cifar-10"], "data: with --class_names"),
        (["--class_names", "cifar-10", "--data", "x=y", "--templates", "ours"], "class_names: our templates"),
        (
            ["--class_names", "cifar-10", "--data", "x=y", "--templates", "z.json"],
            "templates: cannot read templates of x",
        ),
        (["--class_names", "cifar-10", "--data", "x=y", "--language", "fr"], "no names in 'fr'"),
        (["--class_names", "nowhere.json", "--data", "x=y"], "class_names: cannot read 'nowhere.json'"),
    ],
)
def test_wrong_options_end_with_their_name_and_the_choices(arguments, message, capsys, tmp_path):
    arguments = ["--model", "m", *arguments, "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as exit_info:
        eval_script.main(arguments)
    assert exit_info.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
