"""The Hub folder of the model of photographs, from the folders of three small runs."""

import json
import shutil

import pytest
import torch
from datasets import Dataset
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel

from modeling_dcclip import DCCLIPProcessor
from tests.tiny import (
    CUT_EFFICIENTNET,
    MOBILENET,
    NO_DROPOUT,
    ROOT,
    make_image_processor,
    make_model,
    recipe_fields,
    student_config,
)
from training.config import AlignRecipe, DistillRecipe
from training.corpus.free_photos import FREE_PHOTOS, FreePhoto
from training.demo.photo_model.__main__ import main
from training.demo.photo_model.results import read_results
from training.demo.photo_model.weights import cut_to
from training.eval import main as evaluate
from training.evaluation.embedding_cache import CachedEncoder, EmbeddingCache, find_processes
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.evaluation.options import EvalOptions
from training.evaluation.plan import EvalPlan
from training.hub.hub_model import HubModel
from training.prepare.vocabulary.cut import count_pieces, cut_vocabulary
from training.students import load_student, set_image_size
from training.text.tokenizers import load_tokenizer
from training.utils.results import Results, Row

pytest.importorskip("skimage", reason="the extra `photos` is not installed")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, processor):
    """Outputs of both stages; the weights are those of untrained models."""
    folder = tmp_path_factory.mktemp("photographs")
    stages = {"vision": {"tower": "vision"}, "distilled": {"tower": "text"}, "aligned": {}}
    for seed, (name, fields) in enumerate(stages.items()):
        fields = recipe_fields(folder / name, "captions.parquet", teacher="photo_teacher", **fields)
        recipe = AlignRecipe(**fields) if name == "aligned" else DistillRecipe(**fields, student=student_config())
        model = make_model(CUT_EFFICIENTNET, seed=seed, teacher="photo_teacher", teacher_license="cc-by-nc-4.0")
        HubModel(model.eval(), processor, recipe).save(folder / name)
        (folder / name / "log.jsonl").write_text(json.dumps({"step": seed}) + "\n")
    return folder


@pytest.fixture(scope="module")
def written(runs):
    """The folder of the finished model, written again with results."""
    meta = {"command": "eval", "commit": "0" * 40, "date": "2026-11-26", "seed": 0, "models": ["x"]}
    fields = {"set": "flickr8k_validation", "protocol": "p", "language": "zh", "metric": "text_to_image_R@5"}
    names = ("x/model", "x/model images, x/teacher texts", "x/teacher images, x/model texts")
    rows = [Row(model=name, value=0.4, **fields) for name in names]
    for role, count in (("teacher", 1), ("aligned", 3)):
        Results(meta, rows[:count]).write(runs / "measured" / role)
    folder = runs / "model"
    main(["--runs", str(runs), "--output_dir", str(folder)])
    results = [f"{role}={runs / 'measured' / role}" for role in ("teacher", "aligned")]
    report = ["--report_dir", str(runs / "report")]
    main(["--runs", str(runs), "--output_dir", str(folder), *report, "--results", *results])
    return folder


def test_weights_are_stored_in_half_precision_and_load_in_single(runs, written):
    stored = load_file(written / "model.safetensors")
    assert {value.dtype for value in stored.values() if value.is_floating_point()} == {torch.float16}
    for name, value in load_file(runs / "aligned" / "model.safetensors").items():
        if value.is_floating_point():
            assert torch.equal(stored[name], value.half())
    model = AutoModel.from_pretrained(written)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_embeddings_of_the_self_check_are_those_of_the_stored_weights(written, processor):
    content = json.loads((written / "self_check.json").read_text(encoding="utf-8"))
    texts = [text for each in content["texts"].values() for text in each]
    model = AutoModel.from_pretrained(written).eval()
    with torch.no_grad():
        embeds = model.get_text_features(**processor(text=texts, return_tensors="pt")).pooler_output
    expected = torch.tensor(content["text_embeds"])
    torch.testing.assert_close(torch.nn.functional.normalize(embeds), expected, atol=2e-6, rtol=0)


def test_recipes_and_logs_of_all_stages_are_kept(runs, written):
    for stage, folder in (("_distill_vision", "vision"), ("_distill_text", "distilled"), ("", "aligned")):
        assert (written / f"log{stage}.jsonl").read_text() == (runs / folder / "log.jsonl").read_text()
        assert (written / f"recipe{stage}.yaml").exists()
    card = (written / "README.md").read_text(encoding="utf-8")
    assert "`recipe_distill_vision.yaml`: feature-map distillation, image tower" in card
    assert "from the teacher `photo_teacher`: feature-map distillation, then contrastive alignment." in card
    assert "license: cc-by-nc-4.0" in card


