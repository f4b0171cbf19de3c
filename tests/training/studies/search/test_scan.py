"""Exact scans of several programs over the same vectors."""

import pytest

from training.studies.search.scan import main
from training.utils.results import Results

pytest.importorskip("faiss")
pytest.importorskip("usearch")


def test_all_programs_find_the_nearest_vectors(tmp_path, capsys):
    main(["--num_vectors", "3000", "--dimension", "64", "--num_queries", "5", "--output_dir", str(tmp_path)])
    rows = {(row.model, row.metric): row.value for row in Results.read(tmp_path / "results.json").rows}
    for name in (
        "dcclip, int8",
        "dcclip, float16",
        "FAISS, float32",
        "FAISS, float16",
        "FAISS, int8",
        "USearch, int8",
    ):
        assert rows[name, "recall_at_10"] >= 0.9 and rows[name, "ms"] > 0
    assert rows["dcclip, int8", "bytes_per_vector"] == 68 and rows["FAISS, float32", "bytes_per_vector"] == 256
    assert "| dcclip, int8 | " in capsys.readouterr().out
    assert not (tmp_path / ".scan").exists()
