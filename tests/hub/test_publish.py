"""Publish a finished folder."""

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from huggingface_hub import ModelCard, errors
from PIL import ExifTags, Image, PngImagePlugin
from safetensors.numpy import save_file

from tests.hub.fake_hub import FakeHub, http_error
from tests.tiny import CUT_EFFICIENTNET, recipe_fields, student_config
from training import distill, publish
from training.config import DistillRecipe
from training.hub import (
    FolderError,
    PublishError,
    Target,
    changed_code,
    check,
    check_folder,
    list_files,
    upload,
)

pytestmark = pytest.mark.slow

REPO = "me/dcclip-tiny"
LOST = importlib.import_module(
    errors.Response.__module__.partition(".")[0]
).ConnectError  # httpx or httpx2


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    """A copy to write to."""
    return Path(shutil.copytree(finished, tmp_path / "dcclip-tiny"))


@pytest.fixture
def hub(monkeypatch) -> FakeHub:
    """A Hub without pauses between attempts."""
    hub = FakeHub()
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("training.hub.publish.HfApi", lambda: hub)
    return hub


HEX_KEY = "0a1b2c3d4e" * 4


def target(**fields) -> Target:
    return Target(**({"repo_id": REPO} | fields))


def test_only_listed_files_are_published(folder):
    (folder / "onnx/.hidden.onnx").touch()
    names = {*list_files(folder)}
    expected = {"model.safetensors", "config.json", "handler.py", "README.md", "modules.json"}
    assert expected | {"onnx/model.onnx", "executorch/text_model.pte"} <= names
    refused = ("log.", "checkpoint", "training_state", "cache", "pyc", "optimizer", "private")
    assert not [name for name in names for part in (*refused, "notes", "hidden") if part in name]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("README.md", r"\nhf_" + "a1B2" * 9),
        ("README.md", "npm_" + "a1B2" * 9),
        ("handler.py", "KEY = 'AKIA" + "A1B2" * 4 + "'"),
        ("LICENSE", "-----BEGIN PRIVATE KEY-----"),
        ("README.md", "github_pat_" + "a1B2" * 20),
        ("README.md", "sk-ant-api03-" + "a1B2" * 20),
        ("handler.py", "# AIza" + "a1B2" * 8 + "a1B"),
        ("README.md", f"machine api.wandb.ai\n  login user\n  password {HEX_KEY}"),
        ("README.md", f"wandb:\n  api_key: {HEX_KEY}"),
        ("README.md", f"HOME=/x\nWANDB_API_KEY={HEX_KEY}"),
    ],
)
def test_a_token_in_any_text_file_is_refused_with_its_line(folder, name, line):
    number = (folder / name).read_text(encoding="utf-8").count("\n") + 1 + line.count("\n")
    with (folder / name).open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=f"^{name}, line {number}: has a .* Remove and revoke it"):
        list_files(folder)


def test_a_commit_near_the_name_of_a_tracker_is_not_a_key(folder):
    with (folder / "README.md").open("a", encoding="utf-8") as file:
        file.write(f"report_to: wandb\nseed: 1\ncommit: {HEX_KEY}\n")
    assert "README.md" in list_files(folder)


TOKEN = "hf_" + "a1B2" * 9


def in_safetensors(path):
    save_file({"weight": np.zeros(1, np.float32)}, path, {"note": TOKEN})


def in_onnx(path):
    # the byte before the token is its length, and a letter
    token = f"sk-ant-api03-{'a1B2' * 23}A-AA"
    onnx.save(onnx.ModelProto(producer_name="x", doc_string=token[:108]), path)


def in_exif(path):
    image = Image.new("RGB", (8, 8))
    exif = image.getexif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = TOKEN.encode("utf-16-be")
    image.save(path, exif=exif)


def in_compressed_text(path, name="note", text=f"{TOKEN} " * 9):
    texts = PngImagePlugin.PngInfo()
    texts.add_text(name, text, zip=True)
    Image.new("RGB", (8, 8)).save(path, pnginfo=texts)


