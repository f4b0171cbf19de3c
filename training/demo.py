"""Run the full pipeline on the embedded emoji: `python -m training.demo`."""

from training.experiments.demo.__main__ import main

if __name__ == "__main__":
    main()
