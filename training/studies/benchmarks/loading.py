"""What the data cost: streamed tar shards and parquet against plain Pillow, and against tensors that are ready.

    python -m training.studies.benchmarks.loading --output_dir runs/loading

The same images lie as tar shards, as a parquet file and as plain files. The loaders' rates are of the whole batch,
the captions' tokens included; plain Pillow opens each image, converts it to RGB, resizes, crops and makes a tensor:
from the plain files, and from the tar shards with Python's `tarfile`. All of this is on one thread. The steps are
stage 2's: forward, backward and optimizer, on batches that wait in a list and on batches as they come from the stream,
on all threads. Each ratio is the median over rounds in which both take turns.

The embedded corpus is drawn at 256 pixels for `tiny`, as images are stored that train at 224, and at 96 for the
demo's student, as the demo has it: what a sample costs beside its decoding weighs most on small images.
"""

import shutil
import statistics
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from datasets import Image
from jsonargparse import ArgumentParser
from PIL import Image as PILImage
from torch import Tensor

from training.config import CONFIGS, AlignRecipe, AugmentConfig, DataConfig, StudentConfig, parse_recipe
from training.corpus.emoji import ATTRIBUTION, DEFAULT_CACHE, build_corpus
from training.data import CaptionTokens, Order, load_source, make_loader
from training.data.images import encoded_bytes
from training.data.transforms import Augment, Normalize
from training.engine.inputs import open_pairs
from training.students import build_student, load_size
from training.studies.benchmarks.benchmark import TOKENIZER, Benchmark
from training.tasks import AlignTask
from training.text.writing_systems import LANGUAGES
from training.utils.results import RESULTS_FILE, Results
from training.utils.timing import on_threads

MODULE = "training.studies.benchmarks.loading"
PREFETCHED = 2  # batches that each decoding process is ahead, as DataLoader has it
STUDENTS = {"tiny": 256, "demo": 96}  # and the edge in pixels at which the embedded corpus is drawn for them


@dataclass(frozen=True, kw_only=True)
class LoadingOptions:
    """What to measure.

    Args:
        data: images with the columns `image`, `en` and `zh`, as in a recipe's `data.train`; None draws the embedded
            corpus at the size that fits each student.
        num_images: of these, of a round.
        num_shards: that they lie in.
        batch_size: of all measurements.
        steps: of stage 2 in a round.
        rounds: of which the median counts.
        workers: decoding processes beside the steps, as in a recipe; 0 decodes between them.
        students: sizes to train: `tiny` at 224 pixels, and the demo's.
        output_dir: results.json, and the images, which are removed at the end.
    """

    data: str | None = None
    num_images: int = 1024
    num_shards: int = 4
    batch_size: int = 32
    steps: int = 4
    rounds: int = 15
    workers: int = 0
    students: list[str] = field(default_factory=lambda: list(STUDENTS))
    output_dir: str = "runs/loading"


