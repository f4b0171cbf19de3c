import json
import weakref

import pytest
import torch
from torch import nn

from training.students import SIZES, load_size
from training.students.__main__ import main
from training.students.report import MODELS, Budget, header, measure, row, student_encoder
from training.studies.budget.baselines import RIVALS, DualEncoder

MILLION = 1_000_000


@pytest.mark.parametrize(("name", "limit"), [("tiny", 16), ("small", 40), ("base", 60)])
def test_each_size_respects_its_limit(name, limit):
    budget = measure(name, timing=False)
    assert 0.5 * limit * MILLION < budget.parameters <= limit * MILLION
    assert budget.parameters == budget.image_parameters + budget.text_parameters
    text = load_size(name).text_config
    assert budget.embedding_parameters == text["vocab_size"] * text["hidden_size"]
    assert budget.bytes == {
        number: size * budget.parameters for number, size in (("fp32", 4), ("fp16", 2), ("int8", 1))
    }
    assert (budget.ms_per_picture, budget.ms_per_text, budget.threads) == (None, None, None)


@pytest.mark.parametrize(
    ("name", "image", "text"),
    [
        # published, in millions; AltCLIP, CLIP and Chinese-CLIP ViT as a whole
        ("altclip", None, 864),
        ("clip-vit-b-32", None, 151),
        ("chinese-clip-vit-b-16", None, 188),
        ("chinese-clip-rn50", 38, 39),
        ("mobileclip-s0", 11.4, 42.4),
        ("mobileclip2-s0", 11.4, 63.4),
    ],
)
def test_rivals_are_as_large_as_published(name, image, text):
    budget = measure(name, timing=False)
    if image is None:
        assert budget.parameters == pytest.approx(text * MILLION, rel=0.005)
    else:
        assert budget.image_parameters == pytest.approx(image * MILLION, rel=0.01)
        assert budget.text_parameters == pytest.approx(text * MILLION, rel=0.01)


def test_parameters_are_counted_without_memory():
    with torch.device("meta"):
        encoder = RIVALS["clip-vit-b-32"]()
    assert all(parameter.is_meta for parameter in encoder.image_tower.parameters())
    assert isinstance(encoder.embedding_table, nn.Embedding)
    assert encoder.embedding_table.weight.shape == (49408, 512)


def test_json_is_one_line_a_model_and_progress_goes_elsewhere(capsys):
    main(["--json", "--no_timing", "--only", "tiny", "chinese-clip-rn50"])
    output = capsys.readouterr()
    lines = [json.loads(line) for line in output.out.splitlines()]
    assert [line["name"] for line in lines] == ["tiny", "chinese-clip-rn50"]
    assert set(lines[0]) == set(Budget.__dataclass_fields__)
    assert lines[0]["ms_per_picture"] is None
    assert "measuring tiny" in output.err


def test_command_prints_a_table_in_a_process_of_its_own(run_python):
    output = run_python("-m", "training.students", "--no_timing", "--only", "tiny").stdout.splitlines()
    assert output[0] == header() and output[1].startswith("tiny") and len(output) == 2
    assert "M" in output[1] and output[1].rstrip().endswith("-")


def test_towers_are_timed_and_threads_put_back(monkeypatch):
    before = torch.get_num_threads()
    budget = measure("tiny", threads=1)
    assert budget.ms_per_picture > 0 and budget.ms_per_text > 0 and budget.threads == 1
    assert torch.get_num_threads() == before
    assert len(row(budget)) == len(header())


def test_each_model_is_released_before_the_next(monkeypatch):
    built = []

    def build() -> DualEncoder:
        encoder = student_encoder(load_size("tiny", vision_init="random", text_init="random"))
        built.append(weakref.ref(encoder.text_tower.text_model))
        return encoder

    monkeypatch.setitem(MODELS, "watched", build)
    measure("watched", timing=False)
    assert built[0]() is None


def test_size_that_leaves_its_space_to_a_teacher_is_refused():
    with pytest.raises(ValueError, match=r"student.projection_dim is None: without a teacher both must be given"):
        student_encoder(load_size("tiny", projection_dim=None))


@pytest.mark.parametrize("arguments", [["--only", "huge"], ["--threads", "0"], ["--json", "--unknown", "1"]])
def test_bad_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--no_timing", *arguments])
    assert stop.value.code == 2 and capsys.readouterr().err


def test_every_size_and_rival_is_offered():
    assert list(MODELS) == [*SIZES, *RIVALS]
