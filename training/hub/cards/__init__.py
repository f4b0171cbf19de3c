"""Model cards, rendered from one template with a model's config, results, recipe and a YAML file.

card.py           render and write a card
details.py        the YAML file: the part of a card that is written by hand
facts.py          size, input and origin of a model
finetuning.py     what is known about a fine-tuned model
training_runs.py  the recipes: stages, data and initial weights
metadata.py       front matter for the Hub
tables.py         tables of accuracy, size and exported files
example.py        the example prediction, and whether it is correct
notice.py         the licence note
device_budget.py  results of a device budget
published.py      the committed cards under model_cards/cards
"""

from training.hub.cards.card import find_details, refresh_card, render_card, write_card
from training.hub.cards.details import CARD_FILE, CARDS, CardDetails
from training.hub.cards.facts import ModelFacts, count_parameters
from training.hub.cards.notice import write_notice

__all__ = [
    "CARDS",
    "CARD_FILE",
    "CardDetails",
    "ModelFacts",
    "count_parameters",
    "find_details",
    "refresh_card",
    "render_card",
    "write_card",
    "write_notice",
]
