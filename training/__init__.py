"""Distil and align small bilingual CLIP models. Run from a checkout or an editable install."""

import os

# threads that wait for each other sleep: if other programs use the cores, spinning makes a step six times as long.
# OpenMP reads this when torch is imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
