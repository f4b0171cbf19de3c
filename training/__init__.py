"""Distill and align small bilingual CLIP models. Run from a checkout or an editable install."""

import os

# OpenMP's threads spin after each operation, for long by default: on a CPU that others use, a training step took 2 to
# 5 times as long. The variable counts only if it is set before torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