def test_recipes_and_logs_of_earlier_rounds_are_kept(runs, tmp_path):
    earlier = [f"zero={runs}", f"first={runs}"]
    main(["--runs", str(runs), "--earlier", *earlier, "--output_dir", str(tmp_path / "model")])
    names = {path.name for path in (tmp_path / "model").iterdir()}
    for stage in ("distill_vision", "distill_text", "align"):
        for name in ("zero", "first"):
            assert {f"recipe_{name}_{stage}.yaml", f"log_{name}_{stage}.jsonl"} <= names
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "feature-map distillation, then contrastive alignment." in card


def test_texts_of_the_pieces_of_a_smaller_vocabulary_keep_their_embeddings():
    def embed():
        with torch.no_grad():
            return model.get_text_features(**processor(text=texts, return_tensors="pt")).pooler_output

    texts, tokenizer = ["a photo of a cat", "一只猫"], load_tokenizer(str(ROOT / "model_cards" / "dcclip-tiny-photo"))
    model = make_model(MOBILENET, NO_DROPOUT | {"vocab_size": len(tokenizer)}, seed=3).eval()
    processor = DCCLIPProcessor(make_image_processor(), tokenizer)
    vocabulary, before = cut_vocabulary(tokenizer, count_pieces(tokenizer, texts), 9000), embed()
    cut_to(model, processor, vocabulary)
    assert torch.equal(embed(), before)
    assert len(model.get_input_embeddings().weight) == model.config.text_config.vocab_size == 9000
    with pytest.raises(ValueError, match="is not the tokenizer"):  # the vocabulary is no cut of itself
        cut_to(model, processor, vocabulary)


def test_a_folder_without_a_vocabulary_is_named(runs, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--runs", str(runs), "--vocabulary", str(runs / "aligned"), "--output_dir", str(tmp_path / "model")])
    assert "has no vocabulary.json" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_the_folder_of_the_vocabulary_is_not_written_to(runs, tmp_path, capsys):
    folder = ["--vocabulary", str(tmp_path), "--output_dir", str(tmp_path), "--overwrite"]
    with pytest.raises(SystemExit):
        main(["--runs", str(runs), *folder])
    assert "would overwrite vocabulary" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_later_distillations_are_mixed_in_one_by_one(runs, tmp_path):
    folder = tmp_path / "model"
    later = ["--later", f"third={runs / 'distilled'}", f"fourth={runs / 'vision'}", "--later_weights", "0.25", "0.5"]
    main(["--runs", str(runs), *later, "--output_dir", str(folder)])
    stored, name = load_file(folder / "model.safetensors"), "text_projection.weight"
    aligned, third, fourth = (
        load_file(runs / each / "model.safetensors")[name] for each in ("aligned", "distilled", "vision")
    )
    expected = 0.5 * (0.75 * aligned + 0.25 * third) + 0.5 * fourth
    torch.testing.assert_close(stored[name].float(), expected, atol=1e-3, rtol=0)
    for name, run in (("third", "distilled"), ("fourth", "vision")):
        assert (folder / f"log_{name}_distill.jsonl").read_text() == (runs / run / "log.jsonl").read_text()


def test_rounds_of_either_stage_are_added_to_a_finished_model(runs, tmp_path, processor):
    start, wide, folder = tmp_path / "start", tmp_path / "wide", tmp_path / "model"
    main(["--runs", str(runs), "--earlier", f"first={runs}", "--output_dir", str(start)])
    model = make_model(CUT_EFFICIENTNET | {"architecture": "tf_efficientnet_lite2"}, seed=7, teacher="photo_teacher")
    recipe = AlignRecipe(**recipe_fields(wide, "captions.parquet", teacher="photo_teacher"), student=str(start))
    HubModel(model.eval(), processor, recipe).save(wide)
    (wide / "log.jsonl").write_text('{"step": 7}\n')
    later = ["--later", f"fourth={runs / 'vision'}", f"fifth={wide}", "--later_weights", "0.5"]
    with pytest.raises(SystemExit):
        main(["--start", str(start), *later, "0.5", "--output_dir", str(folder)])
    assert not folder.exists()
    main(["--start", str(start), *later, "1", "--output_dir", str(folder)])
    stored = load_file(folder / "model.safetensors")
    for name, value in load_file(wide / "model.safetensors").items():
        if value.is_floating_point():
            assert torch.equal(stored[name], value.half())
    kept = [*start.glob("recipe*.yaml"), *start.glob("log*.jsonl")]
    assert len(kept) == 12 and all((folder / path.name).read_text() == path.read_text() for path in kept)
    added = {
        "recipe_fourth_distill.yaml",
        "log_fourth_distill.jsonl",
        "recipe_fifth_align.yaml",
        "log_fifth_align.jsonl",
    }
    assert {path.name for path in folder.iterdir()} - {path.name for path in start.iterdir()} == added


def test_the_image_size_is_that_of_the_last_round(runs, tmp_path):
    student, processor = load_student(runs / "aligned")
    processor = set_image_size(student, processor, 96)
    recipe = AlignRecipe(**recipe_fields(tmp_path / "wide", "captions.parquet"), student=str(runs), image_size=96)
    HubModel(student.eval(), processor, recipe).save(tmp_path / "wide")
    (tmp_path / "wide" / "log.jsonl").write_text("{}\n")
    later = ["--later", f"wide={tmp_path / 'wide'}", "--later_weights", "0.5"]
    main(["--runs", str(runs), *later, "--output_dir", str(tmp_path / "model")])
    assert load_student(tmp_path / "model")[0].config.image_size == 96
    assert DCCLIPProcessor.from_pretrained(tmp_path / "model").image_processor.crop_size["height"] == 96


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--start", "x"], "runs: give either --runs, the outputs of both stages, or --start, a finished model"),
        (["--later", "third=x"], "later_weights: 0 are given for 1 rounds in later"),
        (["--later", "third=x", "--later_weights", "1.5"], "later_weights: must be 0 to 1, got 1.5"),
        (["--later", "x", "--later_weights", "0.5"], "later: 'x' is not NAME=FOLDER"),
        (["--later", "a=x", "a=y", "--later_weights", "0.5", "0.5"], "later: 'a' is given twice"),
        (["--earlier", "=x"], "earlier: '=x' is not NAME=FOLDER"),
    ],
)
def test_rounds_without_a_name_or_a_weight_are_refused(runs, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit):
        main(["--runs", str(runs), *options, "--output_dir", str(tmp_path / "model")])
    assert message in capsys.readouterr().err


