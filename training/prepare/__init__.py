"""Prepare training inputs: commands, and what they share.

curate.py           command: filter image-text pairs; curation_options.py, curation_run.py, curation.py (filters) and
                    curation_report.py are its parts
duplicates.py       checks, hashes and near-duplicates of images and texts
vocabulary.py       command: cut a tokenizer to English and Chinese; cut.py has the cut and its coverage
open_clip.py        command: convert an open_clip checkpoint to a teacher
"""
