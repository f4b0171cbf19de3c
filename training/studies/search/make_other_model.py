"""A model whose projections are fitted in closed form."""

import copy
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image
from transformers import AutoModel

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.data import load_source
from training.data.images import image_cell, open_image
from training.hub.contents import complete_folder
from training.studies.search.options import OtherModelOptions
from training.studies.search.photographs import read_captions

BATCH_SIZE = 32
RIDGE = 0.1  # as a share of the mean variance of a feature


def make_other_model(options: OtherModelOptions):
    """Fit the projections to captioned images, and save the model.

    Args:
        options: Options of the command.

    Raises:
        ValueError: The data have no captions in both languages, or an image cannot be read.
    """
    base = DCCLIPModel.from_pretrained(options.model).eval()
    processor = DCCLIPProcessor.from_pretrained(options.model)
    config = copy.deepcopy(base.config)
    config.projection_dim, config.teacher, config.teacher_license = options.projection_dim, None, None
    model: Any = DCCLIPModel(config).eval()
    model.text_model.load_state_dict(base.text_model.state_dict())
    model.vision_model.load_state_dict(AutoModel.from_pretrained(options.image_tower).state_dict())
    rows = load_source(options.data)
    rows = rows.select(range(min(options.num_images, len(rows))))
    with torch.inference_mode():
        images, texts = image_features(model, processor, rows), text_features(model, processor, rows)
    image_map, text_map = fit_projections(images, texts, options.projection_dim)
    model.visual_projection.weight.data = torch.from_numpy(image_map.T.astype(np.float32)).contiguous()
    model.text_projection.weight.data = torch.from_numpy(text_map.T.astype(np.float32)).contiguous()
    model.save_pretrained(options.output_dir)
    processor.save_pretrained(options.output_dir)
    complete_folder(options.output_dir)


def image_features(model: Any, processor: DCCLIPProcessor, rows: Dataset) -> np.ndarray:
    """Features of the images in front of the projection, (N, F) float64."""
    cells = rows.select_columns(["image"]).cast_column("image", Image(decode=False))
    parts = []
    for batch in cells.iter(BATCH_SIZE):
        images = [open_image(image_cell(cell) or {}) for cell in batch["image"]]
        outputs = model.get_image_features(**processor(images=images, return_tensors="pt"))
        parts.append(outputs.feature_map.mean((2, 3)).double().numpy())
    return np.concatenate(parts)


def text_features(model: Any, processor: DCCLIPProcessor, rows: Dataset) -> np.ndarray:
    """Features of the first caption of each image in front of the projection, the mean of both languages.

    Returns:
        (N, F) float64.
    """
    sums, counts = np.zeros((len(rows), model.config.text_width)), np.zeros((len(rows), 1))
    for captions, images in read_captions(rows).values():
        numbers, firsts = np.unique(images, return_index=True)
        texts = [captions[first] for first in firsts]
        for start in range(0, len(texts), BATCH_SIZE):
            inputs = processor(text=texts[start : start + BATCH_SIZE], truncation=True, return_tensors="pt")
            hidden = model.get_text_features(**inputs).last_hidden_state.double()  # (B, L, F)
            mask = inputs["attention_mask"].unsqueeze(-1)  # (B, L, 1)
            np.add.at(sums, numbers[start : start + BATCH_SIZE], ((hidden * mask).sum(1) / mask.sum(1)).numpy())
            np.add.at(counts, numbers[start : start + BATCH_SIZE], 1)
    return sums / counts


def fit_projections(images: np.ndarray, texts: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit the projections of both towers by canonical correlation analysis.

    A projection has no bias, so the direction of the mean is projected out instead.

    Args:
        images: Features of images, (N, F) float64.
        texts: Features of their captions, (N, G) float64.
        width: Number of dimensions of the embeddings, at most F and G.

    Returns:
        Projections to apply to row vectors from the right, (F, width) and (G, width).

    Source: the regularised form of Hotelling, "Relations between two sets of variates", Biometrika 1936, with the
        canonical directions scaled by the square roots of their correlations.
    """
    without_mean, whitening, whitened = [], [], []
    for features in (images, texts):
        mean = features.mean(0)
        without_mean.append(np.eye(len(mean)) - np.outer(mean, mean) / (mean @ mean))
        centred = features - mean
        covariance = centred.T @ centred / len(centred)
        values, axes = np.linalg.eigh(covariance + RIDGE * np.trace(covariance) / len(mean) * np.eye(len(mean)))
        whitening.append(axes / np.sqrt(values) @ axes.T)
        whitened.append(centred @ whitening[-1])
    left, correlations, right = np.linalg.svd(whitened[0].T @ whitened[1] / len(images), full_matrices=False)
    directions = (left[:, :width] * np.sqrt(correlations[:width]), right[:width].T * np.sqrt(correlations[:width]))
    image_map, text_map = (
        removal @ white @ axes for removal, white, axes in zip(without_mean, whitening, directions, strict=True)
    )
    return image_map, text_map
