"""Kill every long command at many moments, run it again, and compare its output with that of an unbroken run.

    python -m tests.kill_matrix                              all commands; rewrites the table in tests/results
    python -m tests.kill_matrix --commands curate --kills 6

The moments are spread evenly over the duration of an unbroken run, and SIGKILL, SIGTERM and SIGINT take turns. A
command that can resume is resumed where it left a checkpoint; any other is run again. All files must have the bytes of
those of an unbroken run, apart from those that differ between two unbroken runs, as they hold times: these must exist.
The exit code is 1 if an output differs.

A command runs in a fork of this process, which has imported the libraries: so the kills meet its work and not its
imports. tests/kills.py kills processes as a user starts them.
"""

import gc
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import yaml
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import XLMRobertaTokenizer

from modeling_dcclip.command import main as dcclip
from tests import index_kills
from tests.index_kills import write_photos
from tests.kills import save_student
from tests.modeling.color_model import save_color_model
from tests.tiny import MOBILENET, ROOT, WHOLE_MOBILENET, XLM_ROBERTA, make_model
from training import align, distill, export
from training import eval as evaluation
from training.corpus.emoji import build_corpus
from training.data import load_source
from training.demo.make_teacher import train_tokenizer
from training.engine.checkpoint import last_checkpoint
from training.prepare.curate.__main__ import main as curate
from training.prepare.vocabulary.__main__ import main as vocabulary
from training.utils.cli import parse_options
from training.utils.results import markdown_table

RESULTS = ROOT / "tests" / "results"
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
OWN_RECORD = ".dcclip"  # lock and list of files, with the time and the process
EARLIER = 0.8  # factor of the moment if the command had ended before
MAX_TRIES = 20


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the kill matrix.

    Args:
        commands: Commands to kill. Default: all.
        kills: Number of kills of each command.
    """

    commands: list[str] = field(default_factory=list)
    kills: int = 20


@dataclass(frozen=True)
class Job:
    """A command on a small job.

    Args:
        run: The main function of the command, with its arguments.
        output: Folder that the command writes.
        read: Content of the output by name.
        resume: Arguments that are added to resume after a kill; none if the command is run again as it was.
        scratch: Other folders that the command writes; they are removed before it is run again.
    """

    run: Callable[[list[str]], object]
    output: Path
    read: Callable[[Path], dict[str, bytes]]
    resume: tuple[str, ...] = ()
    scratch: tuple[Path, ...] = ()

    def start(self, log: Path) -> int:
        """Run the command in a fork, and return its process id."""
        for folder in self.scratch:
            shutil.rmtree(folder, ignore_errors=True)
        more = self.resume if self.resume and last_checkpoint(self.output) is not None else ()
        return _fork(partial(self.run, list(more)), log)

    def finish(self, log: Path):
        """Run the command to its end.

        Raises:
            RuntimeError: It failed.
        """
        _wait(self.start(log), log)


@dataclass
class Count:
    """Result of a command and a signal.

    Args:
        kills: Number of kills.
        equal: Number of them after which the output equals that of an unbroken run.
        differences: What differed.
    """

    kills: int = 0
    equal: int = 0
    differences: list[str] = field(default_factory=list)


def in_fork(run: Callable[[], object], log: Path):
    """Run a function in a fork: a process that has used the threads of the libraries cannot be forked safely.

    Raises:
        RuntimeError: It failed.
    """
    _wait(_fork(run, log), log)


def _fork(run: Callable[[], object], log: Path) -> int:
    log.write_text("")
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        _work(run, log)
    return process


def _wait(process: int, log: Path):
    if code := os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
        raise RuntimeError(f"exit code {code}:\n{log.read_text(errors='replace')[-3000:]}")


def _work(run: Callable[[], object], log: Path):
    """Run a command in this fork, and end the process with its exit code."""
    code = 1
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in jobs in the background
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    try:
        run()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def read_files(folder: Path) -> dict[str, bytes]:
    """Content of all files below a folder, apart from our own record, by relative path."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = {path: path.relative_to(folder) for path in paths}
    return {str(name): path.read_bytes() for path, name in names.items() if OWN_RECORD not in name.parts}


def read_index(folder: Path) -> dict[str, bytes]:
    """All that an index holds, by table."""
    names = ("vectors", *index_kills.TABLES)
    return {name: repr(part).encode() for name, part in zip(names, index_kills.content(folder), strict=True)}


