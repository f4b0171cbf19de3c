"""How the published models and the tables of the manuals were made. Nothing outside imports this folder.

demo/         the full pipeline on emoji: `python -m training.demo`
corpus/       emoji and pretrained image towers from pip packages
photographs/  the published models
studies/      studies of the method, and the tables of the manuals
measure.py    throughput of a recipe
"""