class LoadingBenchmark(Benchmark):
    """One run.

    Args:
        options: what to measure.
    """

    def __init__(self, options: LoadingOptions):
        super().__init__(MODULE, options)
        self.scratch = self.folder / "images"

    def run(self) -> Results:
        """Everything, in one go."""
        for name in self.options.students:
            config = student_config(name)
            shutil.rmtree(self.scratch, ignore_errors=True)
            self.extension = write_images(self.options, name, self.scratch)
            with on_threads(1):
                self.compare_decoding(name, config)
            self.compare_steps(name, config)
        results = self.write(data=self.options.data or ATTRIBUTION)
        shutil.rmtree(self.scratch)
        return results

    def data(self, kind: str) -> DataConfig:
        """The same images as tar shards or as parquet, as streams."""
        fields: dict[str, Any] = {"train": str(self.scratch / "pairs.parquet")}
        if kind == "tar":
            fields = {
                "train": str(self.scratch / "*.tar"),
                "image_column": self.extension,
                "caption_columns": {language: f"{language}.txt" for language in LANGUAGES},
            }
        return DataConfig(**fields, streaming=True, skip_wrong_script=False, shuffle_buffer=256)

    def batches(self, kind: str, config: StudentConfig, steps: int, workers: int = 0) -> Iterator[dict[str, Tensor]]:
        """Batches of the stream for this student."""
        _, processor = build_student(config, list(LANGUAGES))
        tokens = CaptionTokens(processor.tokenizer, config.max_text_length)
        pairs = open_pairs(replace(self.data(kind), workers=workers), tokens, config.image_size)
        return iter(make_loader(pairs, Order(self.options.batch_size, 0, 0, 0, steps)))

    def compare_decoding(self, name: str, config: StudentConfig):
        """Images a second of the loader alone, and of plain Pillow on the same images."""
        files = sorted((self.scratch / "files").iterdir())
        num_images, num_batches = len(files), len(files) // self.options.batch_size
        files = files[: num_batches * self.options.batch_size]
        shards = sorted(self.scratch.glob("*.tar"))
        size = config.image_size or 0
        rates: dict[str, list[float]] = {"pillow": [], "pillow_from_tar": [], "tar": [], "parquet": []}
        for _ in range(self.options.rounds):
            rates["pillow"].append(rate(lambda: [plain(file, size) for file in files], len(files)))
            rates["pillow_from_tar"].append(
                rate(lambda: [plain_tar(shard, self.extension, size) for shard in shards], num_images)
            )
            for kind in ("tar", "parquet"):
                stream = self.batches(kind, config, 2 * num_batches)
                next(stream)  # the buffer is filled once in a run
                rates[kind].append(rate(lambda: list(islice(stream, num_batches)), len(files)))  # noqa: B023
        for kind, values in rates.items():
            self.add(name, f"{kind}_images_per_s", statistics.median(values))
        for kind, peer in (("tar", "pillow"), ("tar", "pillow_from_tar"), ("parquet", "pillow")):
            pairs = zip(rates[kind], rates[peer], strict=True)
            self.add(name, f"{kind}_over_{peer}", statistics.median(ours / theirs for ours, theirs in pairs))

    def compare_steps(self, name: str, config: StudentConfig):
        """Images a second of stage 2 on the stream, and on the same batches in a list."""
        options = self.options
        step, num = make_step(config), options.steps * options.batch_size
        ready = list(self.batches("tar", config, options.steps))
        ahead = max(1, PREFETCHED * options.workers)
        streamed = self.batches("tar", config, options.rounds * (ahead + options.steps), options.workers)
        rates: dict[str, list[float]] = {"ready": [], "streamed": []}
        for _ in range(options.rounds):
            # what is built once, such as kernels, does not count, and nothing is decoded beside
            train_on(ready[:1], step)
            rates["ready"].append(rate(lambda: train_on(ready, step), num))
            train_on(islice(streamed, ahead), step)  # what was decoded before
            rates["streamed"].append(rate(lambda: train_on(islice(streamed, options.steps), step), num))
        for kind, values in rates.items():
            self.add(name, f"{kind}_images_per_s", statistics.median(values))
        pairs = zip(rates["streamed"], rates["ready"], strict=True)
        self.add(name, "streamed_over_ready", statistics.median(ours / theirs for ours, theirs in pairs))


def student_config(name: str) -> StudentConfig:
    """A student with random weights and the mini teacher's tokenizer: what is fetched costs no time in training.

    Raises:
        ValueError: there is no such student.
    """
    random = {"vision_init": "random", "text_init": "random", "tokenizer": TOKENIZER}
    if name == "demo":
        recipe = parse_recipe(AlignRecipe, ["--config", str(CONFIGS / "demo_align.yaml")])
        assert recipe.new_student is not None
        fields = vars(recipe.new_student) | random
        return StudentConfig(**fields | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "projection_dim": 256})
    return load_size(name, **random)


