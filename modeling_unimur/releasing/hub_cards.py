"""Locates the Space and the card template: beside the package in a checkout, inside it when installed."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def hub_cards(name: str) -> Path:
    """A file or folder of `hub_cards/`."""
    checkout = _PACKAGE.parent / "hub_cards" / name
    return checkout if checkout.exists() else _PACKAGE / "hub_cards" / name


# The card that a person fills.
CARD_TO_FILL = hub_cards("template") / "card.yaml"
