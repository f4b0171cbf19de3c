"""The tools that are Python packages. Each class imports its package when it is opened."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from modeling_dcclip.image_dcclip import to_rgb
from training.studies.tools.encoder import TOP, Encoder, normalized

BATCH_SIZE = 32


def batches(items: Sequence[str]) -> Iterator[list[str]]:
    """Split a sequence into batches."""
    for start in range(0, len(items), BATCH_SIZE):
        yield list(items[start : start + BATCH_SIZE])


def open_files(paths: Sequence[str]) -> list[Image.Image]:
    """Open image files, upright and in RGB."""
    images = []
    for path in paths:
        with Image.open(path) as image:
            images.append(to_rgb(image))
    return images


class Transformers(Encoder):
    """`AutoModel` and `AutoProcessor`, with the code of the folder. All tools are compared with it.

    Args:
        folder: Model folder.
        variant: Number format; fp32.
        backend: What resizes images: `torchvision`, the default of transformers, or `pil`.
    """

    def __init__(self, folder: Path, variant: str, backend: str = "torchvision"):
        from transformers import AutoModel, AutoProcessor

        self.model = AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True, backend=backend)

    @torch.inference_mode()
    def encode_images(self, paths: Sequence[str]) -> np.ndarray:
        """Encode image files."""
        inputs = (self.processor(images=open_files(part), return_tensors="pt") for part in batches(paths))
        return normalized(torch.cat([self.model.get_image_features(**each).pooler_output for each in inputs]).numpy())

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts."""
        inputs = (self.processor(text=part, truncation=True, return_tensors="pt") for part in batches(texts))
        return normalized(torch.cat([self.model.get_text_features(**each).pooler_output for each in inputs]).numpy())


