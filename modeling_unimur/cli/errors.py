"""The error that the command line prints as one line."""


class CommandError(Exception):
    """Something the person can put right; the message names the item and the remedy."""
