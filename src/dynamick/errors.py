"""The exception for bad input. It says what would be right."""


class InputError(ValueError):
    """Bad input. The message is one line: what, where, and what would be right. Commands exit with status 2 on it."""
