"""Our models, and any other of `ZeroShotModel`, inside `clip-benchmark` (PyPI), through its own model interface.

`--model` names a folder or Hub id; all other options are those of `clip_benchmark`:

python -m training.evaluation.models.clip_benchmark eval --model_type dcclip --model runs/demo/model --pretrained local
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

from training.data import to_rgb
from training.evaluation.models.zero_shot_model import ZeroShotModel

MODEL_TYPE = "dcclip"


class BenchmarkModel(nn.Module):
    """What `clip-benchmark` asks of a model: `encode_image` and `encode_text`."""

    def __init__(self, model: ZeroShotModel):
        super().__init__()
        self.zero_shot, self.network = model, model.model

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) float images to (B, D), L2-normalised."""
        return self.zero_shot.embed_images(pixel_values).clone()  # its caller is no inference mode

    def encode_text(self, tokens: BatchEncoding) -> Tensor:
        """What the tokenizer returns to (T, D), L2-normalised."""
        return self.zero_shot.embed_texts(dict(tokens)).clone()


def load_dcclip(
    model_name: str, pretrained: str = "", cache_dir: str | None = None, device: str | torch.device = "cpu"
) -> tuple:
    """A model, its transform of an image and its tokenizer, as `clip_benchmark.models.load_clip` returns them.

    Args:
        model_name: folder or Hub id, `ID@REVISION` to pin one.
        pretrained: what `clip-benchmark` writes beside the name; the name says it all.
        cache_dir: where the Hub's files are kept. Default: where they always are.
        device: where it runs.
    """
    if cache_dir is not None:
        os.environ["HF_HUB_CACHE"] = cache_dir
    model = ZeroShotModel.from_pretrained(model_name).to(device)

    def transform(image: Image.Image) -> Tensor:
        pixels = model.images.fit(to_rgb(image)).permute(2, 0, 1)
        return model.images.normalize(pixels[None])[0]

    return BenchmarkModel(model), transform, lambda texts: BatchEncoding(model.tokenize(texts))


def _accuracy(output: Tensor, target: Tensor, topk: tuple[int, ...] = (1,)) -> list[float]:
    """The peer's own top-k, share by share, without its detour over an array of one number."""
    right = output.topk(max(topk), 1, True, True)[1].eq(target[:, None])
    return [int(right[:, :k].sum()) / len(target) for k in topk]


def register() -> None:
    """Make `--model_type dcclip` known to `clip-benchmark` in this process.

    Its release 1.6.2 turns an array of one dimension into a number, which NumPy refuses since 2.4: there, and only
    there, its top-k is computed without that.
    """
    try:
        zeroshot_classification.accuracy(torch.eye(2), torch.arange(2), (1,))
    except TypeError:
        zeroshot_classification.accuracy = _accuracy
    registry.TYPE2FUNC[MODEL_TYPE] = load_dcclip
    if MODEL_TYPE not in registry.MODEL_TYPES:
        registry.MODEL_TYPES.append(MODEL_TYPE)


def main() -> None:
    """`clip-benchmark`'s own command line, with one more model type."""
    register()
    cli.main()


if __name__ == "__main__":
    main()
