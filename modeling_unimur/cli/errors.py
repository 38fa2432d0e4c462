"""The error that the command line prints in one line."""


class CommandError(Exception):
    """An error that the user can fix; the message names the item and the remedy."""
