"""Tables in READMEs are those of the committed results."""

import pytest

from training.experiments.studies import tables
from training.utils.files import REPO_ROOT

READMES = tables.list_readmes()


@pytest.mark.parametrize(
    "path", READMES, ids=[str(path.relative_to(REPO_ROOT)) for path in READMES]
)
def test_tables_are_rendered_from_the_committed_results(path):
    text = path.read_text(encoding="utf-8")
    assert tables.render(text) == text, "run: python -m training.experiments.studies tables"


def test_the_command_fills_the_blocks_of_readmes_and_names_those_that_changed(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(tables, "REPO_ROOT", tmp_path)
    monkeypatch.setattr(tables, "RENDERERS", {"double": lambda text: text * 2, "empty": str})
    old = "<!-- table: {} -->\nold\n<!-- end of table -->"
    text = f"# Title\n{old.format('double ab')}\nbetween\n{old.format('empty')}\nold\n"
    paths = [tmp_path / "README.md", tmp_path / "README.zh.md"]
    monkeypatch.setattr(tables, "list_readmes", lambda: paths)
    paths[0].write_text(text, encoding="utf-8")
    paths[1].write_text("no table\n", encoding="utf-8")
    tables.run(tables.Options())
    found = paths[0].read_text(encoding="utf-8")
    assert found == text.replace("\nold\n<", "\nabab\n<", 1).replace("\nold\n<", "\n\n<")
    assert capsys.readouterr().out == "README.md\n"
