"""How we measure ourselves and baselines: `budget` (size and speed), `benchmarks` (training cost), `ablations`,
`search`, `tools`, `teachers`, `finetuning`, and `photographs` (the paper's claims and baselines on photographs).

No other part of the project imports this package. Results go to `runs/` unless `--output_dir` names another folder.
"""
