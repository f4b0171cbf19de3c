"""Publish a finished folder on a local Hub, and load it again in separate processes."""

import base64
import io
import json
import os
import pickletools
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from PIL import Image

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from tests.hub.conftest import TOKEN
from tests.hub.local_hub import Fault
from tests.tiny import MOBILENET, ROOT, make_model
from training import publish
from training.hub import (
    FolderError,
    PublishError,
    Target,
    check_folder,
    list_contents,
    upload,
    write_self_check,
)
from training.hub.cards.notice import weights_terms
from training.hub.commit import ATTEMPTS
from training.hub.contents import changed_code, without_local_paths
from training.hub.push import Push, _link
from training.utils.files import SCRATCH_SUFFIX

pytestmark = pytest.mark.slow

REPO = "me/dcclip-tiny"
WEIGHTS = r"^/lfs/"
PULL = """
import json, sys
sys.meta_path.insert(0, type("HidePackages", (), {"find_spec": lambda self, name, path=None, target=None: exec(
    "raise ModuleNotFoundError(name)") if name.partition(".")[0] in ("modeling_dcclip", "training") else None})())
import importlib.util
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from PIL import Image
from transformers import AutoModel, AutoProcessor, pipeline

repo, revision, image, labels = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
torch.set_num_threads(1)
model = AutoModel.from_pretrained(repo, revision=revision, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(repo, revision=revision, trust_remote_code=True)
texts = labels["en"] + labels["zh"]
with torch.no_grad():
    inputs = processor(images=Image.open(image).convert("RGB"), text=texts, return_tensors="pt")
    logits = model(**inputs).logits_per_image[0].tolist()
classify = pipeline("zero-shot-image-classification", model=repo, revision=revision, trust_remote_code=True)
answers = classify(image, candidate_labels=labels["zh"], hypothesis_template="{}")
folder = snapshot_download(repo, revision=revision)
spec = importlib.util.spec_from_file_location("handler", f"{folder}/handler.py")
handler = importlib.util.module_from_spec(spec)
spec.loader.exec_module(handler)
request = {"inputs": Path(image).read_bytes(), "parameters": {"candidate_labels": "，".join(labels["zh"])}}
served = handler.EndpointHandler(folder)(request)
assert [(a["label"], round(a["score"], 4)) for a in answers] == [(a["label"], round(a["score"], 4)) for a in served]
print("RESULT " + json.dumps({"logits": logits, "answers": answers, "module": type(model).__module__}))
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
    monkeypatch.setattr("training.hub.commit.HfApi", with_endpoint)
    return with_endpoint()


def target(**fields) -> Target:
    return Target(**({"repo_id": REPO} | fields))


# the published files


def test_only_listed_files_are_published(folder):
    names = {content.path for content in list_contents(folder)}
    assert {"model.safetensors", "config.json", "handler.py", "preprocessor_config.json", "README.md"} <= names
    assert {"LICENSE", "NOTICE.md", "requirements.txt", "self_check.json", "modules.json", "onnx/model.onnx"} <= names
    assert "executorch/text_model.pte" in names
    refused = ("log.", "checkpoint", "training_state", "cache", "pyc", "optimizer", "private", "notes")
    assert not [name for name in names if any(part in name for part in refused)]


def test_image_is_published_if_the_card_shows_it(folder):
    (folder / "README.md").write_text("![x](private.png)", encoding="utf-8")
    assert "private.png" in {content.path for content in list_contents(folder)}
    (folder / "README.md").write_text("![x](not_private.png) and private.png.bak", encoding="utf-8")
    assert "private.png" not in {content.path for content in list_contents(folder)}


def test_a_checkpoint_is_uploaded_without_hard_links(folder, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    shutil.copytree(folder, tmp_path / "copy", copy_function=_link)
    assert (tmp_path / "copy" / "config.json").read_bytes() == (folder / "config.json").read_bytes()


def test_local_paths_are_removed(folder):
    recipe = next(content for content in list_contents(folder) if content.path == "recipe.yaml")
    assert "/data/some" in recipe.file.read_text(encoding="utf-8")
    assert "/data/some" not in recipe.text and "train: images" in recipe.text and "some/teacher" in recipe.text
    assert recipe.size == len(recipe.text.encode())


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("--data /home/me/flickr.parquet x", "--data flickr.parquet x"),
        ("SET=/home/me/a.parquet", "SET=a.parquet"),
        ("'/home/me/my images/a b.parquet'", "'a b.parquet'"),
        ("file:///home/me/a.parquet", "a.parquet"),
        ("/data/{0000..0042}.tar and /data/shards/*.tar", "{0000..0042}.tar and *.tar"),
        (r"C:\\Users\\me\\a.parquet", "a.parquet"),
        ("~/data/a.parquet", "a.parquet"),
        ("https://host/a/b/c and some/teacher and 1/2", "https://host/a/b/c and some/teacher and 1/2"),
        ("hf://datasets/me/set/a.parquet", "hf://datasets/me/set/a.parquet"),
    ],
)
def test_every_form_of_a_local_path_is_cut_to_its_name(text, cleaned):
    assert without_local_paths(text) == cleaned


def test_a_path_of_this_machine_that_is_left_is_refused(folder, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    (folder / "README.md").write_text("stored in x:/home/me/", encoding="utf-8")
    with pytest.raises(ValueError, match=r"README\.md names the folder '/home/me/' of this machine"):
        list_contents(folder)


def test_links_that_leave_the_folder_are_refused_and_hidden_files_are_not_published(folder, tmp_path):
    (folder / "onnx/.hidden.onnx").touch()
    assert "onnx/.hidden.onnx" not in {content.path for content in list_contents(folder)}
    (tmp_path / "secret").write_text("secret")
    (folder / "onnx/zz.onnx").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"onnx/zz\.onnx is a link to .*secret, outside the folder"):
        list_contents(folder)


@pytest.mark.parametrize("secret", ["ghp_" + "a" * 36, "AKIA" + "A" * 16, "-----BEGIN RSA PRIVATE KEY-----", TOKEN])
def test_a_secret_in_any_file_is_refused(folder, secret):
    with (folder / "onnx/model.onnx").open("ab") as file:  # as in the metadata of a graph
        file.write(secret.encode())
    with pytest.raises(ValueError, match=r"onnx/model\.onnx seems to have a secret in it"):
        list_contents(folder)


def test_code_that_differs_from_the_package_is_named_and_needs_a_flag(folder):
    assert changed_code(folder) == []
    (folder / "handler.py").write_text("import os\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"folder: handler\.py in .* differ from this package's code"):
        publish.run(publish.PublishOptions(folder=str(folder), repo_id=REPO, dry_run=True))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"repo_id": "me/a b"}, "repo_id: 'me/a b' is no id of a repo"),
        ({"tag": "v 1"}, "tag: 'v 1' is no name that Git accepts"),
        ({"revision": "a..b"}, "revision: 'a..b' is no name that Git accepts"),
    ],
)
def test_names_that_the_hub_refuses_are_refused_in_a_dry_run(folder, fields, message):
    with pytest.raises(ValueError, match=message):
        publish.run(publish.PublishOptions(**({"folder": str(folder), "repo_id": REPO, "dry_run": True} | fields)))


@pytest.mark.parametrize("name", ["config.json", "self_check.json", "results.json"])
def test_a_damaged_file_is_refused_by_name(folder, name):
    (folder / name).write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        list_contents(folder)


def test_incomplete_folder_is_refused_with_the_missing_file(folder):
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"preprocessor_config\.json"):
        list_contents(folder)


def test_file_with_a_token_is_refused(folder):
    (folder / "README.md").write_text(f"my token is {TOKEN}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"README\.md seems to have a secret in it \(Hugging Face token, line 1\)"):
        list_contents(folder)


def test_licence_note_names_the_terms_of_the_teacher(folder):
    note = (folder / "NOTICE.md").read_text(encoding="utf-8")
    assert "BAAI/AltCLIP" in note and "creativeml-openrail-m" in note and "also apply" in note
    assert "Apache License" in (folder / "LICENSE").read_text(encoding="utf-8")


def test_licence_note_of_weights_without_a_teacher():
    assert "under `cc-by-nc-4.0`" in weights_terms(None, "cc-by-nc-4.0")
    for license in (None, "apache-2.0"):
        assert "Apache License 2.0" in weights_terms(None, license)


# the check before publishing


def outputs_of(folder: Path, python: str) -> dict:
    """The output of isolated_load.py, computed by the package in this process."""
    stored = json.loads((folder / "self_check.json").read_text(encoding="utf-8"))
    image = Image.open(io.BytesIO(base64.b64decode(stored["image"])))
    model, processor = DCCLIPModel.from_pretrained(folder).eval(), DCCLIPProcessor.from_pretrained(folder)
    texts = [text for language in stored["texts"].values() for text in language]
    with torch.no_grad():
        outputs = model(**processor(images=image, text=texts, truncation=True, max_length=32, return_tensors="pt"))
    logits = dict(zip(texts, outputs.logits_per_image[0].tolist(), strict=True))
    predictions = {}
    for language, labels in stored["texts"].items():
        shares = torch.tensor([logits[label] for label in labels]).softmax(0).tolist()
        predictions[language] = [{"label": label, "score": share} for label, share in zip(labels, shares, strict=True)]
    return {
        "text_embeds": outputs.text_embeds.tolist(),
        "image_embeds": outputs.image_embeds.tolist(),
        "logits": list(logits.values()),
        "predictions": predictions,
    }


def test_changed_weights_are_found(folder, monkeypatch):
    monkeypatch.setattr("training.hub.check._load_isolated", outputs_of)
    assert check_folder(folder) < 1e-5
    model = DCCLIPModel.from_pretrained(folder)
    with torch.no_grad():
        model.visual_projection.weight[:4] *= -1
    model.save_pretrained(folder)
    with pytest.raises(FolderError, match="gives other embeddings than at training"):
        check_folder(folder)


def test_pipeline_with_another_tokenizer_is_found(folder, monkeypatch):
    def other_tokenizer(folder: Path, python: str) -> dict:
        outputs = outputs_of(folder, python)
        zh = outputs["predictions"]["zh"]
        zh[0]["label"], zh[1]["label"] = zh[1]["label"], zh[0]["label"]
        return outputs

    monkeypatch.setattr("training.hub.check._load_isolated", other_tokenizer)
    with pytest.raises(FolderError, match="another tokenizer or image processor"):
        check_folder(folder)


def test_self_check_restores_train_and_eval_modes(processor, tmp_path):
    model = make_model(MOBILENET).train()
    frozen = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    frozen.eval()
    write_self_check(model, processor, tmp_path)
    assert model.training and not frozen.training
    content = json.loads((tmp_path / "self_check.json").read_text(encoding="utf-8"))
    assert len(content["text_embeds"]) == 6 and len(content["image_embeds"]) == 1


# the upload in this process


def test_repeated_upload_sends_no_weights_and_makes_no_commit(api, hub, folder):
    first = upload(folder, target())
    sent = hub.sent("PUT", WEIGHTS)
    assert sent > (folder / "model.safetensors").stat().st_size
    again = upload(folder, target())
    assert hub.sent("PUT", WEIGHTS) == sent
    assert first.changed and not again.changed and again.commit == first.commit
    assert len(hub.repos[REPO].commits) == 2  # the initial commit, and one with all files


def test_each_file_is_sent_once(api, hub, folder):
    upload(folder, target())
    puts = [path for method, path, _ in hub.requests if method == "PUT"]
    assert len(puts) == len(set(puts)) == 2  # weights and onnx


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


def test_failed_upload_of_a_checkpoint_does_not_stop_the_run(api, hub, folder, caplog):
    push = Push(target(), folder, every_save=True)
    hub.faults.append(Fault("POST", "/commit/", status=400))
    checkpoint = shutil.copytree(folder, folder / "checkpoint-000001")
    push.on_save(checkpoint)
    push.wait()
    assert "Training continues" in caplog.text
    push.on_save(checkpoint)
    push.wait()
    assert "model.safetensors" in hub.repos[REPO].head().files
    push.on_save(folder)  # the finished folder is published by `finish`
    assert len(hub.repos[REPO].commits) == 2


def test_a_hub_that_hangs_does_not_stop_the_run(api, folder, monkeypatch, caplog):
    answered = threading.Event()
    monkeypatch.setattr("training.hub.push.upload", lambda *arguments: answered.wait(20))
    push = Push(target(), folder, every_save=True)
    checkpoint = shutil.copytree(folder, folder / "checkpoint-000001")
    for _ in range(3):
        push.on_save(checkpoint)  # returns at once
    shutil.rmtree(checkpoint)  # as the run does with old checkpoints
    answered.set()
    push.wait()
    assert push._num_left_out == 2 and not list(folder.glob(f".*{SCRATCH_SUFFIX}"))


# end to end


def test_training_publishes_a_model_that_gives_the_same_logits_elsewhere(
    hub, corpus, teacher_folder, images, tmp_path, run_python
):
    """Train, publish to a private repo, load in a fresh process with empty caches and a token: equal to 1e-6."""
    output_dir, image = tmp_path / "run", tmp_path / "image.png"
    images[0].save(image)
    recipe = tmp_path / "recipe.yaml"
    content = {
        "teacher": str(teacher_folder),
        "output_dir": str(output_dir),
        "data": {"train": str(corpus / "train.parquet")},
        "student": {
            "vision_config": {"model_type": "timm_wrapper", "architecture": "mobilenetv4_conv_small_050",
                              "model_args": {"features_only": True, "out_indices": [4]}},
            "text_config": {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                            "intermediate_size": 64},
            "max_text_length": 32,
        },
        "batch_size": 8, "max_steps": 2, "save_every": 1,
        "push_to_hub": True, "hub_model_id": REPO, "hub_private_repo": True, "hub_strategy": "every_save",
    }  # fmt: skip
    recipe.write_text(json.dumps(content), encoding="utf-8")
    trainer = run_python("training/distill.py", "--config", str(recipe), **hub.environment(tmp_path / "push", TOKEN))
    repo = hub.repos[REPO]
    assert repo.private and len(repo.commits) >= 3  # a checkpoint, and the finished model
    assert {commit.title for commit in repo.commits} >= {
        "Training in progress, checkpoint-000001",
        "Publish the model",
    }
    files = repo.head().files
    assert files["model.safetensors"] == (output_dir / "model.safetensors").read_bytes()
    assert not [path for path in files if "training_state" in path or path.endswith((".pt", ".bin", ".pkl"))]
    assert not [path for path, data in files.items() if TOKEN.encode() in data]
    assert TOKEN not in trainer.stdout + trainer.stderr
    assert TOKEN not in "".join(p.read_text(errors="ignore") for p in output_dir.rglob("*") if p.is_file())

    script = tmp_path / "pull.py"
    script.write_text(PULL, encoding="utf-8")
    commit = repo.branches["main"]
    arguments = [str(script), REPO, commit, str(image), json.dumps(LABELS)]
    hub.faults.append(Fault("GET", r"resolve/.*/model\.safetensors$", cut_after=1000))
    pulled = run_python("-I", *arguments, **hub.environment(tmp_path / "pull", TOKEN))
    loaded = json.loads(pulled.stdout.partition("RESULT ")[2])
    assert hub.faults[0].times == 0 and loaded["module"].startswith("transformers_modules.")
    processor = DCCLIPProcessor.from_pretrained(output_dir)
    inputs = processor(images=images[0], text=LABELS["en"] + LABELS["zh"], return_tensors="pt")
    with torch.no_grad():
        expected = DCCLIPModel.from_pretrained(output_dir).eval()(**inputs).logits_per_image[0]
    torch.testing.assert_close(torch.tensor(loaded["logits"]), expected, rtol=0, atol=1e-6)
    shares = dict(zip(LABELS["zh"], expected[2:].softmax(0).tolist(), strict=True))
    assert {answer["label"]: answer["score"] for answer in loaded["answers"]} == pytest.approx(shares, abs=1e-5)


def hf(hub, home: Path, token: str | None, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "huggingface_hub.cli.hf", *arguments]
    environment = os.environ | hub.environment(home, token)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_command_line_publishes_and_hf_downloads_a_private_repo_with_its_token_only(
    api, hub, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("training.hub.push.check_folder", lambda folder: 0.0)  # tested above
    results = {"meta": {"command": "python /home/somebody/eval.py", "seed": 0, "date": "2026-01-01"}, "rows": []}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    hub.faults.append(Fault("POST", "/commit/", status=503))
    publish.main([str(folder), "--repo_id", REPO, "--private", "--tag", "v1"])
    printed = capsys.readouterr()
    assert "model.safetensors" in printed.out and 'revision="v1"' in printed.out
    assert TOKEN not in printed.out + printed.err
    files = hub.repos[REPO].head().files
    assert b"/home/somebody" not in b"".join(files.values())
    assert f'model="{REPO}", revision="v1"' in ModelCard(files["README.md"].decode()).text

    down = tmp_path / "down"
    refused = hf(hub, tmp_path / "without-token", None, "download", REPO, "--local-dir", str(down))
    assert refused.returncode and not (down / "model.safetensors").exists()
    hub.faults.append(Fault("GET", r"resolve/.*/model\.safetensors$", cut_after=1000))
    pulled = hf(hub, tmp_path / "with-token", TOKEN, "download", REPO, "--revision", "v1", "--local-dir", str(down))
    assert pulled.returncode == 0, pulled.stderr
    for path, data in files.items():
        assert (down / path).read_bytes() == data


def test_no_file_is_a_pickle(folder):
    for content in list_contents(folder):
        data = content.file.read_bytes()
        with pytest.raises(Exception):  # noqa: B017 (pickletools raises many kinds of errors)
            list(pickletools.genops(data))
        assert not data.startswith(b"PK"), content.path  # torch.save writes zip files


def test_dry_run_lists_files_and_sends_nothing(folder, capsys, monkeypatch):
    monkeypatch.setattr("training.hub.check_folder", lambda folder: 0.0)
    monkeypatch.setattr("training.hub.upload", lambda *arguments: pytest.fail("a dry run must send nothing"))
    before = (folder / "README.md").read_bytes()
    publish.main([str(folder), "--repo_id", REPO, "--dry_run"])
    lines = capsys.readouterr().out
    size = (folder / "model.safetensors").stat().st_size
    assert f"{size:,}  model.safetensors" in lines and "would go to me/dcclip-tiny" in lines
    assert (folder / "README.md").read_bytes() == before


def test_card_can_be_uploaded_alone(api, hub, folder, monkeypatch):
    """Upload a card that was edited by hand."""
    upload(folder, target())
    card = ModelCard.load(folder / "README.md")
    api.upload_file(path_or_fileobj=card.content.encode() + b"\nmore\n", path_in_repo="README.md", repo_id=REPO)
    assert hub.repos[REPO].head().files["README.md"].endswith(b"more\n")
    assert str(ROOT) not in card.content
