"""Publish a finished folder on a local Hub, and load it again in separate processes."""

import json
import shutil
from functools import partial
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi, ModelCard

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from tests.hub.conftest import TOKEN
from tests.hub.local_hub import Fault
from tests.tiny import CUT_EFFICIENTNET, recipe_fields, student_config
from training import distill, publish
from training.config import DistillRecipe
from training.hub import FolderError, PublishError, Target, changed_code, check, check_folder, list_files, upload
from training.hub.publish import ATTEMPTS
from training.utils.results import Results

pytestmark = pytest.mark.slow

REPO = "me/dcclip-tiny"
WEIGHTS = r"^/lfs/"
PULL = """
import json, os, sys
sys.meta_path.insert(0, type("HidePackages", (), {"find_spec": lambda self, name, path=None, target=None: exec(
    "raise ModuleNotFoundError(name)") if name.partition(".")[0] in ("modeling_dcclip", "training") else None})())
import importlib.util
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from PIL import Image
from transformers import AutoModel, AutoProcessor, pipeline

repo, revision, image, labels = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
os.chdir(Path(image).parent)
torch.set_num_threads(1)
model = AutoModel.from_pretrained(repo, revision=revision, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(repo, revision=revision, trust_remote_code=True)
texts = labels["en"] + labels["zh"]
inputs = processor(images=Image.open(image).convert("RGB"), text=texts, return_tensors="pt")
model.save_pretrained("again")
processor.save_pretrained("again")
again = AutoModel.from_pretrained("again", trust_remote_code=True).eval()
with torch.no_grad():
    logits, logits_again = (each(**inputs).logits_per_image[0].tolist() for each in (model, again))
classify = pipeline("zero-shot-image-classification", model=repo, revision=revision, trust_remote_code=True)
answers = classify(image, candidate_labels=labels["zh"], hypothesis_template="{}")
folder = snapshot_download(repo, revision=revision)
spec = importlib.util.spec_from_file_location("handler", f"{folder}/handler.py")
handler = importlib.util.module_from_spec(spec)
spec.loader.exec_module(handler)
request = {"inputs": Path(image).read_bytes(), "parameters": {"candidate_labels": "，".join(labels["zh"])}}
served = handler.EndpointHandler(folder)(request)
assert [(a["label"], round(a["score"], 4)) for a in answers] == [(a["label"], round(a["score"], 4)) for a in served]
result = {"logits": logits, "logits_again": logits_again, "answers": answers}
result["modules"] = [type(each).__module__ for each in (model, processor, again)]
print("RESULT " + json.dumps(result))
"""
LABELS = {"en": ["red apple", "green frog"], "zh": ["红苹果", "青蛙", "按键"]}


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    """A copy to write to."""
    return Path(shutil.copytree(finished, tmp_path / "dcclip-tiny"))


