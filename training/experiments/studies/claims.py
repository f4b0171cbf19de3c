r"""Test the paper's claims: both stages are needed, and feature maps teach more than embeddings and logits.

Examples:
  python -m training.experiments.studies claims --photos DATA
  python -m training.experiments.studies claims --photos DATA --seeds 1 --distill_steps 20 --rates 1e-3

Stage 1 trains each tower apart, on photographs with and without captions and on texts with and without images. Stage 2
is InfoNCE alone. Every arm of a start and a seed has the same initial weights, and the learning rate of each stage is
tuned in every arm with all pairs: stage 1 on the held-out loss of its own target, stage 2 on the recall of held-out
photographs. Held-out data are a part of the training data; results are measured on validation and test sets.

The text tower starts at random. The image tower starts from ImageNet's weights, and its lower layers keep them; or it
is smaller and starts at random. Stage 2 alone has as many steps as both stages together, or as much time, the
teacher's for its targets included.

The study takes hours. An interrupted one continues with the run that was not finished.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import pandas
import torch
import torch.nn.functional as F
from datasets import Dataset, Image, concatenate_datasets
from pydantic import Field
from safetensors.torch import load_file, save_file
from scipy import stats
from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.config import StudentConfig
from training.data import evenly_spaced_rows, load_source, tokenize, usable_captions
from training.data.images import Normalize
from training.evaluation import retrieval
from training.evaluation.classify import class_embeddings, measure
from training.evaluation.metrics import top_k_accuracy
from training.evaluation.retrieval import open_retrieval_set
from training.experiments.corpus.pretrained import LITE0, EfficientNetLite
from training.experiments.studies.harness import Study, StudyOptions, mean_and_spread
from training.students import build_student
from training.tasks.losses import bank_loss, embedding_loss, feature_map_loss, info_nce
from training.teachers import DualEncoder
from training.teachers.images import ImagePreparation, prepared_batches
from training.teachers.lineage import weights_fingerprint
from training.teachers.preparation import square_image_processor
from training.teachers.targets import resample_map
from training.text.writing_systems import LANGUAGES
from training.utils.files import atomic_write
from training.utils.keys import digest_file, digest_key, no_key
from training.utils.process import interleaved_ms
from training.utils.ranges import Count, Pixels, Positive, Seed
from training.utils.results import Results, Row, markdown_table

PAIRS = "photos_flickr8k_train.parquet"
MORE_PHOTOS = "photos_coco_unlabelled.parquet"
MORE_TEXTS = ("captions_text_en_zh.parquet", "sentences_tatoeba_en_zh.parquet")
RETRIEVAL = "photos_flickr8k_validation.parquet"
LABELED = {"cifar-10": "cifar10_test.parquet", "tiny-imagenet": "tiny_imagenet_val.parquet"}
NUM_LABELED = 2000  # evenly spaced images of each labeled set
NUM_HELD_OUT, HELD_OUT_AT_ONCE = 500, 100  # photographs with captions, and texts
NUM_PHOTOS = 3000  # without captions
NUM_TEXTS = 40000
NUM_CAPTIONS = 5  # of a photograph and language
NUM_BANK = 2048  # texts, or photographs, that logits compare with
MAX_LENGTH = 24  # tokens
# of the image towers, as ImageNet's weights were trained
IMAGE_MEAN = IMAGE_STD = [0.5, 0.5, 0.5]
TEMPLATES = {"en": ("{}", "a photo of a {}"), "zh": ("{}", "一张{}的照片")}
TUNING, COSTS = "tuning", "costs"
HELD_OUT_LOSS = "held_out_loss"
COST_ROUNDS = 7
TUNING_SEED = 0  # also the first of the default seeds, whose stage 1 is then trained once
TEXT_START = "random"  # of the text tower, which does not depend on the image tower
# weights of the losses of stage 1. With weight 1, maps dominate the gradients of embeddings
TARGETS = {
    "map": {"map": 1.0},
    "map + embedding": {"map": 0.1, "embedding": 1.0},
    "embedding": {"embedding": 1.0},
    "logits": {"logits": 1.0},
}
BEST = "map + embedding"  # stage 1 of the arms with fewer pairs
TEXT_CONFIG = {
    "model_type": "bert",
    "hidden_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 768,
    "max_position_embeddings": MAX_LENGTH,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


@dataclass(frozen=True)
class Start:
    """Initial weights of the image tower.

    Args:
        architecture: Name of the architecture in timm.
        pretrained: Tower whose weights it has. Default: random weights.
        frozen: Prefixes of the layers that are not trained.
    """

    architecture: str
    pretrained: EfficientNetLite | None = None
    frozen: tuple[str, ...] = ()


LOWER_LAYERS = ("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2")
STARTS = {
    "ImageNet": Start(
        LITE0.architecture,
        LITE0,
        tuple(f"vision_model.timm_model.{name}." for name in LOWER_LAYERS),
    ),
    "random": Start("mobilenetv4_conv_small_050"),
}
# of the weights of a tower
PREFIXES = {
    "vision": ("vision_model.", "visual_projection."),
    "text": ("text_model.", "text_projection."),
}


@dataclass(frozen=True)
class Arm:
    """One way to train the student.

    Args:
        target: What stage 1 matches; None for stage 2 alone.
        aligned: Whether stage 2 follows.
        share: Stage 2 has all pairs divided by this number.
        equal_time: Whether stage 2 alone has the time of both stages, not their steps.
    """

    target: str | None
    aligned: bool = True
    share: int = 1
    equal_time: bool = False

    @property
    def name(self) -> str:
        """Name in the results."""
        if self.target is None:
            name = f"stage 2 alone, equal {'time' if self.equal_time else 'steps'}"
        else:
            name = f"{self.target}, {'both stages' if self.aligned else 'stage 1'}"
        return name if self.share == 1 else f"{name}, 1/{self.share} of the pairs"


def arms_of(shares: Sequence[int]) -> list[Arm]:
    """All arms. A map alone trains no projection, so its embeddings are not measured before stage 2."""
    arms = [Arm(target, aligned=False) for target in TARGETS if target != "map"]
    arms += [Arm(target) for target in TARGETS]
    arms += [Arm(None), Arm(None, equal_time=True)]
    for share in shares:
        arms += [Arm(BEST, share=share), Arm(None, share=share)]
    return arms


@dataclass(frozen=True, kw_only=True)
class Options(StudyOptions):
    """What to train, and how long.

    Args:
        photos: Folder with the data files of `python -m training.experiments.photographs`, and with CIFAR-10 and Tiny
            ImageNet as `cifar10_test.parquet` and `tiny_imagenet_val.parquet`.
        teacher: Folder of the teacher.
        image_size: Edge of the student's images in pixels.
        distill_steps: Optimizer steps of each tower in stage 1.
        align_steps: Optimizer steps of stage 2 after stage 1.
        batch_size: Photographs in a batch; a batch of texts has twice as many.
        rates: Learning rates to choose from.
        shares: Stage 2 has all pairs divided by each of these numbers.
        seeds: Seeds of the initial weights, the batches and the choice of pairs.
    """

    photos: str = no_key()
    teacher: str = no_key(default="model_cards/dcclip-tiny-photo")
    image_size: Pixels = 96
    distill_steps: Count = 200
    align_steps: Count = 100
    batch_size: Annotated[Count, Field(ge=2)] = 64
    rates: list[Positive] = field(default_factory=lambda: [3e-4, 1e-3, 3e-3])
    shares: list[Count] = field(default_factory=lambda: [4, 16])
    seeds: list[Seed] = no_key(default_factory=lambda: [0, 1, 2])
    output_dir: str = no_key(default="runs/studies/claims")


@dataclass(frozen=True)
class Examples:
    """Inputs of one tower with the teacher's targets. The first `NUM_HELD_OUT` are held out.

    Args:
        inputs: Images, (N, 3, S, S) uint8, or token ids, (N, L) int64.
        maps: Feature maps of the teacher at P positions, (N, P, C) float16.
        embeddings: Embeddings of the teacher, (N, D) float16.
    """

    inputs: Tensor
    maps: Tensor
    embeddings: Tensor


class Experiment:
    """Data in memory, and the runs on them.

    Args:
        options: Options of the study.
        study: Results.
        teacher: Teacher.
    """

    def __init__(self, options: Options, study: Study, teacher: DualEncoder):
        self.options, self.study = options, study
        self.photos = Path(options.photos).expanduser()
        self.cache = study.folder / "cache" / digest_key(study.results.meta["settings"])[:16]
        self.cache.mkdir(parents=True, exist_ok=True)
        self.teacher, self.tokenizer = teacher, teacher.tokenizer
        self.pad = self.tokenizer.pad_token_id
        size = options.batch_size
        self.batch_sizes = {"vision": size, "text": size * len(LANGUAGES)}
        self.normalize = Normalize(options.image_size, tuple(IMAGE_MEAN), tuple(IMAGE_STD))
        pairs = self._load(PAIRS)
        self.examples = {"vision": self._images(pairs), "text": self._texts(pairs)}
        self.captions = {each: self._captions(pairs[each]) for each in LANGUAGES}
        self.retrieval = open_retrieval_set("flickr8k", str(self.photos / RETRIEVAL))
        self.labeled = {name: self._load(file) for name, file in LABELED.items()}

    # data

    def _load(self, file: str) -> Dataset:
        return load_source(str(self.photos / file), field="photos")

    def _cached(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        path = self.cache / f"{name}.safetensors"
        if not path.exists():
            tensors = make()
            with atomic_write(path) as scratch:
                save_file({key: each.contiguous() for key, each in tensors.items()}, scratch)
        return load_file(path)

    def _images(self, pairs: Dataset) -> Examples:
        """Photographs with captions first, then others."""
        others = self._load(MORE_PHOTOS)
        others = others.select(evenly_spaced_rows(len(others), NUM_PHOTOS))
        rows = concatenate_datasets([_undecoded(pairs), _undecoded(others)])
        size = self.options.image_size
        small = ImagePreparation(size, self.normalize, "", squashes=True)
        large = self.teacher.images
        edge = math.ceil(size / 32)  # of the feature maps of both image towers

        def make() -> dict[str, Tensor]:
            pixels = torch.cat(list(prepared_batches(rows, "image", 64, small.fit)))
            maps, embeddings = [], []
            for batch in prepared_batches(rows, "image", 64, large.fit):
                targets = self.teacher.image_targets(large.normalize(batch))
                resampled = resample_map(targets.required_map, (edge, edge)).flatten(2)
                maps.append(resampled.transpose(1, 2).half())  # (B, H x W, C)
                embeddings.append(targets.embedding.half())
            return {
                "inputs": pixels,
                "maps": torch.cat(maps),
                "embeddings": torch.cat(embeddings),
            }

        return Examples(**self._cached(f"images-{size}", make))

    def _texts(self, pairs: Dataset) -> Examples:
        """Evenly spaced texts of each source and language: captions, and texts without photographs."""
        sources = [pairs.select(range(NUM_HELD_OUT, len(pairs)))]
        for name in MORE_TEXTS:
            sources.append(self._load(name))
        most = NUM_TEXTS // (len(sources) * len(LANGUAGES))
        texts: list[str] = []
        for rows, language in itertools.product(sources, LANGUAGES):
            found = []
            for cell in rows[language]:
                found += usable_captions(cell)[0]
            numbers = evenly_spaced_rows(len(found), min(most, len(found)))
            texts += [found[number] for number in numbers]
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))
        texts = [texts[number] for number in order.tolist()]

        def make() -> dict[str, Tensor]:
            ids = tokenize(self.tokenizer, texts, MAX_LENGTH)["input_ids"]
            maps, embeddings = [], []
            for part in ids.split(256):
                targets = self.teacher.text_targets(part, self._mask(part))
                maps.append(targets.required_map.half())
                embeddings.append(targets.embedding.half())
            return {"inputs": ids, "maps": torch.cat(maps), "embeddings": torch.cat(embeddings)}

        return Examples(**self._cached("texts", make))

    def _captions(self, cells: Sequence[list[str]]) -> Tensor:
        """Token ids of the captions of each photograph, (N, NUM_CAPTIONS, L); fewer are repeated."""
        texts = []
        for cell in cells:
            texts += (cell * NUM_CAPTIONS)[:NUM_CAPTIONS]
        ids = tokenize(self.tokenizer, texts, MAX_LENGTH)["input_ids"]
        ids = F.pad(ids, (0, MAX_LENGTH - ids.shape[1]), value=self.pad)
        return ids.unflatten(0, (-1, NUM_CAPTIONS))

    def _mask(self, ids: Tensor) -> Tensor:
        return (ids != self.pad).long()

    # models

    def student(self, start: str, seed: int) -> tuple[DCCLIPModel, DCCLIPProcessor]:
        """The initial student, the same in every arm."""
        vision = {
            "model_type": "timm_wrapper",
            "architecture": STARTS[start].architecture,
            "do_pooling": False,
        }
        config = StudentConfig(
            vision_config=vision,
            text_config=TEXT_CONFIG,
            tokenizer=self.options.teacher,
            image_size=self.options.image_size,
            image_mean=IMAGE_MEAN,
            image_std=IMAGE_STD,
            max_text_length=MAX_LENGTH,
            projection_dim=self.teacher.projection_dim,
        )
        model, processor = build_student(config, list(LANGUAGES), seed=seed)
        if pretrained := STARTS[start].pretrained:
            pretrained.load_into(model.vision_model)
        processor.image_processor = square_image_processor(
            self.options.image_size, IMAGE_MEAN, IMAGE_STD, squash=True
        )
        if start != TEXT_START:
            same = tower_weights(self.student(TEXT_START, seed)[0], "text")
            model.load_state_dict(same, strict=False)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-arg]
        return model, processor

    def encode(
        self, model: DCCLIPModel, tower: str, inputs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Feature maps, (B, P, C), embeddings, (B, D), and the mask of a text's positions, (B, P)."""
        if tower == "vision":
            images = model.get_image_features(self.normalize(inputs))
            return images.feature_map.flatten(2).transpose(1, 2), images.pooler_output, None
        mask = self._mask(inputs)
        length = int(mask.sum(1).max())
        texts = model.get_text_features(inputs[:, :length], mask[:, :length])
        return texts.last_hidden_state, texts.pooler_output, mask[:, :length]

    def embed(self, model: DCCLIPModel, tower: str, inputs: Tensor) -> Tensor:
        """Embeddings, (B, D), L2-normalized."""
        return F.normalize(self.encode(model, tower, inputs)[1], dim=-1)

    def fit(
        self,
        model: DCCLIPModel,
        more: Iterable[Tensor],
        towers: Iterable[str],
        start: str,
        loss: Callable[[Tensor], Tensor],
        batches: Sequence[Tensor],
        rate: float,
    ):
        """Train towers.

        Args:
            model: Student.
            more: Further parameters to train.
            towers: Names of the towers.
            start: Name of the start, whose frozen layers are not trained.
            loss: Loss of the rows of a batch.
            batches: Row numbers of the batch of each step.
            rate: Peak learning rate.
        """
        frozen = STARTS[start].frozen
        prefixes = tuple(prefix for tower in towers for prefix in PREFIXES[tower])
        for name, parameter in model.named_parameters():
            learns = name.startswith((*prefixes, "logit_scale")) and not name.startswith(frozen)
            parameter.requires_grad_(learns)
        model.train()
        for name, module in model.named_modules():
            if f"{name}.".startswith(frozen):
                module.eval()
        trained = [each for each in (*model.parameters(), *more) if each.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
        steps = len(batches)
        warmup = math.ceil(steps / 10)

        def share_of_rate(step: int) -> float:
            return min(1.0, (step + 1) / warmup) * (1 + math.cos(math.pi * step / steps)) / 2

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share_of_rate)
        for rows in batches:
            optimizer.zero_grad()
            loss(rows).backward()
            nn.utils.clip_grad_norm_(trained, 3.0)
            optimizer.step()
            schedule.step()
        model.eval()

    # stage 1

    def distill(
        self, start: str, tower: str, target: str, rate: float, seed: int
    ) -> dict[str, Tensor]:
        """Train one tower, or open the result of an earlier run.

        Returns:
            Weights of the tower by name, and `held_out_loss`.
        """

        def make() -> dict[str, Tensor]:
            model, _ = self.student(start, seed)
            adapter, loss = self.stage1_loss(model, tower, target)
            rows = torch.arange(NUM_HELD_OUT, len(self.examples[tower].inputs))
            steps = self.options.distill_steps
            batches = draw_batches(rows, self.batch_sizes[tower], steps, seed)
            self.fit(model, adapter.parameters(), [tower], start, loss, batches, rate)
            with torch.no_grad():
                parts = torch.arange(NUM_HELD_OUT).split(HELD_OUT_AT_ONCE)
                value = torch.stack([loss(part) for part in parts]).mean()
            return tower_weights(model, tower) | {HELD_OUT_LOSS: value}

        name = f"{tower}-{start}-{target}-{rate:g}-{seed}".replace(" ", "")
        return self._cached(name, make)

    def stage1_loss(
        self, model: DCCLIPModel, tower: str, target: str
    ) -> tuple[nn.Linear, Callable[[Tensor], Tensor]]:
        """The adapter of the feature map, and the loss of some rows of the examples."""
        examples = self.examples[tower]
        others = self.examples["text" if tower == "vision" else "vision"].embeddings
        bank = others[NUM_HELD_OUT : NUM_HELD_OUT + NUM_BANK].float()
        width = int(getattr(model.config, f"{tower}_width") or 0)
        adapter = nn.Linear(width, examples.maps.shape[-1])
        scale = math.exp(self.teacher.logit_scale)

        def loss(rows: Tensor) -> Tensor:
            maps, embeddings, mask = self.encode(model, tower, examples.inputs[rows])
            teacher_maps = examples.maps[rows, : maps.shape[1]].float()
            teacher = examples.embeddings[rows].float()
            losses = {
                "map": lambda: feature_map_loss(adapter(maps), teacher_maps, mask, dim=-1),
                "embedding": lambda: embedding_loss(embeddings, teacher),
                "logits": lambda: bank_loss(embeddings, teacher, bank, scale),
            }
            weighted = [weight * losses[name]() for name, weight in TARGETS[target].items()]
            return torch.stack(weighted).sum()

        return adapter, loss

    # stage 2

    def stage2_loss(
        self, model: DCCLIPModel, steps: int, seed: int, share: int = 1
    ) -> tuple[list[Tensor], Callable[[Tensor], Tensor]]:
        """Batches from a share of the pairs that the seed draws, and their InfoNCE in both languages."""
        generator = torch.Generator().manual_seed(seed)
        num_pairs = len(self.captions["en"]) - NUM_HELD_OUT
        pairs = torch.randperm(num_pairs, generator=generator)[: num_pairs // share] + NUM_HELD_OUT
        size = min(self.options.batch_size, len(pairs))
        batches = draw_batches(pairs, size, steps, seed)
        own = torch.eye(size, dtype=torch.bool)

        def loss(rows: Tensor) -> Tensor:
            images = self.examples["vision"].inputs[rows]
            flipped = torch.rand(size, 1, 1, 1, generator=generator) < 0.5
            image = self.embed(model, "vision", torch.where(flipped, images.flip(3), images))
            number = torch.randint(NUM_CAPTIONS, (size,), generator=generator)
            texts = torch.cat([captions[rows, number] for captions in self.captions.values()])
            scale = model.logit_scale.exp().clamp(max=100)
            parts = self.embed(model, "text", texts).split(size)
            return torch.stack([info_nce(image, part, scale, own) for part in parts]).mean()

        return batches, loss

    # arms

    def train(self, arm: Arm, start: str, seed: int, rate: float = 0.0) -> DualEncoder:
        """Train an arm with tuned rates, or stage 2 with a given one."""
        model, processor = self.student(start, seed)
        if arm.target is not None:
            for tower in PREFIXES:
                own_start = start_of(tower, start)
                first_rate = self.first_rate(arm.target, own_start, tower)
                weights = self.distill(own_start, tower, arm.target, first_rate, seed)
                del weights[HELD_OUT_LOSS]
                model.load_state_dict(weights, strict=False)
        if arm.aligned:
            steps = self.steps(arm, start)
            batches, loss = self.stage2_loss(model, steps, seed, arm.share)
            rate = rate or self.second_rate(arm, start)
            self.fit(model, [], PREFIXES, start, loss, batches, rate)
        return DualEncoder(model.eval(), processor, arm.name)

    def first_rate(self, target: str, start: str, tower: str) -> float:
        """The rate of stage 1 with the lowest loss on held-out data."""

        def score(rate: float) -> float:
            run = self.distill(start, tower, target, rate, TUNING_SEED)
            return -float(run[HELD_OUT_LOSS])

        return self._best_rate(f"{target}, stage 1 of {tower}", start, score)

    def second_rate(self, arm: Arm, start: str) -> float:
        """The rate of stage 2 with the highest recall on held-out photographs, with all pairs."""
        arm = replace(arm, share=1)

        def score(rate: float) -> float:
            return self.held_out_recall(self.train(arm, start, TUNING_SEED, rate).model)

        return self._best_rate(arm.name, start, score)

    def _best_rate(self, name: str, start: str, score: Callable[[float], float]) -> float:
        """The rate with the highest score on held-out data. Every score is computed once, and recorded."""
        scores = {}
        for rate in self.options.rates:
            model = f"{name}, rate {rate:g}"
            if not self.study.has(model=model, protocol=start):
                self._record(model, start, {"held_out_score": score(rate)})
            (scores[rate],) = self.study.results.values(model=model, protocol=start)
        return max(scores, key=scores.__getitem__)

    def _record(self, name: str, start: str, values: dict[str, float]):
        rows = []
        for metric, value in values.items():
            row = Row(model=name, metric=metric, value=value, protocol=start, stage=TUNING)
            rows.append(row)
        self.study.add(rows)

    def steps(self, arm: Arm, start: str) -> int:
        """Steps of stage 2 of an arm."""
        first, second = self.options.distill_steps, self.options.align_steps
        if not arm.equal_time:
            return second if arm.target else first + second
        if not self.study.has(model=COSTS, protocol=start):
            self._record(COSTS, start, self.measure_costs(start))
        step = self._cost("pairs", start)
        total = second * step
        for tower, size in self.batch_sizes.items():
            batches = len(self.examples[tower].inputs) / size
            total += first * self._cost(tower, start)
            total += batches * self._cost(f"teacher, {tower}", start)
        return round(total / step)

    def _cost(self, name: str, start: str) -> float:
        return self.study.results.mean(model=COSTS, protocol=start, metric=name) or 0.0

    def measure_costs(self, start: str) -> dict[str, float]:
        """Milliseconds of a step of each kind, and of the teacher for a batch of images or of texts.

        They take turns, so that other load on the machine affects all of them; each is the median.
        """
        model, _ = self.student(start, TUNING_SEED)
        size = self.teacher.image_size
        pixels = torch.rand(self.batch_sizes["vision"], 3, size, size)
        ids = self.examples["text"].inputs[: self.batch_sizes["text"]]
        batches, align_loss = self.stage2_loss(model, 1, TUNING_SEED)
        calls: dict[str, Callable[[], object]] = {
            "pairs": partial(self.fit, model, [], PREFIXES, start, align_loss, batches, 1e-5),
            "teacher, vision": lambda: self.teacher.image_targets(pixels),
            "teacher, text": lambda: self.teacher.text_targets(ids, self._mask(ids)),
        }
        for tower, size in self.batch_sizes.items():
            adapter, loss = self.stage1_loss(model, tower, BEST)
            more = list(adapter.parameters())
            batches = [torch.arange(size)]
            calls[tower] = partial(self.fit, model, more, [tower], start, loss, batches, 1e-5)
        times = interleaved_ms(calls, COST_ROUNDS)
        return {name: round(statistics.median(values), 3) for name, values in times.items()}

    # measurement

    @torch.inference_mode()
    def held_out_recall(self, model: DCCLIPModel) -> float:
        """Mean recall at 10 of held-out photographs and their first captions, over directions and languages."""
        labels = torch.arange(NUM_HELD_OUT)
        images = self._embed_held_out(model, "vision", self.examples["vision"].inputs)
        recalls = []
        for captions in self.captions.values():
            similarities = images @ self._embed_held_out(model, "text", captions[:, 0]).T
            recalls.append(top_k_accuracy(similarities, labels, 10))
            recalls.append(top_k_accuracy(similarities.T, labels, 10))
        return statistics.fmean(recalls)

    def _embed_held_out(self, model: DCCLIPModel, tower: str, inputs: Tensor) -> Tensor:
        parts = inputs[:NUM_HELD_OUT].split(HELD_OUT_AT_ONCE)
        return torch.cat([self.embed(model, tower, part) for part in parts])

    def measure(
        self, model: DualEncoder, name: str, start: str | None, seed: int | None
    ) -> list[Row]:
        """Recall at 10 on validation photographs, and top-1 on labeled images, in both languages."""
        rows = retrieval.measure(model, self.retrieval, name, ks=(10,), seed=seed)
        for set_name, labeled in self.labeled.items():
            classes = sorted(set(labeled["label"]))
            chosen = labeled.select(evenly_spaced_rows(len(labeled), NUM_LABELED))
            labels = torch.tensor([classes.index(label) for label in chosen["label"]])
            images = model.encode_images(chosen)
            for language in LANGUAGES:
                class_names = dict(zip(labeled["label"], labeled[language], strict=True))
                texts = class_embeddings(
                    model, [class_names[each] for each in classes], TEMPLATES[language]
                )
                found = measure(images, texts, labels, ("top1",))
                rows += found.rows(model=name, set=set_name, language=language, seed=seed)
        return [replace(row, protocol=start) for row in rows]


def _undecoded(rows: Dataset) -> Dataset:
    return rows.select_columns(["image"]).cast_column("image", Image(decode=False))


def tower_weights(model: DCCLIPModel, tower: str) -> dict[str, Tensor]:
    """Weights of a tower and of its projection."""
    weights = model.state_dict()
    return {name: weights[name] for name in weights if name.startswith(PREFIXES[tower])}


def start_of(tower: str, start: str) -> str:
    """Start of a tower: the text tower does not depend on the image tower's."""
    return start if tower == "vision" else TEXT_START


def draw_batches(rows: Tensor, size: int, steps: int, seed: int) -> list[Tensor]:
    """Row numbers of each batch: all rows in random order, and again for each epoch."""
    generator = torch.Generator().manual_seed(seed)
    whole = len(rows) - len(rows) % size  # of full batches
    parts: list[Tensor] = []
    while len(parts) < steps:
        order = torch.randperm(len(rows), generator=generator)[:whole]
        parts += rows[order].split(size)
    return parts[:steps]


# what is compared: the claim, the arm that it says is better, and the other one
CLAIMS = (
    ("Both stages beat stage 2 alone, equal steps", Arm(BEST), Arm(None)),
    ("Both stages beat stage 2 alone, equal time", Arm(BEST), Arm(None, equal_time=True)),
    ("The same with 1/16 of the pairs, equal steps", Arm(BEST, share=16), Arm(None, share=16)),
    ("Both stages beat stage 1 alone", Arm(BEST), Arm(BEST, aligned=False)),
    ("Feature maps teach more than logits", Arm("map"), Arm("logits")),
    ("Feature maps teach more than embeddings", Arm("map"), Arm("embedding")),
    ("Feature maps add to embeddings", Arm(BEST), Arm("embedding")),
)
SETS = {"flickr8k": "Recall at 10", "cifar-10": "CIFAR-10", "tiny-imagenet": "Tiny ImageNet"}


def rows_of_arms(results: Results) -> list[Row]:
    """Results of the arms, without the teacher's and those of tuning."""
    return [row for row in results.rows if row.set in SETS and row.seed is not None]


def arms_measured(results: Results) -> list[tuple[str, str]]:
    """Start and name of each arm that has results, in the order of the study."""
    return list(dict.fromkeys((str(row.protocol), row.model) for row in rows_of_arms(results)))


def by_seed(results: Results, *keys: str) -> pandas.Series:
    """Values of the arms by start, arm, set, further keys, and seed: means over what is not a key."""
    rows = pandas.DataFrame(map(vars, rows_of_arms(results)))
    return rows.groupby(["protocol", "model", "set", *keys, "seed"])["value"].mean()


def table(results: Results) -> str:
    """Markdown table of all arms, in percent: mean over seeds and standard deviation, in English / Chinese."""
    values = by_seed(results, "language")
    lines = [["Start, arm", *(f"{title}, en / zh" for title in SETS.values())]]
    lines.append(["---", *["---:"] * len(SETS)])
    for start, name in arms_measured(results):
        cells = [f"{start}: {name}"]
        for of in SETS:
            figures = []
            for language in LANGUAGES:
                found = values.get((start, name, of, language), [])
                figures.append(mean_and_spread(list(found)))
            cells.append(" / ".join(figures))
        lines.append(cells)
    return markdown_table(lines)


def verdicts(results: Results) -> str:
    """Markdown table of the claims: difference in points with its 95 % interval over seeds, and what follows.

    A claim holds if its interval is above 0, and is refuted if it is below 0. Otherwise the study leaves it open.
    """
    values = by_seed(results)
    none = pandas.Series(dtype=float)
    lines = [["Claim, start", *SETS.values()], ["---", *["---:"] * len(SETS)]]
    for (claim, better, worse), start in itertools.product(CLAIMS, STARTS):
        cells = [f"{claim}, {start}"]
        for of in SETS:
            first = values.get((start, better.name, of), none)
            second = values.get((start, worse.name, of), none)
            differences = 100 * (first - second)
            cells.append(_verdict(differences.dropna()))
        lines.append(cells)
    return markdown_table(lines)


def _verdict(differences: pandas.Series) -> str:
    if len(differences) < 2:
        return "-"
    mean, error = differences.mean(), differences.sem()
    half = float(stats.t.ppf(0.975, len(differences) - 1)) * error
    outcome = "open"
    if mean > half:
        outcome = "yes"
    elif mean < -half:
        outcome = "no"
    return f"{mean:+z.1f} ± {half:.1f}: {outcome}"  # z: no -0.0


def plot(results: Results, folder: Path):
    """Draw recall at 10 of all arms, a panel for each start: the mean, and the range over seeds."""
    values = by_seed(results, "language")
    rows = []
    for (start, name), language in itertools.product(arms_measured(results), LANGUAGES):
        recalls = values[start, name, "flickr8k", language]
        row = Row(
            model=f"Recall at 10, image tower: {start}",
            metric="",  # it is part of the title
            value=recalls.mean(),
            interval=(recalls.min(), recalls.max()),
            set=name,
            language=language,
        )
        rows.append(row)
    Results({}, rows).plot(folder)


def run(options: Options):
    """Train and measure every arm, and print the tables."""
    photos = Path(options.photos).expanduser()
    names = (PAIRS, MORE_PHOTOS, *MORE_TEXTS, RETRIEVAL, *LABELED.values())
    if missing := [name for name in names if not (photos / name).is_file()]:
        raise ValueError(f"photos: {options.photos!r} lacks {', '.join(missing)}. Add these files.")
    digests = {name: digest_file(photos / name) for name in names}
    teacher = DualEncoder.from_pretrained(options.teacher, field="teacher")
    # a result is the same wherever data and teacher are
    study = Study(
        "claims",
        options,
        options.photos,
        digests=digests,
        weights=weights_fingerprint(teacher.model),
    )
    experiment = Experiment(options, study, teacher)
    if not study.has(model="teacher", set="flickr8k"):
        study.add(experiment.measure(teacher, "teacher", None, None))
    for seed, start, arm in itertools.product(options.seeds, STARTS, arms_of(options.shares)):
        if study.has(model=arm.name, protocol=start, seed=seed):
            continue
        model = experiment.train(arm, start, seed)
        study.add(experiment.measure(model, arm.name, start, seed))
    plot(study.results, study.folder)
    study.finish(f"{table(study.results)}\n\n{verdicts(study.results)}")
