"""`dcclip index` and `search`, as users run them."""

import json
import os
import re
import shutil
import subprocess
import sys
import webbrowser
from contextlib import ExitStack

import pytest

from modeling_dcclip.search import command, commands
from modeling_dcclip.search.commands import SHOWN_FAILURES
from modeling_dcclip.search.index import Index
from modeling_dcclip.search.index.settings import write_lock
from modeling_dcclip.search.serve.page_server import SearchServer
from tests.local_server import free_port
from tests.search.conftest import names


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    """Environment of a user without settings."""
    monkeypatch.setenv("DCCLIP_INDEX", str(tmp_path / "index"))
    monkeypatch.delenv("DCCLIP_MODEL", raising=False)
    return tmp_path / "index"


@pytest.fixture
def indexed(filled, photos):
    return photos


def test_index_names_the_first_unreadable_files_and_counts_the_others(run, photos, color_model):
    broken = [photos / f"{number:02}.jpg" for number in range(SHOWN_FAILURES + 2)]
    for path in broken:
        path.write_bytes(b"no")
    lines = run("index", photos, "--model", color_model).splitlines()
    counts = rf"5 files in the index: 5 embedded, {len(broken)} unreadable \(\d+\.\d s\)"
    assert re.fullmatch(counts, lines[0])
    assert lines[1] == f"unreadable: {len(broken)} files (not an image, or damaged)"
    assert lines[2:-1] == [f"  {path}" for path in broken[:SHOWN_FAILURES]]
    assert lines[-1] == "  and 2 more; --json lists all of them"


def test_index_reports_what_has_changed(run, indexed, paint):
    (indexed / "red.jpg").rename(indexed / "moved.jpg")
    (indexed / "white.png").unlink()
    paint(indexed / "new.jpg", "blue", width=40)
    shutil.copy(indexed / "green.png", indexed / "copy.png")
    os.utime(indexed / "green.png", (1e9, 1e9))
    assert run("index").startswith(  # the index knows model and folders
        "6 files in the index: 1 embedded, 3 unchanged, 1 copied, 1 moved, 1 removed ("
    )


def test_index_reports_files_of_other_types(run, indexed):
    for name in ("a.psd", "b.txt"):
        (indexed / name).touch()
    found = run("index")
    assert found.endswith(" s)\nfiles of other types are not indexed: 2 (.psd, .txt)\n")


def test_search_prints_score_date_path_and_copies(run, indexed):
    shutil.copy(indexed / "red.jpg", indexed / "a copy.jpg")
    os.utime(indexed / "a copy.jpg", (1_700_000_000, 1_700_000_000))
    run("index")
    found = run("search", "red").splitlines()
    assert found[0] == f"0.998  2023-11-14  {indexed}/a copy.jpg  (name: red)  (copies: 1)"
    first, *others = json.loads(run("search", "red", "--json"))
    assert first["copies"] == [f"{indexed}/red.jpg"]
    assert len(others) == 4


def test_the_newest_photographs_are_listed_without_scores_and_json_has_no_escapes(
    run, indexed, monkeypatch
):
    (indexed / "红.jpg").write_bytes((indexed / "red.jpg").read_bytes())
    run("index")
    assert all(re.match(r"\d{4}-\d\d-\d\d  /", line) for line in run("search").splitlines())
    assert '/红.jpg", "score": null' in run("search", "--path", "红", "--json")


def test_a_file_that_is_gone_or_changed_is_marked(run, indexed):
    (indexed / "red.jpg").unlink()
    os.utime(indexed / "white.png", (1, 1))
    found = run("search", "red")
    assert "red.jpg  (name: red)  (changed or gone)\n" in found
    assert "white.png  (changed or gone)\n" in found
    assert "green.png\n" in found


@pytest.mark.parametrize("words", [["red", "blue", "--not", "green"], ["red blue -green"]])
def test_words_without_quotation_marks_are_one_text_and_some_exclude(run, indexed, words):
    assert run("search", *words, "--json") == run("search", "red blue not green", "--json")


def test_nothing_found_is_said_on_stderr(indexed, capsys):
    command.main(["search", "red", "--before", "1999", "--json"])
    printed = capsys.readouterr()
    assert printed.out == "[]\n"
    assert printed.err.startswith("dcclip: note: no ")


def test_a_folder_without_photographs_leaves_an_index_that_says_so(
    color_model, tmp_path, refusal, capsys
):
    (tmp_path / "empty").mkdir()
    arguments = ("index", str(tmp_path / "empty"), "--model", str(color_model))
    assert "has no images" in refusal(command.main, *arguments)
    command.main(["search", "red"])
    assert "the index has no photographs. Run dcclip index" in capsys.readouterr().err