def test_a_rotation_keeps_the_similarities_and_is_undone_for_the_teacher(runs, written, tmp_path):
    images = [Image.effect_noise((48, 48), 20 + 9 * number).convert("RGB") for number in range(6)]
    captions = {
        "en": [[f"a photo of {number} cats"] for number in range(6)],
        "zh": [[f"{number}只猫"] for number in range(6)],
    }
    Dataset.from_dict({"image": images, **captions}).to_parquet(tmp_path / "pairs.parquet")
    rotated = tmp_path / "model"
    main(["--runs", str(runs), "--rotate_by", str(tmp_path / "pairs.parquet"), "--output_dir", str(rotated)])
    assert AutoModel.from_pretrained(rotated).config.rotation is not None
    command = ["--model", str(rotated), "--text_model", str(written), "--retrieval", f"mine={tmp_path}/pairs.parquet"]
    evaluate([*command, "--output_dir", str(tmp_path / "eval")])
    plan = EvalPlan.open(EvalOptions(model=["x"], output_dir="x", retrieval=[f"mine={tmp_path}/pairs.parquet"]))
    cache = EmbeddingCache(tmp_path / "eval" / "cache", find_processes())
    one, other = (CachedEncoder(ZeroShotModel.from_pretrained(folder), cache) for folder in (rotated, written))
    texts, images = captions["en"][0] + captions["zh"][1], plan.retrieval_sets[0]
    rows = one.texts(texts), one.images(images), other.texts(texts), other.images(images)
    torch.testing.assert_close(rows[0] @ rows[1].T, rows[2] @ rows[3].T, atol=5e-3, rtol=0)
    assert (rows[0] - rows[2]).abs().max() > 0.05
    torch.testing.assert_close(one.comparable_with(other).texts(texts), rows[2], atol=5e-3, rtol=0)
    shares = rows[1].square().mean(0)
    assert shares[: len(shares) // 4].sum() > 0.9
    values = {
        row.model: row.value
        for row in Results.read(tmp_path / "eval" / "results.json").rows
        if row.metric == "text_to_image_R@1"
    }
    assert len(values) == 3


@pytest.mark.parametrize("entry", ["runs/first", "first=", "the first=runs/first"])
def test_an_earlier_round_without_name_or_folder_is_refused(runs, tmp_path, capsys, entry):
    with pytest.raises(SystemExit):
        main(["--runs", str(runs), "--earlier", entry, "--output_dir", str(tmp_path / "model")])
    assert f"earlier: {entry!r} is not NAME=FOLDER" in capsys.readouterr().err


def test_results_are_named_by_role(runs, written):
    results = Results.read(runs / "report" / "results.json")
    assert [(row.model, row.stage) for row in results.rows] == [
        ("teacher", None),
        ("student", "aligned"),
        ("student images, teacher texts", "aligned"),
        ("teacher images, student texts", "aligned"),
    ]
    assert {row.metric for row in results.rows} == {"t2i_recall@5"}
    assert set(results.meta["example"]["answers"]) == {"en", "zh"} and results.meta["evaluations"] == {
        "teacher": ["eval"],
        "aligned": ["eval"],
    }


def test_the_card_shows_single_models(written):
    results = Results.read(written / "results.json")
    assert [(row.model, row.stage) for row in results.rows] == [("teacher", None), ("student", "aligned")]


def test_pictures_are_written(written):
    assert (written / "example.jpg").stat().st_size < 60_000
    assert (written / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("photo", FREE_PHOTOS, ids=lambda photo: photo.file)
def test_free_photographs_open_and_have_a_query_in_both_languages(photo):
    assert photo.open().mode == "RGB" and set(photo.query) == {"en", "zh"} and photo.terms


def test_a_missing_package_or_photograph_is_named():
    with pytest.raises(ValueError, match=r"no-such: the package is not installed. Run `pip install no-such`"):
        FreePhoto("no-such", "no_such_module", "a.png", {}, "CC0").open()
    with pytest.raises(ValueError, match=r"scikit-image: the installed version has no data/a.png"):
        FreePhoto("scikit-image", "skimage", "data/a.png", {}, "CC0").open()


def test_roles_that_are_not_measured_again_keep_their_results(tmp_path):
    def write(name, model, value):
        meta = {"command": name, "commit": None, "date": "2026-11-26", "seed": None}
        rows = [Row(model=model, set="s", protocol="p", language="en", metric="top1", value=value)]
        Results(meta, rows).write(tmp_path / name)
        return f"{tmp_path / name}"

    first = [
        f"teacher={write('a', 'x', 0.5)}",
        f"aligned={write('b', 'y', 0.3)}",
        f"baselines={write('c', 'ConSE', 0.2)}",
    ]
    read_results(first, "first").write(tmp_path / "report")
    results = read_results([f"aligned={write('d', 'y', 0.4)}"], "second", tmp_path / "report")
    values = {(row.model, row.stage): row.value for row in results.rows}
    assert values == {("student", "aligned"): 0.4, ("teacher", None): 0.5, ("ConSE", None): 0.2}
    assert results.meta["evaluations"] == {"aligned": ["d"], "teacher": ["a"], "baselines": ["c"]}


@pytest.mark.parametrize("entry", ["student=out", "aligned", "aligned=nowhere"])
def test_a_wrong_role_or_folder_is_named(entry):
    with pytest.raises(ValueError, match=f"results: '{entry}' is not ROLE=FOLDER with one of teacher, distilled"):
        read_results([entry], "command")


def test_results_of_the_teacher_alone_are_refused(runs, written):
    with pytest.raises(ValueError, match="none of the finished student"):
        read_results([f"teacher={runs / 'measured' / 'teacher'}"], "command")


def test_a_weight_outside_its_range_is_refused(runs, capsys):
    with pytest.raises(SystemExit):
        main(["--runs", str(runs), "--output_dir", str(runs / "other"), "--stage_2_weight", "1.5"])
    assert "stage_2_weight: must be 0 to 1, got 1.5" in capsys.readouterr().err


def test_a_missing_run_is_named(runs, tmp_path, capsys):
    shutil.copytree(runs / "aligned", tmp_path / "aligned")
    with pytest.raises(SystemExit):
        main(["--runs", str(tmp_path), "--output_dir", str(tmp_path / "model")])
    assert "Run the recipes of training/configs/photographs first" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_stage_1_is_mixed_into_stage_2(runs, tmp_path):
    main(["--runs", str(runs), "--output_dir", str(tmp_path / "mean"), "--stage_2_weight", "0.5"])
    stored = load_file(tmp_path / "mean" / "model.safetensors")
    first, second = (load_file(runs / stage / "model.safetensors") for stage in ("distilled", "aligned"))
    for name, value in second.items():
        if value.is_floating_point():
            assert torch.equal(stored[name], first[name].lerp(value, 0.5).half())