def in_raw_profile(path):
    in_compressed_text(path, "Raw profile type iptc", f"\niptc\n  37\n{TOKEN.encode().hex()}")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("model.safetensors", in_safetensors),
        ("onnx/model.onnx", in_onnx),
        ("example.jpg", in_exif),
        ("example.png", in_compressed_text),
        ("example.png", in_raw_profile),
    ],
)
def test_a_token_in_the_metadata_of_a_binary_file_is_refused(folder, name, write):
    with (folder / "README.md").open("a", encoding="utf-8") as card:
        card.write(f"![]({name})\n")
    write(folder / name)
    with pytest.raises(ValueError, match=f"^{name}, its metadata: has a secret access token"):
        list_files(folder)


@pytest.mark.parametrize("home", ["/home/me", "/me"])
def test_a_text_with_a_folder_of_this_machine_is_refused(folder, monkeypatch, home):
    monkeypatch.setattr(Path, "home", lambda: Path(home))
    (folder / "results.json").write_text(f'{{"note": "stored in x:{home}/"}}', encoding="utf-8")
    with pytest.raises(ValueError, match=rf"^results\.json, line 1: names '{home}/'"):
        list_files(folder)


@pytest.mark.parametrize(
    ("name", "target", "reason"),
    [
        ("onnx/zz.onnx", "a file", "is a link to a file outside the folder"),
        # exports behind a link are not left out
        ("onnx", "a folder", "is a folder, or a link to a folder or to nothing"),
        ("onnx/model.onnx", "nothing", "is a folder, or a link to a folder or to nothing"),
        ("README.md", None, "is a folder, or a link to a folder or to nothing"),
    ],
)
def test_links_and_folders_in_place_of_files_are_refused(folder, tmp_path, name, target, reason):
    (tmp_path / "a file").write_text("secret")
    (tmp_path / "a folder").mkdir()
    if (folder / name).exists():
        (folder / name).rename(tmp_path / "moved")
    if target is None:
        (folder / name).mkdir()
    else:
        (folder / name).symlink_to(tmp_path / target)
    with pytest.raises(ValueError, match=f"{name} {reason}"):
        list_files(folder)


def test_code_that_differs_from_the_package_is_named_and_needs_a_flag(folder, capsys):
    assert changed_code(folder) == []
    (folder / "handler.py").write_text("import os\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        publish.main([str(folder), "--repo_id", REPO, "--dry_run"])
    assert "folder: handler.py in" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["evil.DCCLIPModel", "attacker/repo--modeling_dcclip.DCCLIPModel"])
def test_a_class_of_other_code_is_named(folder, name):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["auto_map"]["AutoModel"] = name
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert changed_code(folder) == [name]
    (folder / "modules.json").write_text('[{"type": "os_evil.Module"}]', encoding="utf-8")
    assert changed_code(folder) == [name, "modules.json"]
    (folder / "config.json").write_text('{"auto_map": "x"}', encoding="utf-8")
    with pytest.raises(ValueError, match="auto_map 'x'"):
        changed_code(folder)


@pytest.mark.parametrize(("name", "value"), [("repo_id", "me/a b"), ("tag", "v 1")])
def test_names_that_the_hub_refuses_are_refused_at_once(name, value, capsys):
    with pytest.raises(SystemExit):
        publish.main(["no/folder", "--repo_id", REPO, f"--{name}", value])
    assert capsys.readouterr().err.startswith(f"publish: {name}: ")


def test_damaged_and_missing_files_are_refused_by_name(folder):
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"^folder: .*config\.json"):
        list_files(folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"preprocessor_config\.json"):
        list_files(folder)


def test_embeddings_without_this_package_are_compared(finished, monkeypatch):
    load, found = check._load_isolated, []

    def once(*arguments):
        found.append(load(*arguments))
        return found[0]

    monkeypatch.setattr(check, "_load_isolated", once)
    assert check_folder(finished) < 1e-5
    monkeypatch.setattr(check, "_load_isolated", lambda *arguments: found[0])
    own = found[0]["image_embeds"][0]
    right = own[3]
    own[3] = right + 5e-4  # the rounding of another machine
    assert check_folder(finished) == pytest.approx(5e-4, rel=0.1)
    for value in (right - 2e-3, float("nan")):
        own[3] = value
        with pytest.raises(FolderError, match="different embeddings"):
            check_folder(finished)


def test_a_folder_that_does_not_load_alone_is_refused_with_the_cause(finished, tmp_path):
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\necho 'RESULT {}'\necho 'no such package' >&2\nexit 1\n", encoding="utf-8"
    )
    python.chmod(0o755)
    with pytest.raises(FolderError, match="no such package"):
        check_folder(finished, str(python))


