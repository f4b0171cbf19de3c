"""Embeddings from features, one encoder for each training phase.

First from pooled vectors, then through the upper layers, then from images alone while the texts stay as they are.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel
from training.demo.photo_teacher.features import ImageFeatures, TextFeatures
from training.demo.photo_teacher.upper import UpperImageTower, UpperTextTower

LENGTH_PARTS = 6


class Encoder(nn.Module):
    """Projections of frozen pooled features.

    Args:
        model: Teacher; the encoder shares its parameters.
        dropout: Dropout probability on pooled features while training.
    """

    def __init__(self, model: DCCLIPModel, dropout: float = 0.0):
        super().__init__()
        self.visual_projection, self.text_projection = model.visual_projection, model.text_projection
        self.logit_scale = model.logit_scale
        self.dropout = nn.Dropout(dropout)

    def pool_images(self, features: ImageFeatures, indices: Tensor) -> Tensor:
        """Pooled features of a batch of images, (B, 1280) float32.

        Args:
            features: Features of N images.
            indices: Indices of the images, (B,) int64.
        """
        return features.pooled[indices].float()

    def pool_texts(self, features: TextFeatures, indices: Tensor) -> Tensor:
        """Pooled features of a batch of texts, (B, 384) float32.

        Args:
            features: Features of N texts.
            indices: Indices of the texts, (B,) int64.
        """
        return features.pooled[indices]

    def images(self, features: ImageFeatures, indices: Tensor) -> Tensor:
        """L2-normalized embeddings of a batch of images.

        Args:
            features: Features of N images.
            indices: Indices of the images, (B,) int64.

        Returns:
            (B, D) float32.
        """
        pooled = self.dropout(self.pool_images(features, indices))
        return F.normalize(self.visual_projection(pooled), dim=-1)

    def texts(self, features: TextFeatures, indices: Tensor) -> Tensor:
        """L2-normalized embeddings of a batch of texts.

        Args:
            features: Features of N texts.
            indices: Indices of the texts, (B,) int64.

        Returns:
            (B, D) float32.
        """
        pooled = self.dropout(self.pool_texts(features, indices))
        return F.normalize(self.text_projection(pooled), dim=-1)

    @torch.no_grad()
    def all_images(self, features: ImageFeatures, batch_size: int = 256) -> Tensor:
        """L2-normalized embeddings of all images, (N, D) float32.

        Args:
            features: Features of N images.
            batch_size: Number of images encoded at once.
        """
        return torch.cat([self.images(features, part) for part in torch.arange(len(features)).split(batch_size)])

    @torch.no_grad()
    def all_texts(self, features: TextFeatures, batch_size: int = 256) -> Tensor:
        """L2-normalized embeddings of all texts, (N, D) float32.

        Args:
            features: Features of N texts.
            batch_size: Number of texts encoded at once.
        """
        lengths = features.starts.diff()
        order = lengths.argsort()
        embeds = torch.cat([self.texts(features, part) for part in order.split(batch_size)])
        return embeds[order.argsort()]


class UpperImageEncoder(Encoder):
    """Base of the encoders that run images through the upper layers of the image tower.

    Args:
        model: Teacher; the encoder shares its parameters.
        dropout: Dropout probability on pooled features while training.
    """

    def __init__(self, model: DCCLIPModel, dropout: float = 0.0):
        super().__init__(model, dropout)
        self.upper_image = UpperImageTower(model)

    def pool_images(self, features: ImageFeatures, indices: Tensor) -> Tensor:
        """Pooled features of a batch of images, (B, 1280) float32.

        Args:
            features: Features of N images.
            indices: Indices of the images, (B,) int64.
        """
        return self.upper_image(features.maps[indices].float())


class UpperEncoder(UpperImageEncoder):
    """Projections of the outputs of the trained upper layers.

    Args:
        model: Teacher; the encoder shares its parameters.
        num_text_layers: Number of trained text layers.
        dropout: Dropout probability on pooled features while training.
    """

    def __init__(self, model: DCCLIPModel, num_text_layers: int, dropout: float = 0.0):
        super().__init__(model, dropout)
        self.upper_text = UpperTextTower(model, num_text_layers)

    def pool_texts(self, features: TextFeatures, indices: Tensor) -> Tensor:
        """Pooled features of a batch of texts, (B, 384) float32.

        Args:
            features: Features of N texts.
            indices: Indices of the texts, (B,) int64.
        """
        # parts of similar length need less padding
        order = features.starts.diff()[indices].argsort()
        parts = [self.upper_text(*features.padded(indices[part].tolist())) for part in order.chunk(LENGTH_PARTS)]
        return torch.cat(parts)[order.argsort()]


class ImageEncoder(UpperImageEncoder):
    """Trains the upper image layers alone; the embeddings of texts are computed once.

    Args:
        model: Teacher; the encoder shares the parameters of the image tower.
        num_text_layers: Number of text layers above the stored features.
        dropout: Dropout probability on pooled features while training.
    """

    def __init__(self, model: DCCLIPModel, num_text_layers: int, dropout: float = 0.0):
        super().__init__(model, dropout)
        del self.text_projection  # it is not trained
        # in a list, because a module's attribute would be trained with it
        self._finished = [UpperEncoder(model, num_text_layers).eval()]
        self._embeds: dict[int, tuple[TextFeatures, Tensor]] = {}  # by identity; the features keep their ids alive

    def texts(self, features: TextFeatures, indices: Tensor) -> Tensor:
        """L2-normalized embeddings of a batch of texts.

        Args:
            features: Features of N texts.
            indices: Indices of the texts, (B,) int64.

        Returns:
            (B, D) float32 without a gradient.
        """
        if id(features) not in self._embeds:
            self._embeds[id(features)] = features, self._finished[0].all_texts(features)
        return self._embeds[id(features)][1][indices]
