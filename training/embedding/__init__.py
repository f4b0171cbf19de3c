"""Embed image collections, shard by shard, for an index or for other search engines.

embedder.py         `Embedder`: encodes images exactly as an index does; also a function of batches
shard_writer.py     embeds one shard after the other into Parquet files, and decides on bfloat16
run.py              embeds the missing shards of a collection, here or on a Ray cluster, and writes an index
cluster.py          an autoscaling pool of Ray Data, whose actors are shard writers
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from training.utils.keys import no_key


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """What to embed, and where to.

    Args:
        model: Folder of a finished model. On a CPU its ONNX file is used if it has one, else its weights.
        data: Images, as `data.train` in a recipe: parquet files, tar shards, an image folder, a Hub id, or
            `module:function`.
        output_dir: Folder for the embeddings in `shards/`, the index in `index/` or `lance/`, and results.json.
        format: `index` writes an index from the shards, `lance` a Lance data set for many millions of images,
            `parquet` the shards alone.
        ray: Address of a Ray cluster whose nodes embed the shards, such as `auto`; `local` starts one on this machine,
            for several accelerators. All nodes need this package, the model, the data and `output_dir` under the same
            paths. Default: this process alone, with at most one accelerator.
        model_id: Hub id of the model; its students and their indexes are recognized by it. Default: its folder.
        split: Split of the data.
        subset: Configuration of a Hub data set with several.
        streaming: Whether to read the data as a stream, shard by shard, without a copy on the disk.
        image_column: Column of the images; in tar shards the extension, such as jpg.
        name_column: Text column with a unique name for each image, such as __key__. Default: the path of an image
            file, else the numbers of shard and row.
        batch_size: Number of images that the weights encode at once, at least 1.
        rows_per_shard: Number of rows in a shard, at least 1. A stream has the shards of its source.
        allow_paths: Whether rows may name image files outside the data.
        gate_data: Labeled set with which bfloat16 is checked on an accelerator, as `data` of `training/export.py`.
            Default: the validation data that the model's folder names. Without any, the weights run in float32.
        class_names: Class names of `gate_data`, as there.
    """

    model: str = no_key()  # the digest of its files is in the key
    data: list[str]
    output_dir: str = no_key()
    format: Literal["index", "lance", "parquet"] = no_key(default="index")
    ray: str | None = no_key(default=None)
    model_id: str | None = no_key(default=None)
    split: str = "train"
    subset: str | None = None
    streaming: bool = False
    image_column: str = "image"
    name_column: str | None = None
    batch_size: Annotated[int, Field(ge=1)] = no_key(default=64)
    rows_per_shard: Annotated[int, Field(ge=1)] = 16_384
    allow_paths: bool = False
    gate_data: str | None = no_key(default=None)  # the precision that it allows is in the key
    class_names: str | None = no_key(default=None)
