"""Keys of caches and checkpoints: every field counts, unless it says that it does not. Random numbers by keys."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from tests.variants import ignored_fields
from training.utils.keys import (
    Digest,
    differences,
    digest_file,
    keyed_uniform,
    make_key,
    no_key,
)


@dataclass(frozen=True)
class Inner:
    size: int = 2
    log_every: int = no_key(default=10)


@dataclass(frozen=True)
class Parts:
    name: str = "a"
    kind: Literal["x", "y"] = "x"
    flag: bool = False
    rate: float = 0.0
    limit: int | None = None
    grid: tuple[int, int] = (7, 7)
    columns: dict[str, str] = field(default_factory=dict)
    inner: Inner = Inner()
    output_dir: str = no_key(default="runs")


def test_every_field_counts_but_those_without_effect():
    assert ignored_fields(make_key, Parts()) == ["inner.log_every", "output_dir"]


def test_a_key_equals_its_copy_from_json():
    key = make_key(Parts(columns={"en": "caption"}))
    assert json.loads(json.dumps(key)) == key


def test_an_object_without_content_is_refused():
    with pytest.raises(TypeError, match="cannot be part of a key"):
        make_key(Parts(name=object()))


def test_differences_name_the_field_and_both_values():
    before, now = make_key(Parts()), make_key(Parts(limit=3, inner=Inner(size=4)))
    assert differences(before, now) == ["limit: None, now 3", "inner.size: 2, now 4"]
    assert differences(now, now) == []


def test_parts_of_a_digest_are_told_apart():
    assert Digest().add("ab", "c").hex() != Digest().add("a", "bc").hex()
    array = np.arange(4, dtype=np.int16).reshape(2, 2)
    assert Digest().add(array).hex() == Digest().add(array.tobytes()).hex()
    assert Digest().add(array[:0]).hex() == Digest().add(b"").hex()


def test_a_file_is_known_by_its_content(tmp_path: Path):
    path = tmp_path / "a"
    digests = []
    for content in (b"content", b"contenu", b"content"):
        path.write_bytes(content)
        digests.append(digest_file(path))
    assert digests[0] == digests[2] != digests[1]


def split_mix(value: int) -> int:
    """One step of SplitMix64 on Python's integers."""
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("key", [4, 2**64 - 1])
def test_seed_and_keys_are_hashed_one_after_the_other(key):
    state = split_mix((split_mix((split_mix(2) + key) % 2**64) + 7) % 2**64)
    expected = [
        (split_mix((state + n * 0x9E3779B97F4A7C15) % 2**64) >> 11) * 2.0**-53 for n in (1, 2, 3)
    ]
    assert keyed_uniform(2, key, 7, num=3).tolist() == [expected]
