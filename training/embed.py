# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "accelerate>=1.15", "datasets>=5.2", "detect-secrets>=1.5", "docstring-parser", "evaluate>=0.4.6", "filelock>=4",
#     "fsspec[http]", "holidays>=0.80", "huggingface_hub>=2", "jinja2", "matplotlib", "numpy", "onnxruntime>=1.32",
#     "pandas", "pillow-heif", "pillow>=11.3", "psutil", "pydantic>=2.10", "python-multipart", "pyyaml", "safetensors",
#     "sentencepiece", "starlette>=1", "timm>=1.0.31", "tokenizers>=0.21", "torch>=2.10", "torchvision>=0.25", "tqdm",
#     "transformers>=5.23,<6", "uvicorn>=0.30",
# ]
# ///
r"""Embed a collection of images of any size, for an index that `dcclip search` reads or as Parquet files.

python training/embed.py --model runs/demo/edge --data Photos --output_dir runs/photos
python training/embed.py --ray auto --model MODEL --data "shards/{0000..0999}.tar" --streaming \
    --image_column jpg --name_column __key__ --format lance --output_dir /shared/collection
python training/embed.py --model MODEL --data HUB_ID --format parquet --output_dir runs/vectors
"""

from training.embedding import EmbedOptions
from training.utils.cli import hide_library_bars, parse_options, print_ending, user_errors

PROG = "python training/embed.py"


def main(argv: list[str] | None = None):
    """Parse the options, embed, and print what was done."""
    options = parse_options(EmbedOptions, argv, prog=PROG, description=__doc__)
    with user_errors("embed", extra="train"):
        # imported after parsing: torch and transformers take seconds, and --help needs neither
        from training.embedding.run import embed

        hide_library_bars()
        results = embed(options)
    for row in results.rows:
        print(
            f"{row.metric}: {row.value:,.1f}"
            if row.metric == "images_per_s"
            else f"{row.metric}: {row.value:,}"
        )
    written = {f"{options.output_dir}/shards": "Parquet files of the embeddings"}
    if options.format != "parquet":
        written[f"{options.output_dir}/{options.format}"] = "index of the collection"
    print_ending(written)


if __name__ == "__main__":
    main()
