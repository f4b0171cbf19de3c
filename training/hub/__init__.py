"""A finished model folder: its contents, its card, and its upload to the Hub.

files.py          the files of a folder, and which may be published
folder.py         write a finished folder, and check it
cards/            model cards
leaks.py          tokens and names of local folders in what would be published
check.py          load a folder in a fresh process and compare it with this package
isolated_load.py  the script that this process runs
publish.py        upload a folder in one commit, with retries
"""

from training.hub.cards import CardDetails, write_card
from training.hub.check import FolderError, check_folder
from training.hub.files import MODEL_FILES, WEIGHTS_FILE
from training.hub.folder import (
    changed_code,
    complete_folder,
    derived_names,
    earlier_recipes,
    list_files,
    save_model,
)
from training.hub.publish import PublishError, Target, check_push, prepare, push, upload