def test_a_closed_pipe_ends_a_command_in_silence(indexed):
    line = [sys.executable, "-m", "modeling_dcclip.search.command", "search", "red"]
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert run.returncode == command.BROKEN_PIPE
    assert not run.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_in_any_bytes_are_printed_and_escaped_in_a_terminal(
    run, photos, color_model, monkeypatch
):
    path = os.fsencode(photos) + b"/\x1b[2J\x85\xff \xe7\xba\xa2.png"
    os.rename(photos / "green.png", path)
    run("index", photos, "--model", color_model)
    assert os.fsencode(run("search", "--image", os.fsdecode(path), "--top", 1)).endswith(
        path + b"\n"
    )
    assert os.fsencode(json.loads(run("search", "green", "--top", 1, "--json"))[0]["path"]) == path
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert run("search", "green", "--top", 1).endswith("/\\x1b[2J\\x85\\xff 红.png\n")


def test_status_shows_what_an_index_has(run, photos, place, color_model, tmp_path, paint):
    for name in ("broken.jpg", "half.png"):
        (photos / name).write_bytes(b"no")
    model = shutil.copytree(color_model, tmp_path / "model")
    gone = paint(tmp_path / "gone" / "one.jpg", "blue", width=60).parent
    run("index", photos, gone, "--model", model)
    run("index", photos, "--exclude", "*.gif", "--exclude", "private")
    shutil.rmtree(gone)
    shutil.rmtree(model)
    assert run("status").splitlines() == [
        f"index: {place}",
        f"model: {model}",
        "dimensions: 16",
        "files: 6",
        f"folders: {tmp_path}/gone: 1",
        f"folders: {photos}: 5",
        f"missing folders: {tmp_path}/gone",
        f"left out: {photos}: *.gif, private",
        "unreadable: not an image, or damaged: 2",
    ]
    status = json.loads(run("status", "--json"))
    assert status["folders"] == {f"{tmp_path}/gone": 1, f"{photos}": 5}


@pytest.mark.parametrize("pattern", ["{photos}/a/", "{photos}/A/*", "~/link/a", "./a", "/a"])
def test_a_folder_is_left_out_by_any_of_its_paths(
    run, place, photos, color_model, pattern, monkeypatch
):
    monkeypatch.setenv("HOME", str(photos.parent))
    (photos.parent / "link").symlink_to(photos)
    run("index", photos, "--exclude", pattern.format(photos=photos), "--model", color_model)
    with Index.open(place) as index:
        assert {*names(index.newest())} == {"green.png", "red.jpg", "white.png"}


def test_a_forgotten_folder_leaves_by_any_of_its_paths(run, indexed, tmp_path):
    (tmp_path / "link").symlink_to(indexed)
    assert run("index", "--forget", indexed / "a").startswith("dcclip: folder: ")
    assert run("index", "--forget", tmp_path / "link") == "5 files removed\n"
    assert run("search", "red") == ""
    assert (indexed / "red.jpg").exists()
    assert "folder: got none, and the index has none yet" in run("index")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["index", "--forget", "a", "a"], "folders, forget cannot be combined"),
        (["index", "--forget", "a", "--truncate_dim", "9"], "forget, truncate_dim cannot be"),
        (["index", "--forget", "a", "--model_id", "some/model"], "forget, model_id cannot be"),
        (["index", "--upgrade", "a", "--exclude", "*.png"], "exclude, upgrade cannot be"),
        (["a", "--forget", "a"], "forget does not apply"),
        (["a", "--upgrade", "model"], "upgrade does not apply"),
        (["a", "--api"], "api does not apply"),
    ],
)
def test_options_that_do_not_apply_are_refused(run, indexed, monkeypatch, options, named):
    monkeypatch.chdir(indexed)
    assert named in run(*options)


def test_a_folder_alone_is_served_at_once_and_indexed(
    photos, tmp_path, color_model, monkeypatch, capsys
):
    """The options of both commands may follow it."""
    monkeypatch.setenv("DCCLIP_MODEL", str(color_model))
    monkeypatch.setattr(SearchServer, "serve_forever", lambda server: server.indexing.join())
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    index = str(tmp_path / "other")
    port = str(free_port())
    command.main([str(photos), "--index", index, "--exclude", "a", "--port", port])
    printed, notes = capsys.readouterr()
    report, address = sorted(printed.splitlines())  # two threads print them
    assert "press Ctrl+C to stop" in notes
    assert [address] == opened
    assert address.startswith(f"http://127.0.0.1:{port}/?token=")
    assert report.startswith("3 files in the index: 3 embedded")


def test_a_search_lists_what_fits_and_then_some_others(calibrated, photos, run):
    first, line, *others = run("search", "red").splitlines()
    assert first.endswith("red.jpg  (name: red)")
    assert line == "less likely:"
    assert len(others) == 4
    (photos / "red.jpg").unlink()
    run("index")
    assert run("search", "red").startswith("nothing like it was found; the most similar ones:")


