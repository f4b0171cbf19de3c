"""Spellings: what each one makes of a text, and a run with a tiny model and drawings."""

import pytest

from training.studies.photographs.spellings import SPELLINGS, main, speller
from training.utils.results import RESULTS_FILE, Results


@pytest.mark.parametrize(
    ("spelling", "text", "expected"),
    [
        ("as written", "a dog", "a dog"),
        ("Title Case", "a dog", "A Dog"),
        ("UPPER CASE", "a dog", "A DOG"),
        ("with_underscores", "a dog", "a_dog"),
        ("with-hyphens", "a dog", "a-dog"),
        ("traditional", "小猫", "小貓"),
    ],
)
def test_a_text_in_each_spelling(spelling, text, expected):
    assert speller(spelling)(text) == expected


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerator")
def test_every_spelling_is_measured(corpus, teacher_folder, labelled, tmp_path, capsys):
    source = str(corpus / "train.parquet")
    arguments = ["--models", f"mine={teacher_folder}", "--retrieval", source, "--labelled", str(labelled)]
    main([*arguments, "--output_dir", str(tmp_path / "study")])
    results = Results.read(tmp_path / "study" / RESULTS_FILE)
    found = {(row.language, row.protocol, row.metric) for row in results.rows}
    spellings = {(language, spelling) for language, each in SPELLINGS.items() for spelling in each}
    assert found == {(*pair, metric) for pair in spellings for metric in ("text_to_image_R@5", "top1")}
    assert "| Chinese, traditional | " in capsys.readouterr().out


def test_a_model_without_a_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--models", "runs/mine", "--retrieval", "a", "--labelled", "b", "--output_dir", "c"])
    assert "NAME=FOLDER" in capsys.readouterr().err