class SentenceTransformers(Encoder):
    """`SentenceTransformer`."""

    def __init__(self, folder: Path, variant: str):
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")

    def encode_images(self, paths: Sequence[str]) -> np.ndarray:
        """Encode image files."""
        parts = [self.model.encode(open_files(part), normalize_embeddings=True) for part in batches(paths)]
        return np.concatenate(parts)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts."""
        return self.model.encode(list(texts), normalize_embeddings=True)


class Haystack(Encoder):
    """Haystack's embedders, its document store in memory and its retriever."""

    def __init__(self, folder: Path, variant: str):
        from haystack_integrations.components.embedders.sentence_transformers import (
            SentenceTransformersDocumentImageEmbedder,
            SentenceTransformersTextEmbedder,
        )

        options: dict[str, Any] = {
            "model": str(folder),
            "trust_remote_code": True,
            "normalize_embeddings": True,
            "progress_bar": False,
            "token": None,
        }
        self.images = SentenceTransformersDocumentImageEmbedder(**options)
        self.texts = SentenceTransformersTextEmbedder(**options)

    def encode_images(self, paths: Sequence[str]) -> np.ndarray:
        """Encode image files."""
        from haystack import Document

        documents = [Document(content="", meta={"file_path": path}) for path in paths]
        return normalized([each.embedding for each in self.images.run(documents=documents)["documents"]])

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts."""
        return normalized([self.texts.run(text=text)["embedding"] for text in texts])

    def rank(
        self, paths: Sequence[str], images: np.ndarray, texts: Sequence[str], embeddings: np.ndarray
    ) -> np.ndarray:
        """Rank with the search of the tool."""
        from haystack import Document
        from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
        from haystack.document_stores.in_memory import InMemoryDocumentStore

        store = InMemoryDocumentStore(embedding_similarity_function="dot_product")
        store.write_documents([Document(id=str(row), embedding=vector.tolist()) for row, vector in enumerate(images)])
        retriever = InMemoryEmbeddingRetriever(store, top_k=TOP)
        found = (retriever.run(query_embedding=query.tolist())["documents"] for query in embeddings)
        return np.array([[int(document.id) for document in documents] for documents in found])


class LlamaIndex(Encoder):
    """LlamaIndex's `HuggingFaceEmbedding`, whose embeddings are L2-normalised."""

    def __init__(self, folder: Path, variant: str):
        from llama_index.embeddings.huggingface import HuggingFaceEmbedding

        self.model = HuggingFaceEmbedding(str(folder), trust_remote_code=True, device="cpu")

    def encode_images(self, paths: Sequence[str]) -> np.ndarray:
        """Encode image files."""
        return np.concatenate(
            [np.array(self.model.get_image_embedding_batch(part), np.float32) for part in batches(paths)]
        )

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts."""
        return np.array(self.model.get_text_embedding_batch(list(texts)), np.float32)


class Mteb(Encoder):
    """The model that `model_meta` describes, through mteb's interface of an encoder."""

    def __init__(self, folder: Path, variant: str):
        from modeling_dcclip.mteb_dcclip import model_meta

        self.model: Any = model_meta(folder, f"dcclip/{folder.name}").load_model(device="cpu")

    def encode_images(self, paths: Sequence[str]) -> np.ndarray:
        """Encode image files."""
        from datasets import Image as ImageFeature

        return self._encode("image", list(paths), ImageFeature())

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts."""
        from datasets import Value

        return self._encode("text", list(texts), Value("string"))

    def _encode(self, column: str, items: list[str], feature: Any) -> np.ndarray:
        from datasets import Dataset
        from mteb import get_task
        from torch.utils.data import DataLoader

        rows: Any = Dataset.from_dict({column: items}).cast_column(column, feature)
        # the batches that mteb makes of a task's rows
        loader = DataLoader(rows, BATCH_SIZE, collate_fn=lambda batch: {column: [row[column] for row in batch]})
        options = {"task_metadata": get_task("Flickr30kT2IRetrieval").metadata, "hf_split": "test"}
        return normalized(self.model.encode(loader, **options, hf_subset="default", show_progress_bar=False))


class Daft(Transformers):
    """Daft's `decode_image` and `embed_image`. It has no embedder of texts: transformers encodes them."""

    def __init__(self, folder: Path, variant: str):
        super().__init__(folder, variant)
        self.folder = str(folder)

    def encode_images(self, paths: Sequence[str]) -> np.ndarray:
        """Encode image files."""
        import daft
        from daft.functions import decode_image

        frame = daft.from_pydict({"file": [Path(path).read_bytes() for path in paths]})
        return self._embed(frame, decode_image(daft.col("file"), mode="RGB"))

    def _embed(self, frame: Any, images: Any) -> np.ndarray:
        from daft.functions import embed_image

        column = embed_image(images, provider="transformers", model=self.folder)
        # otherwise Daft sends all images of a partition through the model at once
        return normalized(frame.into_batches(BATCH_SIZE).select(column.alias("embedding")).to_pydict()["embedding"])


class DaftOfPillow(Daft):
    """Daft's `embed_image` on images that Pillow has decoded: Daft's own JPEG decoder rounds in another way."""

    def encode_images(self, paths: Sequence[str]) -> np.ndarray:
        """Encode image files."""
        import daft

        frame = daft.from_pydict({"pixels": [np.asarray(image) for image in open_files(paths)]})
        return self._embed(frame, daft.col("pixels").cast(daft.DataType.image("RGB")))