@pytest.mark.parametrize(
    ("language", "query", "note"),
    [
        ("en", "red 2019 to 2021", "note: '2019 to 2021' is understood as the dates 2019 to 2021"),
        ("en", "red before 2021", "note: 'before 2021' is understood as the dates … to 2020-12-31"),
        ("zh", "2019年以来的红", "提示：'2019年以来' 按日期理解：2019 到 …"),
        (
            "en",
            "red at Christmas",
            "note: 'at Christmas' is understood as dates, of every year unless it names one",
        ),
    ],
)
def test_a_note_says_which_dates_are_understood(
    indexed, capsys, monkeypatch, language, query, note
):
    monkeypatch.setenv("LANG", "en_US.UTF-8")
    monkeypatch.setenv("LANGUAGE", language)
    command.main(["search", query])
    assert f"dcclip: {note}\n" in capsys.readouterr().err


def test_the_default_model_takes_the_place_of_a_removed_one(
    run, photos, color_model, tmp_path, monkeypatch
):
    shutil.copytree(color_model, tmp_path / "old")
    run("index", photos, "--model", tmp_path / "old")
    shutil.rmtree(tmp_path / "old")
    monkeypatch.setenv("DCCLIP_MODEL", str(color_model))
    assert "red.jpg" in run("search", "red", "--top", "1")


def test_a_missing_folder_gives_another_exit_code(indexed, tmp_path, paint, capsys):
    gone = paint(tmp_path / "gone" / "one.jpg", "blue", width=60).parent
    command.main(["index", str(gone)])
    shutil.rmtree(gone)
    with pytest.raises(SystemExit) as stopped:
        command.main(["index"])
    assert stopped.value.code == 1
    assert f"\nmissing folder: '{tmp_path}/gone' (" in capsys.readouterr().out


def test_bad_input_is_one_line(run, photos, color_model, tmp_path, place):
    for field, arguments in (
        ("index", ["search", "red"]),
        ("folder", ["index"]),
        ("folder", ["index", tmp_path / "none"]),
        ("folder", ["index", photos, "--model", tmp_path]),
    ):
        assert run(*arguments).startswith(f"dcclip: {field}: ")
        assert not place.exists()
    run("index", photos, "--model", color_model)
    for field, arguments in (
        ("image", ["--image", color_model / "config.json"]),
        ("before", ["red", "--before", "2020-13"]),
        ("top", ["red", "--top", 0]),
    ):
        assert run("search", *arguments).startswith(f"dcclip: {field}: ")


def test_a_watch_updates_the_index_until_it_is_stopped(filled, photos, paint, monkeypatch, capsys):
    other_process = ExitStack()

    def minutes():
        yield  # nothing changes
        paint(photos / "new.jpg", "red", width=40)
        other_process.enter_context(write_lock(filled.folder))
        yield
        other_process.close()
        yield
        raise KeyboardInterrupt

    passing = minutes()
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        next(passing)

    add = Index.add

    def add_slowly(index, *folders, **options):
        report = add(index, *folders, **options)
        report.seconds = 7200 if report.embedded or not waits else 30
        return report

    monkeypatch.setattr(commands.time, "sleep", sleep)
    monkeypatch.setattr(Index, "add", add_slowly)
    command.main(["index", "--watch"])
    assert waits == [60, 600, 600, 600]  # hours of embedding do not delay the next update
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("5 files in the index: 5 unchanged")
    assert second.startswith("6 files in the index: 1 embedded")


def test_a_watch_goes_on_while_folders_are_missing(
    filled, photos, tmp_path, paint, monkeypatch, capsys
):
    gone = paint(tmp_path / "gone" / "one.jpg", "blue", width=60).parent
    filled.add(gone)
    shutil.rmtree(gone)

    def minutes():
        photos.rename(tmp_path / "unmounted")
        yield
        yield
        (tmp_path / "unmounted").rename(photos)
        paint(photos / "new.jpg", "red", width=40)
        yield
        photos.rename(tmp_path / "unmounted")
        yield
        raise KeyboardInterrupt

    passing = minutes()
    monkeypatch.setattr(commands.time, "sleep", lambda seconds: next(passing))
    command.main(["index", "--watch"])
    printed, errors = capsys.readouterr()
    assert [line.partition(" (")[0] for line in printed.splitlines()] == [
        "6 files in the index: 5 unchanged",
        f"missing folder: '{gone}'",
        "7 files in the index: 1 embedded, 5 unchanged",
        f"missing folder: '{gone}'",
    ]
    assert errors.count("\n") == 2  # not one at every update
    assert errors.startswith(f"dcclip: folder: '{gone}' is not a folder. ")


def test_stopping_says_how_to_go_on(photos, color_model, monkeypatch, capsys):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Index, "add", stop)
    with pytest.raises(SystemExit) as stopped:
        command.main(["index", str(photos), "--model", str(color_model)])
    assert stopped.value.code == 130
    assert "The same command goes on where it stopped" in capsys.readouterr().err