def write_images(options: LoadingOptions, student: str, folder: Path) -> str:
    """The first images and captions as tar shards in webdataset's layout, as parquet and as plain files; the
    images' extension.
    """
    rows = load_source(options.data or str(build_corpus(DEFAULT_CACHE, size=STUDENTS[student]) / "train.parquet"))
    rows = rows.select(range(min(len(rows), options.num_images))).cast_column("image", Image(decode=False))
    (folder / "files").mkdir(parents=True)
    rows.to_parquet(folder / "pairs.parquet")
    with PILImage.open(BytesIO(encoded_bytes(rows[0]["image"]))) as first:
        extension = {"JPEG": "jpg"}.get(first.format, str(first.format).lower())
    size = -(-len(rows) // options.num_shards)
    for shard in range(options.num_shards):
        with tarfile.open(folder / f"{shard:04d}.tar", "w") as tar:
            for number in range(shard * size, min(len(rows), (shard + 1) * size)):
                row = rows[number]
                image = encoded_bytes(row["image"])
                (folder / "files" / f"{number:06d}.{extension}").write_bytes(image)
                captions = {f"{language}.txt": str(row[language]).encode() for language in LANGUAGES}
                for name, content in ({extension: image} | captions).items():
                    member = tarfile.TarInfo(f"{number:06d}.{name}")
                    member.size = len(content)
                    tar.addfile(member, BytesIO(content))
    return extension


def plain(file: Path | IO[bytes], size: int) -> Tensor:
    """What anybody writes first: open, convert, resize the short side, crop the centre, make a tensor."""
    with PILImage.open(file) as image:
        image = image.convert("RGB")
    scale = size / min(image.size)
    image = image.resize(
        (max(size, round(image.width * scale)), max(size, round(image.height * scale))), PILImage.Resampling.BICUBIC
    )
    left, top = (image.width - size) // 2, (image.height - size) // 2
    image = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def plain_tar(shard: Path, extension: str, size: int) -> list[Tensor]:
    """The same of the images in a tar shard."""
    with tarfile.open(shard) as tar:
        members = (member for member in tar if member.name.endswith(f".{extension}"))
        return [plain(file, size) for member in members if (file := tar.extractfile(member)) is not None]


def make_step(config: StudentConfig) -> Callable[[dict[str, Tensor]], Any]:
    """One optimizer step of stage 2 without a teacher."""
    student, processor = build_student(config, list(LANGUAGES))
    normalize = Normalize.from_processor(processor.image_processor, student.config.image_size)
    recipe = AlignRecipe(output_dir="", data=DataConfig(train=""))
    task = AlignTask(student, Augment(AugmentConfig(), 0), normalize, None, recipe, list(LANGUAGES))
    task.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(task.parameters())

    def step(batch: dict[str, Tensor]):
        optimizer.zero_grad()
        task(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 3.0)
        optimizer.step()

    return step


def train_on(batches: Iterable[dict[str, Tensor]], step: Callable[[dict[str, Tensor]], Any]):
    """A step a batch."""
    for batch in batches:
        step(batch)


def rate(call: Callable[[], Any], num_images: int) -> float:
    """Images a second of one call."""
    began = time.perf_counter()
    call()
    return num_images / (time.perf_counter() - began)


def main(argv: list[str] | None = None):
    """Parse, measure, write."""
    parser = ArgumentParser(prog=f"python -m {MODULE}", allow_abbrev=False)
    parser.add_class_arguments(LoadingOptions, skip={"students"})
    parser.add_argument("--students", nargs="+", choices=list(STUDENTS), default=list(STUDENTS), help="sizes to train")
    options = LoadingOptions(**vars(parser.parse_args(argv)))
    LoadingBenchmark(options).run()
    print(Path(options.output_dir) / RESULTS_FILE)


if __name__ == "__main__":
    main()
