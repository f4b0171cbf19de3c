import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from training.students import SIZES
from training.studies.budget import __main__ as command
from training.studies.budget import models, run
from training.studies.budget.backends import graph_path, open_towers
from training.studies.budget.baselines import split
from training.studies.budget.inputs import Inputs, pad
from training.studies.budget.models import load_weights, save_weights
from training.studies.budget.names import BASELINE_NAMES, NAMES, NOTES, SIZE_NAMES
from training.studies.budget.options import BudgetOptions
from training.studies.budget.prepare import FACTS, prepare
from training.studies.budget.probe import Probe
from training.studies.budget.run import Run, run_module
from training.studies.budget.texts import NUM_TEXTS, sample_texts, token_ids
from training.utils.cli import help_texts
from training.utils.results import Results

pytestmark = pytest.mark.slow

GRAPHS = ["onnx-fp32", "onnx-int8"]


@pytest.fixture(scope="module")
def prepared(teacher_folder, tmp_path_factory):
    """A finished student and its graphs."""
    folder = tmp_path_factory.mktemp("prepared")
    with torch.inference_mode():
        prepare("student", folder, teacher_folder, GRAPHS)
    return folder


def probe(prepared, backend: str, **fields) -> Probe:
    facts = json.loads((prepared / FACTS).read_text())
    fields = {"threads": 1, "batch_sizes": [1, 2], "repeats": 3, "seconds": 9.0, "began": 0.0} | fields
    return Probe(name="student", backend=backend, folder=str(prepared), weights=facts["weights"], **fields)


def test_texts_are_zero_shot_queries_in_both_languages(tokenizer):
    texts = sample_texts()
    assert {language: len(set(queries)) for language, queries in texts.items()} == {"en": NUM_TEXTS, "zh": NUM_TEXTS}
    assert all("photo" in text for text in texts["en"]) and all("照片" in text for text in texts["zh"])
    ids = token_ids(tokenizer, 12)
    assert max(map(len, ids["en"])) == 12 and ids["zh"][0][0] == tokenizer.bos_token_id


def test_names_are_those_of_the_sizes_and_baselines():
    assert SIZE_NAMES == SIZES and tuple(models.BASELINES) == BASELINE_NAMES and set(NOTES) <= set(BASELINE_NAMES)
    assert ", ".join(NAMES) in " ".join(help_texts(BudgetOptions)["models"].split())


def test_batches_are_padded_to_their_longest_text(tmp_path):
    Inputs(8, 9, {"en": [[1, 2], [3], [4, 5, 6]]}).write(tmp_path)
    inputs = Inputs.read(tmp_path)
    assert inputs.images(2).shape == (2, 3, 8, 8)
    ((ids, mask),) = inputs.text_batches("en", 2)  # the third text does not fill a batch
    assert ids.tolist() == [[1, 2], [3, 9]] and mask.tolist() == [[1, 1], [1, 0]]
    assert [ids.shape for ids, _ in inputs.text_batches("en", 1)] == [(1, 2), (1, 1), (1, 3)]
    assert pad([[7]], 0)[1].dtype == np.int64


@pytest.mark.parametrize("backend", ["onnx-fp32", "onnx-int8"])
def test_graphs_return_the_embeddings_of_pytorch(prepared, backend):
    inputs, facts = Inputs.read(prepared), json.loads((prepared / FACTS).read_text())
    assert not facts["failures"]
    eager, graphs = (open_towers(name, "student", prepared, Path(facts["weights"]), 1) for name in ("eager", backend))
    torch.set_grad_enabled(True)  # the backend disables it, which is meant for a process of its own
    for tower, arguments in ((0, (inputs.images(3),)), (1, inputs.text_batches("zh", 3)[0])):
        expected = torch.nn.functional.normalize(eager[tower](*arguments).detach(), dim=-1).numpy()
        (embeddings,) = graphs[tower](*arguments)
        assert (expected * embeddings).sum(1).min() > (1 - 1e-5 if backend == "onnx-fp32" else 0.9)
    files = [graph_path(prepared, tower, backend) for tower in ("vision", "text")]
    assert facts["bytes"][backend] == sum(path.stat().st_size for path in files)


def test_probe_measures_each_batch_and_language(prepared):
    measured = probe(prepared, "onnx-fp32").run()
    assert measured[0]["metric"] == "cold_start_s"
    times = {(row["metric"], row["batch_size"], row.get("language")): row["value"] for row in measured[1:]}
    for size in (1, 2):
        for what, language in (("image", None), ("text", "en"), ("text", "zh")):
            assert 0 < times[f"ms_per_{what}_p50", size, language] <= times[f"ms_per_{what}_p95", size, language]
    assert 0 < times["peak_bytes", 1, None] <= times["peak_bytes", 2, None]