@pytest.fixture
def api(hub, monkeypatch):
    """Connect this process to the local Hub with its token, without pauses between attempts."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with_endpoint = partial(HfApi, endpoint=hub.url, token=TOKEN)
    monkeypatch.setattr("training.hub.publish.HfApi", with_endpoint)
    return with_endpoint()


def target(**fields) -> Target:
    return Target(**({"repo_id": REPO} | fields))


def dry_run(folder: Path, **fields):
    publish.run(publish.PublishOptions(**({"folder": str(folder), "repo_id": REPO, "dry_run": True} | fields)))


# the published files


def test_only_listed_files_are_published(folder):
    (folder / "onnx/.hidden.onnx").touch()
    names = {*list_files(folder)}
    assert {"model.safetensors", "config.json", "handler.py", "preprocessor_config.json", "README.md"} <= names
    assert {"LICENSE", "requirements.txt", "modules.json", "onnx/model.onnx", "executorch/text_model.pte"} <= names
    refused = ("log.", "checkpoint", "training_state", "cache", "pyc", "optimizer", "private", "notes", "hidden")
    assert not [name for name in names if any(part in name for part in refused)]


def test_image_is_published_if_the_card_shows_it(folder):
    (folder / "README.md").write_text("![x](private.png)", encoding="utf-8")
    assert "private.png" in list_files(folder)
    (folder / "README.md").write_text("![x](not_private.png) and private.png.bak", encoding="utf-8")
    assert "private.png" not in list_files(folder)


def test_no_file_of_a_run_has_an_absolute_path(folder):
    recipe = (folder / "recipe.yaml").read_text(encoding="utf-8")
    assert "/data/some" not in recipe and "train: images" in recipe and "teacher: some/teacher" in recipe
    results = Results({"command": f"eval.py --data {folder}/a.parquet", "models": [{"name": str(folder)}]})
    text = results.write(folder).read_text(encoding="utf-8")
    assert str(folder) not in text and "--data a.parquet" in text and '"dcclip-tiny"' in text
    list_files(folder)


@pytest.mark.parametrize("name", ["README.md", "config.json", "results.json"])
def test_a_text_with_a_folder_of_this_machine_is_refused(folder, name, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    (folder / name).write_text(json.dumps({"note": "stored in x:/home/me/"}), encoding="utf-8")
    with pytest.raises(ValueError, match=name):
        list_files(folder)


def test_a_link_that_leaves_the_folder_is_refused(folder, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (folder / "onnx/zz.onnx").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"onnx/zz\.onnx"):
        list_files(folder)


def test_code_that_differs_from_the_package_is_named_and_needs_a_flag(folder):
    assert changed_code(folder) == []
    (folder / "handler.py").write_text("import os\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"folder: handler\.py in"):
        dry_run(folder)


@pytest.mark.parametrize("fields", [{"repo_id": "me/a b"}, {"tag": "v 1"}, {"revision": "a..b c"}])
def test_names_that_the_hub_refuses_are_refused_in_a_dry_run(folder, fields):
    with pytest.raises(ValueError, match=f"^{next(iter(fields))}: "):
        dry_run(folder, **fields)


def test_damaged_and_missing_files_are_refused_by_name(folder):
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"^folder: .*config\.json"):
        list_files(folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"preprocessor_config\.json"):
        list_files(folder)


# the check before publishing


@pytest.fixture(scope="module")
def isolated(finished) -> tuple[float, dict]:
    """The largest difference of a sound folder, and the outputs of its model in a process of its own."""
    found, original = [], check._load_isolated
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "_load_isolated", lambda *arguments: found.append(original(*arguments)) or found[0])
        return check_folder(finished), found[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda outputs: outputs, None),
        (lambda outputs: outputs["text_embeds"][0].__setitem__(0, outputs["text_embeds"][0][0] + 0.01), "embeddings"),
        (lambda outputs: outputs["image_embeds"][0].__setitem__(3, float("nan")), "embeddings"),
        (lambda outputs: outputs["predictions"]["zh"][0].update(score=2.0), "pipeline"),
    ],
)
def test_embeddings_and_scores_without_this_package_are_compared(finished, isolated, monkeypatch, change, message):
    difference, outputs = isolated[0], json.loads(json.dumps(isolated[1]))
    change(outputs)
    monkeypatch.setattr(check, "_load_isolated", lambda *arguments: outputs)
    if message is None:
        assert check_folder(finished) == difference < 1e-5
        return
    with pytest.raises(FolderError, match=message):
        check_folder(finished)


def test_a_folder_that_does_not_load_alone_is_refused_with_the_cause(finished, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ImportError: no such package' >&2\nexit 1\n", encoding="utf-8")
    python.chmod(0o755)
    with pytest.raises(FolderError, match="no such package"):
        check_folder(finished, str(python))


# the upload in this process


def test_repeated_upload_sends_no_weights_and_makes_no_commit(api, hub, folder):
    first = upload(folder, target())
    sent = hub.sent("PUT", WEIGHTS)
    assert sent > (folder / "model.safetensors").stat().st_size
    again = upload(folder, target())
    assert hub.sent("PUT", WEIGHTS) == sent
    assert first.changed and not again.changed and again.commit == first.commit
    assert len(hub.repos[REPO].commits) == 2  # the initial commit, and one with all files


def test_deleted_files_are_removed_and_other_files_of_the_repo_kept(api, hub, folder):
    upload(folder, target())
    repo = hub.repos[REPO]
    repo.commit("main", "by hand", repo.head().files | {"paper.pdf": b"%PDF"})
    (folder / "onnx/model.onnx").unlink()
    upload(folder, target())
    files = repo.head().files
    assert "onnx/model.onnx" not in files and "paper.pdf" in files and ".gitattributes" in files


def test_branch_and_tag(api, hub, folder):
    done = upload(folder, target(revision="next", tag="v1"))
    repo = hub.repos[REPO]
    assert repo.branches["next"] == repo.tags["v1"] == done.commit != repo.branches["main"]
    assert (
        upload(folder, target(revision="next", tag="v1")).commit == done.commit
    )  # repeating the upload is no conflict
    (folder / "requirements.txt").write_text("torch\n", encoding="utf-8")
    with pytest.raises(PublishError, match="tag v1 is already on commit"):
        upload(folder, target(revision="next", tag="v1"))
    assert repo.tags["v1"] == done.commit


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST", "repos/create", status=503, times=2),
        Fault("POST", "/commit/", status=502),
        Fault("POST", "/commit/"),
        Fault("POST", "/commit/", late=True),
        Fault("PUT", "/lfs/", status=500),
        Fault("PUT", "/lfs/"),
        Fault("POST", "objects/batch", status=504),
        Fault("GET", "/tree/"),
    ],
    ids=lambda fault: (
        f"{fault.method}{fault.path.replace('/', '-')}-{fault.status or ('late' if fault.late else 'cut')}"
    ),
)
def test_temporary_fault_is_retried(api, hub, folder, fault):
    hub.faults.append(fault)
    upload(folder, target())
    assert fault.times == 0, "the fault was never triggered"
    assert hub.repos[REPO].head().files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert len(hub.repos[REPO].commits) == 2  # one commit, even if only the response was lost


def test_lasting_fault_names_the_command_and_the_next_upload_resumes(api, hub, folder, caplog):
    fault = Fault("POST", "/commit/", status=503, times=ATTEMPTS)
    hub.faults.append(fault)
    with pytest.raises(PublishError) as caught:
        upload(folder, target(private=True, tag="v1"))
    assert f"training/publish.py {folder} --repo_id {REPO} --private --tag v1" in str(caught.value)
    assert TOKEN not in str(caught.value) + caplog.text
    sent = hub.sent("PUT", WEIGHTS)
    upload(folder, target(private=True, tag="v1"))
    assert hub.sent("PUT", WEIGHTS) == sent > 0


def test_permanent_fault_is_not_retried(api, hub, folder):
    hub.faults.append(Fault("POST", "repos/create", status=403, times=9))
    with pytest.raises(PublishError, match="403"):
        upload(folder, target())
    assert hub.faults[0].times == 8


def test_public_repo_is_refused_if_private_is_set(api, hub, folder):
    upload(folder, target())
    with pytest.raises(PublishError, match="is public"):
        upload(folder, target(private=True))


# end to end


def test_training_publishes_a_model_that_gives_the_same_logits_elsewhere(
    api, hub, corpus, teacher_folder, images, tmp_path, run_python, monkeypatch, capfd
):
    """Train, publish to a private repo, load in a fresh process with empty caches and a token: equal to 1e-6."""
    monkeypatch.setattr("training.hub.publish.check_folder", lambda folder: 0.0)  # tested above
    output_dir, image = tmp_path / "run", tmp_path / "image.png"
    images[0].save(image)
    student = student_config(vision_config=CUT_EFFICIENTNET)
    fields = recipe_fields(output_dir, corpus / "train.parquet", teacher=str(teacher_folder), student=student)
    fields |= {"push_to_hub": True, "hub_model_id": REPO, "hub_private_repo": True, "max_steps": 1}
    distill.run(DistillRecipe(**fields))
    repo = hub.repos[REPO]
    assert repo.private and [commit.title for commit in repo.commits[1:]] == ["Publish the model"]
    files = repo.head().files
    assert files["model.safetensors"] == (output_dir / "model.safetensors").read_bytes()
    assert not [path for path in files if "training_state" in path or path.endswith((".pt", ".bin", ".pkl"))]
    printed, written = capfd.readouterr(), [path for path in output_dir.rglob("*") if path.is_file()]
    texts = [printed.out, printed.err, *(path.read_text(errors="ignore") for path in written)]
    assert not [text for text in texts if TOKEN in text] and not [d for d in files.values() if TOKEN.encode() in d]

    script = tmp_path / "pull.py"
    script.write_text(PULL, encoding="utf-8")
    commit = repo.branches["main"]
    arguments = [str(script), REPO, commit, str(image), json.dumps(LABELS)]
    hub.faults.append(Fault("GET", r"resolve/.*/model\.safetensors$", cut_after=1000))
    pulled = run_python("-I", *arguments, **hub.environment(tmp_path / "pull", TOKEN))
    loaded = json.loads(pulled.stdout.partition("RESULT ")[2])
    assert hub.faults[0].times == 0 and loaded["logits_again"] == loaded["logits"]
    assert all(module.startswith("transformers_modules.") for module in loaded["modules"])
    processor = DCCLIPProcessor.from_pretrained(output_dir)
    inputs = processor(images=images[0], text=LABELS["en"] + LABELS["zh"], return_tensors="pt")
    with torch.no_grad():
        expected = DCCLIPModel.from_pretrained(output_dir).eval()(**inputs).logits_per_image[0]
    torch.testing.assert_close(torch.tensor(loaded["logits"]), expected, rtol=0, atol=1e-6)
    shares = dict(zip(LABELS["zh"], expected[2:].softmax(0).tolist(), strict=True))
    assert {answer["label"]: answer["score"] for answer in loaded["answers"]} == pytest.approx(shares, abs=1e-5)


def test_command_line_checks_writes_the_card_and_publishes(api, hub, folder, monkeypatch, capsys):
    monkeypatch.setattr("training.hub.check_folder", lambda folder: 0.0)  # tested above
    hub.faults.append(Fault("POST", "/commit/", status=503))
    publish.main([str(folder), "--repo_id", REPO, "--private", "--tag", "v1"])
    printed = capsys.readouterr()
    assert "model.safetensors" in printed.out and 'revision="v1"' in printed.out
    assert TOKEN not in printed.out + printed.err
    files = hub.repos[REPO].head().files
    assert f'model="{REPO}", revision="v1"' in ModelCard(files["README.md"].decode()).text


def test_dry_run_lists_files_and_sends_nothing(folder, capsys, monkeypatch):
    monkeypatch.setattr("training.hub.check_folder", lambda folder: 0.0)
    monkeypatch.setattr("training.hub.upload", lambda *arguments: pytest.fail("a dry run must send nothing"))
    before = (folder / "README.md").read_bytes()
    publish.main([str(folder), "--repo_id", REPO, "--dry_run"])
    lines = capsys.readouterr().out
    size = (folder / "model.safetensors").stat().st_size
    assert f"{size:,}  model.safetensors" in lines and "would go to me/dcclip-tiny" in lines
    assert (folder / "README.md").read_bytes() == before
