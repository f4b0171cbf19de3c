"""Model cards: one template, filled in from what a folder, its results and its recipe say."""

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