class Fastembed(Encoder):
    """fastembed for both towers, and Qdrant in memory, which ranks."""

    def __init__(self, folder: Path, variant: str):
        from fastembed import ImageEmbedding, TextEmbedding

        from modeling_dcclip.fastembed_dcclip import register

        text, image = register(folder, {"fp32": "", "int8": "_quantized"}[variant])
        self.texts = TextEmbedding(text, specific_model_path=str(folder))
        self.images = ImageEmbedding(image, specific_model_path=str(folder))

    def encode_images(self, paths: Sequence[str]) -> np.ndarray:
        """Encode image files."""
        return normalized(list(self.images.embed(list(paths))))

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts."""
        return normalized(list(self.texts.embed(list(texts))))

    def rank(
        self, paths: Sequence[str], images: np.ndarray, texts: Sequence[str], embeddings: np.ndarray
    ) -> np.ndarray:
        """Rank with the search of the tool."""
        from qdrant_client import QdrantClient, models

        client = QdrantClient(":memory:")
        size = models.VectorParams(size=images.shape[1], distance=models.Distance.COSINE)
        client.create_collection("photographs", size)
        points = [models.PointStruct(id=row, vector=vector.tolist()) for row, vector in enumerate(images)]
        client.upsert("photographs", points)
        found = (client.query_points("photographs", query=query.tolist(), limit=TOP).points for query in embeddings)
        return np.array([[point.id for point in points] for points in found])


class OpenClip(Encoder):
    """`open_clip.create_model_and_transforms` on a converted folder, with its transform and tokenizer."""

    def __init__(self, folder: Path, variant: str):
        from training.hub.layouts.open_clip import OpenClipEncoder

        self.model = OpenClipEncoder(folder / "open_clip")

    def encode_images(self, paths: Sequence[str]) -> np.ndarray:
        """Encode image files."""
        return np.concatenate([self.model.encode_images(open_files(part)) for part in batches(paths)])

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts."""
        return self.model.encode_texts(texts)


class ClipBenchmark(Encoder):
    """The model, transform and tokenizer that `clip_benchmark.models.load_clip` returns."""

    def __init__(self, folder: Path, variant: str):
        from clip_benchmark.models import load_clip

        name = f"local-dir:{folder / 'open_clip'}"
        self.model, self.transform, self.tokenizer = load_clip("open_clip", name, None, None, "cpu")
        self.model.eval()

    @torch.inference_mode()
    def encode_images(self, paths: Sequence[str]) -> np.ndarray:
        """Encode image files."""
        inputs = (torch.stack([self.transform(image) for image in open_files(part)]) for part in batches(paths))
        return normalized(torch.cat([self.model.encode_image(each) for each in inputs]).numpy())

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts."""
        return normalized(torch.cat([self.model.encode_text(self.tokenizer(part)) for part in batches(texts)]).numpy())


class LanceDB(Encoder):
    """LanceDB's `open-clip` function on a converted folder. LanceDB ranks."""

    def __init__(self, folder: Path, variant: str):
        from lancedb.embeddings import get_registry

        name = f"local-dir:{folder / 'open_clip'}"
        self.function: Any = get_registry().get("open-clip").create(name=name, pretrained="")
        self.function._model.eval()  # LanceDB leaves it in training mode

    def encode_images(self, paths: Sequence[str]) -> np.ndarray:
        """Encode image files."""
        files = [Path(path).read_bytes() for path in paths]
        return normalized(self.function.compute_source_embeddings(files))

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts."""
        return normalized([self.function.compute_query_embeddings(text)[0] for text in texts])

    def rank(
        self, paths: Sequence[str], images: np.ndarray, texts: Sequence[str], embeddings: np.ndarray
    ) -> np.ndarray:
        """Rank with the search of the tool."""
        import lancedb

        rows = [{"number": number, "vector": vector} for number, vector in enumerate(images)]
        table = lancedb.connect("memory://").create_table("photographs", rows)
        found = (table.search(query).distance_type("cosine").limit(TOP).to_list() for query in embeddings)
        return np.array([[row["number"] for row in rows] for rows in found])


class Immich(Encoder):
    """The session code of Immich's server, re-created from its contract."""

    def __init__(self, folder: Path, variant: str):
        from training.hub.layouts.immich import ImmichEncoder

        self.model = ImmichEncoder(folder / "immich")

    def encode_images(self, paths: Sequence[str]) -> np.ndarray:
        """Encode image files."""
        return np.concatenate([self.model.encode_images(open_files(part)) for part in batches(paths)])

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts."""
        return self.model.encode_texts(texts)