def test_slow_calls_are_timed_three_times_after_one_that_is_not_counted(prepared):
    calls = []

    def slow_at_first():
        calls.append(1)
        time.sleep(0.2 if len(calls) == 1 else 0.001)

    rows = probe(prepared, "eager", repeats=50, seconds=0.0).time("text", 1, "en", slow_at_first, [()])
    assert len(calls) == 4 and all(row["value"] < 100 for row in rows)


def test_onnx_runtime_is_measured_without_torch(prepared, run_python):
    spec = json.dumps(vars(probe(prepared, "onnx-int8")))
    code = (
        "import json, sys; from training.studies.budget.probe import Probe; Probe(**json.loads(sys.argv[1])).run(); "
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    assert run_python("-c", code, spec).stdout.splitlines()[-1] == "[]"


@torch.inference_mode()
def test_baseline_is_loaded_from_its_files(monkeypatch, tmp_path):
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"vocab_size": 99, "bos_token_id": 97, "eos_token_id": 98}
    config = CLIPConfig(
        vision_config=tower | {"image_size": 32, "patch_size": 16},
        text_config=tower | special,
    )
    monkeypatch.setitem(models.BASELINES, "pocket", lambda: split(CLIPModel(config), 32))
    saved, loaded = save_weights("pocket", tmp_path), load_weights("pocket", tmp_path / "weights")
    image, ids = torch.rand(1, 3, 32, 32), torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(saved.image_tower.eval()(image), loaded.image_tower.eval()(image))
    torch.testing.assert_close(saved.text_tower.eval()(ids), loaded.text_tower.eval()(ids))


class FakeProcesses:
    """Replaces `run_module`: returns results at once, and can be interrupted or fail."""

    def __init__(self, folder, dies_at: int = -1, fails: str = "nothing"):
        self.folder, self.dies_at, self.fails, self.calls = folder, dies_at, fails, []

    def __call__(self, module: str, *arguments: str, threads: int | None = None) -> str:
        if len(self.calls) == self.dies_at:
            raise KeyboardInterrupt
        spec = json.loads(arguments[0])
        if module.endswith("prepare"):
            folder = spec["folder"]
            self.calls.append(spec["name"])
            facts = dict.fromkeys(("parameters", "image_parameters", "text_parameters", "embedding_parameters"), 7)
            facts |= {"weights": "w", "bytes": {"pytorch": 28}, "tokens": {"en": 4, "zh": 5}, "failures": {}}
            Path(folder).mkdir(parents=True, exist_ok=True)
            (Path(folder) / FACTS).write_text(json.dumps(facts))
            return ""
        self.calls.append(f"{spec['name']} {spec['backend']} {threads}")
        if spec["backend"] == self.fails:
            raise RuntimeError("no compiler")
        ms = {"altclip": 30.0, "tiny": 1.0}[spec["name"]] / (2 if spec["backend"] == "onnx-fp32" else 1)
        measured = [
            {"metric": "cold_start_s", "value": 1.0},
            {"metric": "peak_bytes", "batch_size": 1, "value": 2**20},
        ]
        for what, language in (("image", None), ("text", "en"), ("text", "zh")):
            for share in ("p50", "p95"):
                row = {"metric": f"ms_per_{what}_{share}", "batch_size": 1, "language": language, "value": ms}
                measured.append(row)
        return json.dumps(measured)


def measure(monkeypatch, processes: FakeProcesses, tmp_path, **fields) -> Run:
    monkeypatch.setattr(run, "run_module", processes)
    options = {"models": ["altclip", "tiny"], "backends": ["eager", "onnx-fp32"], "threads": [1]} | fields
    finished = Run(BudgetOptions(output_dir=str(tmp_path), **options))
    finished.rows = finished.measure()
    return finished


