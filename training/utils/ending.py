"""The end of a command: what it wrote, and the next commands."""

import os
import shlex
from collections.abc import Collection, Mapping, Sequence

BOTH_TOWERS = ("vision", "text")


def print_ending(written: Mapping[str, str], commands: Sequence[str]):
    """Print what a command wrote and the commands that use it. Of several processes, only the main one prints.

    Args:
        written: What each written file or folder is, by path.
        commands: Commands that can be copied into a shell; there may be none. Words in capitals are to be replaced.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    print()
    for path, meaning in written.items():
        print(f"  {path}: {meaning}")
    if commands:
        print("\nNext:")
        print("\n".join(f"  {command}" for command in commands), flush=True)


def commands_of_model(folder: str) -> list[str]:
    """Commands that use a finished model: export, search, publish.

    Args:
        folder: Folder of the model.
    """
    edge = f"{folder}/edge"
    return [
        shlex.join(["python", "training/export.py", folder, "--output_dir", edge]),
        search_command(edge),
        publish_command(folder),
    ]


def commands_of_export(folder: str, export_format: str, towers: Collection[str] = BOTH_TOWERS) -> list[str]:
    """Commands that use an exported model.

    Args:
        folder: Folder with the exported files.
        export_format: Export format or layout of another tool.
        towers: Towers that have a file; `dcclip` needs both.
    """
    if export_format == "open_clip":
        loaded = f"import open_clip; open_clip.create_model_and_transforms({f'local-dir:{folder}/open_clip'!r})"
        return [shlex.join(["python", "-c", loaded])]
    if export_format == "immich":
        return [f"cp -r {shlex.quote(f'{folder}/immich')} CACHE/clip/NAME"]
    if export_format != "onnx" or not set(BOTH_TOWERS) <= set(towers):  # such as ExecuTorch, which runs in apps
        return [publish_command(folder)]
    label = f"dcclip label IMAGE LABEL LABEL --model {shlex.quote(folder)}"
    return [label, search_command(folder), publish_command(folder)]


def commands_of_stage_1(folder: str, tower: str) -> list[str]:
    """Commands that use a distilled student.

    Args:
        folder: Folder of the student.
        tower: Tower that was trained: `vision`, `text` or `both`.
    """
    if tower == "vision":
        text = ["accelerate", "launch", "training/distill.py", "--config", "RECIPE", "--tower", "text"]
        return [shlex.join([*text, "--student.vision_init", folder, "--output_dir", "DIR"])]
    align = ["accelerate", "launch", "training/align.py", "--config", "RECIPE", "--student", folder]
    return [shlex.join([*align, "--output_dir", "DIR"]), evaluate_command(folder)]


def commands_of_stage_2(folder: str) -> list[str]:
    """Commands that use an aligned student.

    Args:
        folder: Folder of the student.
    """
    return [evaluate_command(folder), *commands_of_model(folder)]


def commands_of_data(pattern: str) -> list[str]:
    """Commands that train on captioned images.

    Args:
        pattern: Pattern of parquet files.
    """
    tune = ["python", "training/finetune.py", "--model", "MODEL", "--data", pattern, "--output_dir", "DIR"]
    align = ["accelerate", "launch", "training/align.py", "--config", "RECIPE", "--data.train", pattern]
    return [shlex.join(align), shlex.join(tune)]


def commands_of_index(folder: str) -> list[str]:
    """Commands that use an index.

    Args:
        folder: Folder of the index.
    """
    return [f"dcclip search QUERY --index {shlex.quote(folder)}", f"dcclip serve --index {shlex.quote(folder)}"]


def evaluate_command(folder: str) -> str:
    """Command that measures retrieval on captioned images of the user.

    Args:
        folder: Folder of the model.
    """
    words = ["python", "training/eval.py", "--model", folder, "--retrieval", "test=TEST.parquet"]
    return shlex.join([*words, "--output_dir", f"{folder}/eval"])


def search_command(folder: str) -> str:
    """Commands that index photographs and search them.

    Args:
        folder: Folder of an exported model.
    """
    return f"dcclip index PHOTOS --model {shlex.quote(folder)} && dcclip search QUERY"


def publish_command(folder: str, name: str = "MODEL") -> str:
    """Command that publishes a model on the Hub.

    Args:
        folder: Folder of the model.
        name: Name of the repo.
    """
    return shlex.join(["python", "training/publish.py", folder, "--repo_id", f"NAME/{name}", "--dry_run"])
