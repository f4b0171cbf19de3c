"""Places of names by an image classifier."""

import json
import zlib
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.functional import normalize

from training.experiments.photographs.targets import class_places, write_named_targets

CLASSES = {"en": ["dog", "cat"], "zh": ["狗", "猫"]}


def embed(text: str) -> torch.Tensor:
    """A direction of its own for each text, and a second one that "dog" and "hound" share."""
    own = torch.randn(32, generator=torch.Generator().manual_seed(zlib.crc32(text.encode())))
    shared = 20 * torch.eye(32)[0] if text in ("dog", "hound") else 0
    return normalize(own + shared, dim=-1)


def test_an_image_is_nearest_to_the_place_of_its_class():
    generator = torch.Generator().manual_seed(0)
    weight = normalize(torch.randn(20, 64, generator=generator), dim=-1)
    projection = torch.randn(32, 64, generator=generator)
    places = class_places(projection, weight)
    assert torch.allclose(places.norm(dim=-1), torch.ones(20))
    images = weight @ projection.T  # pooled features in the direction of a class
    assert (images @ places.T).argmax(1).tolist() == list(range(20))


def test_a_name_without_photographs_moves_towards_the_classes_that_it_resembles(tmp_path: Path):
    weight = torch.randn(2, 64, generator=torch.Generator().manual_seed(1))
    classifier = tmp_path / "classifier.safetensors"
    save_file(
        {"weight": weight, "bias": torch.zeros(2)}, classifier, {"names": json.dumps(CLASSES)}
    )
    for name, texts in (("names", ["hound", "grass"]), ("nouns", ["grass", "dog"])):
        pq.write_table(pa.table({"en": [texts], "zh": [None]}), tmp_path / f"{name}.parquet")
    projection = torch.randn(32, 64, generator=torch.Generator().manual_seed(2))
    model = SimpleNamespace(
        encode_texts=lambda texts, truncate=False: torch.stack(
            [embed(text) for text in texts]
        ).numpy(),
        model=SimpleNamespace(visual_projection=SimpleNamespace(weight=projection)),
    )
    path = tmp_path / "named_targets.safetensors"
    write_named_targets(
        path, model, classifier, tmp_path / "names.parquet", tmp_path / "nouns.parquet"
    )
    with safe_open(path, "pt") as file:
        texts, targets = json.loads(file.metadata()["texts"]), file.get_tensor("embedding").float()
    assert sorted(texts) == sorted(["dog", "cat", "狗", "猫", "hound"])  # photographs show grass
    dog, cat = class_places(projection, weight)
    hound = targets[texts.index("hound")]
    assert hound @ dog > embed("hound") @ dog + 0.1
    assert hound @ dog > hound @ cat
