"""Helpers that know nothing of models.

cli.py      build a command line from a dataclass; report user errors
ending.py   the end of a command: what it wrote, and the next commands
files.py    atomic writes of files and folders
fonts.py    fonts of figures with Chinese labels
process.py  memory and process group of this process
results.py  `results.json`: rows of numbers with the command, commit, data and seed that produced them
rng.py      random numbers keyed by (seed, keys)
server.py   what HTTP servers on this machine share
timing.py   latency and memory of the running process
"""
