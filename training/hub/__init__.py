"""A finished model folder: its contents, its card, and its upload to the Hub.

folder.py         write a finished folder; the files that may be published
cards/            model cards
check.py          load a folder in a fresh process and compare it with this package
isolated_load.py  the script that this process runs
publish.py        upload a folder in one commit, with retries
"""

from training.hub.cards import CardDetails, write_card
from training.hub.check import FolderError, check_folder
from training.hub.folder import (
    DERIVED,
    MODEL_FILES,
    changed_code,
    complete_folder,
    earlier_recipes,
    list_files,
    save_model,
)
from training.hub.publish import Published, PublishError, Target, check_push, push, upload
