"""How we measure ourselves and baselines: `python -m training.experiments.studies NAME`.

No other part of the project imports this package. Results go to `runs/` unless `--output_dir` names another folder.
"""
