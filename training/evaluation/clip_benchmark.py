"""Evaluate a model with the `clip-benchmark` package. `--model` is a folder or Hub id; all other options are its own.

python -m training.evaluation.clip_benchmark eval --model_type dcclip --model runs/demo/model --pretrained local
    --dataset cifar10 --dataset_root DIR --language en --no_amp --output cifar10.json
"""

import os

import torch
from clip_benchmark import cli
from clip_benchmark import models as registry
from clip_benchmark.metrics import zeroshot_classification
from PIL import Image
from torch import Tensor, nn
from transformers import BatchEncoding

from modeling_dcclip.image_dcclip import to_rgb
from training.evaluation.zero_shot_model import ZeroShotModel

MODEL_TYPE = "dcclip"


class BenchmarkModel(nn.Module):
    """The model interface of `clip-benchmark`: `encode_image` and `encode_text`."""

    def __init__(self, model: ZeroShotModel):
        super().__init__()
        self.zero_shot, self.network = model, model.model

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """Encode normalized images (B, 3, S, S) to (B, D), L2-normalized."""
        return self.zero_shot.embed_images(pixel_values).clone()  # the caller does not run in inference mode

    def encode_text(self, tokens: BatchEncoding) -> Tensor:
        """Encode the output of the tokenizer to (T, D), L2-normalized."""
        return self.zero_shot.embed_texts(dict(tokens)).clone()


def load_dcclip(
    model_name: str, pretrained: str = "", cache_dir: str | None = None, device: str | torch.device = "cpu"
) -> tuple:
    """Load a model with its image transform and tokenizer, as `clip_benchmark.models.load_clip` does.

    Args:
        model_name: Folder or Hub id; `ID@REVISION` pins a revision.
        pretrained: Label that `clip-benchmark` writes next to the name; unused.
        cache_dir: Folder for files from the Hub. Default: the cache of huggingface_hub.
        device: Device of the model.
    """
    if cache_dir is not None:
        os.environ["HF_HUB_CACHE"] = cache_dir
    model = ZeroShotModel.from_pretrained(model_name).to(device)

    def transform(image: Image.Image) -> Tensor:
        pixels = model.images.fit(to_rgb(image)).permute(2, 0, 1)
        return model.images.normalize(pixels[None])[0]

    return BenchmarkModel(model), transform, lambda texts: BatchEncoding(model.tokenize(texts))


def _accuracy(output: Tensor, target: Tensor, topk: tuple[int, ...] = (1,)) -> list[float]:
    """Top-k accuracy for each k, as in `clip-benchmark`."""
    correct = output.topk(max(topk), 1, True, True)[1].eq(target[:, None])  # (N, k)
    return [int(correct[:, :k].sum()) / len(target) for k in topk]


def register():
    """Add the model type `dcclip` to `clip-benchmark` in this process.

    The top-k accuracy of release 1.6.2 fails since NumPy 2.4 and is replaced if it does.
    """
    try:
        zeroshot_classification.accuracy(torch.eye(2), torch.arange(2), (1,))
    except TypeError:
        zeroshot_classification.accuracy = _accuracy
    registry.TYPE2FUNC[MODEL_TYPE] = load_dcclip
    if MODEL_TYPE not in registry.MODEL_TYPES:
        registry.MODEL_TYPES.append(MODEL_TYPE)


def main():
    """Run the command line of `clip-benchmark` with one more model type."""
    register()
    cli.main()


if __name__ == "__main__":
    main()