def test_a_repeated_upload_changes_only_what_changed(hub, folder):
    first = upload(folder, target())
    again = upload(folder, target())
    assert first.changed and not again.changed and again.commit == first.commit
    assert len(hub.commits) == 2  # the initial commit, and one with all files
    with pytest.raises(PublishError, match="is public"):
        upload(folder, target(private=True))
    # files that were deleted are removed, and other files of the repo kept
    hub.commit(hub.files() | {"paper.pdf": b"%PDF"})
    (folder / "onnx/model.onnx").unlink()
    upload(folder, target())
    assert {*hub.files()} == {*list_files(folder), "paper.pdf", ".gitattributes"}


def test_branch_and_tag(hub, folder):
    done = upload(folder, target(revision="next", tag="v1"))
    assert hub.branches["next"] == hub.tags["v1"] == done.commit != hub.branches["main"]
    upload(folder, target(revision="next", tag="v1"))  # repeating is no conflict
    (folder / "requirements.txt").write_text("torch\n", encoding="utf-8")
    with pytest.raises(PublishError, match="tag v1 is already on commit"):
        upload(folder, target(revision="next", tag="v1"))
    assert hub.tags["v1"] == done.commit


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize(
    "error", [http_error(500), http_error(429), LOST("lost"), ConnectionResetError()]
)
def test_temporary_fault_is_retried(hub, folder, error, is_late):
    """Also if only the response was lost, there is one commit."""
    hub.failures.append(("create_commit", error, is_late))
    upload(folder, target())
    assert not hub.failures and len(hub.commits) == 2
    assert hub.files()["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_a_permanent_fault_is_not_retried_and_the_error_names_the_command(hub, folder):
    hub.failures += [("create_commit", http_error(403), False)] * 9
    with pytest.raises(PublishError, match="403") as failed:
        upload(folder, target(private=True, revision="next", tag="v1"))
    command = f"training/publish.py {folder} --repo_id {REPO} --private --revision next --tag v1"
    assert str(failed.value).endswith(command) and len(hub.failures) == 8


def test_training_publishes_the_model(hub, corpus, teacher_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("training.hub.publish.check_folder", lambda folder: 0.0)  # tested above
    output_dir, student = tmp_path / "run", student_config(vision_config=CUT_EFFICIENTNET)
    fields = recipe_fields(
        output_dir, corpus / "train.parquet", teacher=str(teacher_folder), student=student
    )
    fields |= {"push_to_hub": True, "hub_model_id": REPO, "hub_private_repo": True, "max_steps": 1}
    distill.run(DistillRecipe(**fields))
    assert hub.private and [title for title, _ in hub.commits[1:]] == ["Publish the model"]
    files = hub.files()
    assert files["model.safetensors"] == (output_dir / "model.safetensors").read_bytes()
    assert not [path for path in files if "training_state" in path]


def test_command_line_checks_writes_the_card_and_publishes(hub, folder, monkeypatch, capsys):
    monkeypatch.setattr("training.hub.publish.check_folder", lambda folder: 0.0)  # tested above
    publish.main([str(folder), "--repo_id", REPO, "--private", "--tag", "v1"])
    printed = capsys.readouterr().out
    assert "model.safetensors" in printed and 'revision="v1"' in printed
    card = ModelCard(hub.files()["README.md"].decode())
    assert f'("{REPO}", revision="v1", trust_remote_code=True)' in card.text
    publish.main([str(folder), "--repo_id", REPO, "--private", "--revision", "next"])
    assert 'revision="next"' in (folder / "README.md").read_text(encoding="utf-8")


def test_dry_run_lists_files_and_sends_nothing(folder, capsys, monkeypatch):
    monkeypatch.setattr("training.hub.publish.check_folder", lambda folder: 0.0)
    monkeypatch.setattr(
        "training.hub.upload", lambda *arguments: pytest.fail("a dry run must send nothing")
    )
    before = (folder / "README.md").read_bytes()
    publish.main([str(folder), "--repo_id", REPO, "--dry_run"])
    lines = capsys.readouterr().out
    size = (folder / "model.safetensors").stat().st_size
    assert f"{size:,}  model.safetensors" in lines and "would go to me/dcclip-tiny" in lines
    assert (folder / "README.md").read_bytes() == before