def test_killed_run_resumes(monkeypatch, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        measure(monkeypatch, FakeProcesses(tmp_path, dies_at=5), tmp_path)
    processes = FakeProcesses(tmp_path)
    assert len(measure(monkeypatch, processes, tmp_path).rows) == 2 * (7 + 2 * 8)
    assert processes.calls == ["tiny onnx-fp32 1"]
    assert not (tmp_path / ".parts").exists()


def test_other_options_are_measured_again(monkeypatch, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        measure(monkeypatch, FakeProcesses(tmp_path, dies_at=5), tmp_path)
    processes = FakeProcesses(tmp_path)
    measure(monkeypatch, processes, tmp_path, repeats=3)
    assert processes.calls[:2] == ["altclip", "altclip eager 1"] and processes.calls.count("tiny eager 1") == 1


def test_failing_backend_does_not_affect_others(monkeypatch, tmp_path):
    finished = measure(monkeypatch, FakeProcesses(tmp_path, fails="eager"), tmp_path)
    assert finished.failures == {f"{name}, eager, threads 1": "no compiler" for name in ("altclip", "tiny")}
    assert {row.protocol for row in finished.rows if row.metric == "cold_start_s"} == {"onnx-fp32, threads 1"}


def test_command_writes_numbers_table_and_plot(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(run, "run_module", FakeProcesses(tmp_path))
    quality = tmp_path / "quality.json"
    quality.write_text('{"name": "top-1", "values": {"tiny": 0.4}}')
    arguments = ["--models", "altclip", "tiny", "--backends", "eager", "onnx-fp32", "--threads", "1", "2"]
    command.main([*arguments, "--quality", str(quality), "--output_dir", str(tmp_path)])
    results = Results.read(tmp_path / "results.json")
    fast = {row.protocol: row.value for row in results.rows if (row.model, row.metric) == ("tiny", "times_as_fast")}
    assert fast["eager, threads 1, batch 1, against eager"] == 30.0
    assert fast["onnx-fp32, threads 2, batch 1, against onnx-fp32"] == 30.0
    assert results.mean(model="tiny", metric="ms_per_pair", protocol="eager, threads 1, batch 1") == 2.0
    assert results.meta["command"].startswith(
        "python -m training.studies.budget --models altclip tiny --backends eager"
    )
    lines = (tmp_path / "table.txt").read_text().splitlines()
    assert len(lines) == 2 * (2 + 4) + 1 and len({len(line) for line in lines[1:6]}) == 1
    assert (tmp_path / "budget.png").stat().st_size > 5000
    assert "budget.png" in capsys.readouterr().out


def test_the_command_runs_in_a_process_of_its_own(run_python):
    process = run_python("-m", "training.studies.budget", "--repeats", "0", check=False)
    assert process.returncode == 2 and "repeats: 0 is less than 1" in process.stderr


def test_finished_folder_is_measured_in_subprocesses(teacher_folder, tmp_path, capsys):
    arguments = ["--backends", "eager", "--threads", "1", "--batch_sizes", "1", "--repeats", "3"]
    arguments += ["--models", str(teacher_folder), "--output_dir", str(tmp_path)]
    command.main(arguments)
    results = Results.read(tmp_path / "results.json")
    name = teacher_folder.name
    assert results.mean(model=name, metric="bytes", protocol="pytorch") == (
        (teacher_folder / "model.safetensors").stat().st_size
    )
    assert 0.5 < results.mean(model=name, metric="cold_start_s") < 240
    assert 5e7 < results.mean(model=name, metric="peak_bytes") < 4e9
    assert name in capsys.readouterr().out


def test_error_of_a_process_ends_with_its_stderr():
    with pytest.raises(RuntimeError, match=r"training\.studies\.budget\.probe \{\} failed:\n(.|\n)*TypeError"):
        run_module("training.studies.budget.probe", "{}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "gigantic"], "models: 'gigantic' is neither the name of a size or baseline nor a folder"),
        (["--models"], "--models"),
        (["--models", "{empty}"], "is not the folder of a model"),
        (["--models", "{altclip}"], "holds a model of the type 'altclip'. Name the folder of a 'dcclip' model"),
        (["--models", "{teacher}", "{teacher}"], "models: two models have the same name"),
        (["--repeats", "0"], "repeats: 0 is less than 1"),
        (["--threads", "0"], "threads: 0 is less than 1"),
        (["--backends", "magic"], "magic"),
        (["--quality", "{teacher}/config.json"], "quality: "),
    ],
)
def test_bad_arguments_are_refused(arguments, message, teacher_folder, altclip_folder, capsys, tmp_path):
    output_dir = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    folders = {"teacher": teacher_folder, "altclip": altclip_folder, "empty": tmp_path / "empty"}
    with pytest.raises(SystemExit) as stop:
        command.main([argument.format(**folders) for argument in arguments] + ["--output_dir", str(output_dir)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not output_dir.exists()
