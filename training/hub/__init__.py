"""From a finished folder to the Hub: what goes along, the check before, the one commit."""

from training.hub.check import FolderError, check_folder
from training.hub.commit import Published, PublishError, Target, open_repo, upload
from training.hub.contents import REQUIRED, Content, complete_folder, list_contents
from training.hub.push import Push, open_push, prepare
from training.hub.self_check import SELF_CHECK_FILE, write_self_check

__all__ = [
    "REQUIRED",
    "SELF_CHECK_FILE",
    "Content",
    "FolderError",
    "PublishError",
    "Published",
    "Push",
    "Target",
    "check_folder",
    "complete_folder",
    "list_contents",
    "open_push",
    "open_repo",
    "prepare",
    "upload",
    "write_self_check",
]
