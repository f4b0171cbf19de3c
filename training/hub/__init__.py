"""From a finished model folder to a repo on the Hub.

hub_model.py      write model, processor, recipe, card and licences as one finished folder
contents.py       list the files of a folder that may be published
secret_scan.py    find access tokens, private keys and other secrets
self_check.py     store embeddings of a fixed image and fixed texts beside the weights
check.py          load a folder in a fresh process and compare it with the stored embeddings
isolated_load.py  the script that this process runs
commit.py         upload a folder in one commit, with retries
push.py           publish during a training run
endpoint.py       command: serve the handler of a folder on this machine
cards/            model cards
layouts/          model folders in the layouts of other tools
"""

from training.hub.check import FolderError, check_folder
from training.hub.commit import Published, PublishError, Target, open_repo, upload
from training.hub.contents import MODEL_FILES, REQUIRED, Content, changed_code, complete_folder, list_contents
from training.hub.push import Push, open_push, prepare
from training.hub.self_check import SELF_CHECK_FILE, write_self_check

__all__ = [
    "MODEL_FILES",
    "REQUIRED",
    "SELF_CHECK_FILE",
    "Content",
    "FolderError",
    "PublishError",
    "Published",
    "Push",
    "Target",
    "changed_code",
    "check_folder",
    "complete_folder",
    "list_contents",
    "open_push",
    "open_repo",
    "prepare",
    "upload",
    "write_self_check",
]