def prepare(folder: Path):
    """Write the inputs: the embedded corpus with every 40th concept, models of a few layers, and photographs.

    Args:
        folder: Empty folder.
    """
    corpus = build_corpus(folder / "corpora", size=64, every=40)
    corpus.rename(folder / "corpus")
    rows = load_source(str(folder / "corpus" / "train.parquet"))
    tokenizer = train_tokenizer([*rows["en"], *rows["zh"]], 600)
    save_student(folder, tokenizer)
    save_unigram(folder / "tokenizer", [*rows["en"], *rows["zh"]])
    shutil.copytree(folder / "student", folder / "teacher")
    make_model(WHOLE_MOBILENET, seed=7, vocabulary=len(tokenizer)).save_pretrained(folder / "teacher")
    recipe = {"student": {"vision_config": MOBILENET, "text_config": XLM_ROBERTA, "max_text_length": 32}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    save_color_model(folder / "color_model")
    write_photos(folder / "photos")
    stage_2 = ["--student", str(folder / "student"), *_steps(folder), "--max_steps", "4"]
    align.main([*stage_2, "--output_dir", str(folder / "finished")])


def save_unigram(folder: Path, texts: list[str]):
    """Save a small tokenizer in XLM-R's layout, whose vocabulary can be cut."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=800, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    pieces = [tuple(entry) for entry in json.loads(tokenizer.to_str())["model"]["vocab"]]
    XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)], model_max_length=512).save_pretrained(folder)


def _steps(folder: Path) -> list[str]:
    train = str(folder / "corpus" / "train.parquet")
    return ["--data.train", train, "--batch_size", "8", "--log_every", "1", "--warmup_steps", "2"]


def make_jobs(folder: Path) -> dict[str, Job]:
    """The small jobs.

    Args:
        folder: Folder with the inputs of `prepare`, for the outputs.
    """
    train, test, names = (folder / "corpus" / name for name in FILES)
    student, finished, photos, model = (folder / name for name in ("student", "finished", "photos", "color_model"))
    stage_1 = ["--config", str(folder / "recipe.yaml"), "--teacher", str(folder / "teacher"), *_steps(folder)]
    stage_2 = ["--student", str(student), "--chunk_size", "3", *_steps(folder)]
    cut = ["--tokenizer", str(folder / "tokenizer"), "--corpus", str(train), "--size", "400", "--curve", "300", "400"]
    measured = ["--data", f"style={test}", "--class_names", str(names)]
    exported = [str(finished), "--data", str(test), "--class_names", str(names), "--variants", "fp32"]
    saving = ["--max_steps", "12", "--save_every", "2"]
    out, cached = {name: folder / f"{name}_out" for name in COMMANDS}, folder / "cached_out"
    own = {name: ["--output_dir", str(path)] for name, path in out.items()}
    cache = ["--teacher_cache", str(out["cache"]), "--teacher_views", "2", "--max_steps", "1"]
    resumed = ("--resume",)

    def job(name: str, main: Callable, arguments: list[str], read: Callable = read_files, **more) -> Job:
        return Job(lambda added: main([*arguments, *added]), out[name], read, **more)

    return {
        "distill": job("distill", distill.main, [*stage_1, *saving, *own["distill"]], resume=resumed),
        "align": job("align", align.main, [*stage_2, *saving, *own["align"]], resume=resumed),
        "cache": job(
            "cache", distill.main, [*stage_1, *cache, "--output_dir", str(cached)], scratch=(cached,)
        ),
        "curate": job("curate", curate, ["--data", str(train), "--rows_per_shard", "40", *own["curate"]]),
        "vocabulary": job("vocabulary", vocabulary, [*cut, *own["vocabulary"]]),
        "evaluation": job("evaluation", evaluation.main, ["--model", str(finished), *measured, *own["evaluation"]]),
        "export": job("export", export.main, [*exported, *own["export"]]),
        "index": job(
            "index", dcclip, ["index", str(photos), "--index", str(out["index"]), "--model", str(model)], read_index
        ),
    }  # fmt: skip


FILES = ("train.parquet", "unseen_style.parquet", "class_names.json")
COMMANDS = ("distill", "align", "cache", "curate", "vocabulary", "evaluation", "export", "index")


def kill_at(job: Job, moment_s: float, number: signal.Signals, log: Path):
    """Start a command, and send it a signal after a time; earlier if it had ended before.

    Raises:
        RuntimeError: The signal never ended the command.
    """
    for _ in range(MAX_TRIES):
        shutil.rmtree(job.output, ignore_errors=True)
        process = job.start(log)
        time.sleep(moment_s)
        os.kill(process, number)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if code:
            return
        moment_s *= EARLIER
    raise RuntimeError(f"{number.name} did not end the command in {MAX_TRIES} tries")


def try_command(job: Job, kills: int, log: Path) -> tuple[dict[str, Count], list[str]]:
    """Kill a command, run it again, and compare.

    Args:
        job: The command.
        kills: Number of kills.
        log: File for its output.

    Returns:
        The counts by name of the signal, and the files that differ between two unbroken runs.
    """
    unbroken = []
    for _ in range(2):
        shutil.rmtree(job.output, ignore_errors=True)
        started = time.monotonic()
        job.finish(log)
        duration_s = time.monotonic() - started
        unbroken.append(job.read(job.output))
    expected, other = unbroken
    timed = sorted(name for name in expected | other if expected.get(name) != other.get(name))
    counts = {number.name: Count() for number in SIGNALS}
    for kill in range(kills):
        number = SIGNALS[kill % len(SIGNALS)]
        count = counts[number.name]
        kill_at(job, (kill + 0.5) / kills * duration_s, number, log)
        count.kills += 1
        try:
            job.finish(log)
        except RuntimeError as error:
            count.differences.append(f"moment {kill}: {error}")
            continue
        found = job.read(job.output)
        names = found.keys() ^ expected.keys()
        names |= {name for name in found.keys() & expected.keys() - set(timed) if found[name] != expected[name]}
        if names:
            count.differences.append(f"moment {kill}: {', '.join(sorted(names))}")
        count.equal += not names
    return counts, timed


def table(counts: dict[str, dict[str, dict]]) -> str:
    """Render the counts as a Markdown table: equal outputs of kills, for each command and signal."""
    lines = [["command", *(number.name for number in SIGNALS)], ["---", *["---:"] * len(SIGNALS)]]
    for name in COMMANDS:
        if name in counts:
            each = [counts[name][number.name] for number in SIGNALS]
            lines.append([name, *(f"{count['equal']} of {count['kills']}" for count in each)])
    return markdown_table(lines)


def store(command: str, counts: dict[str, Count], timed: list[str]):
    """Write the result of a command to the table, beside those of the others.

    Args:
        command: Name of the command.
        counts: Its counts by signal.
        timed: Files that hold times.
    """
    path = RESULTS / "kills.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"counts": {}, "files_with_times": {}}
    content["counts"][command] = {name: asdict(count) for name, count in counts.items()}
    content["files_with_times"][command] = timed
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    text = "Written by `python -m tests.kill_matrix`: outputs that equal those of an unbroken run.\n\n"
    (RESULTS / "kills.md").write_text(f"{text}{table(content['counts'])}\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Parse the options, kill and print."""
    options = parse_options(Options, argv, prog="python -m tests.kill_matrix", description=__doc__ or "")
    if unknown := sorted(set(options.commands) - set(COMMANDS)):
        raise SystemExit(f"kill_matrix: commands: {unknown} are not among {', '.join(COMMANDS)}. Name some of these.")
    results = {}
    with tempfile.TemporaryDirectory(prefix="dcclip-kill-matrix-") as scratch:
        folder = Path(scratch)
        in_fork(partial(prepare, folder), folder / "log.txt")
        jobs = make_jobs(folder)
        gc.freeze()  # forks do not copy what is there already
        for name in options.commands or COMMANDS:
            results[name], timed = try_command(jobs[name], options.kills, folder / "log.txt")
            for signal_name, count in results[name].items():
                print(f"{name}, {signal_name}: {count.equal} of {count.kills} equal", *count.differences, flush=True)
            if options.kills == Options.kills:
                store(name, results[name], timed)
    print(table({name: {each: asdict(count) for each, count in counts.items()} for name, counts in results.items()}))
    return int(any(count.equal < count.kills for counts in results.values() for count in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
