"""Model cards: facts of a folder, metadata for the Hub, tables of results, and the template that joins them."""

from training.hub.cards.card import CardDetails, classify_example, write_card
from training.hub.cards.facts import count_parameters
