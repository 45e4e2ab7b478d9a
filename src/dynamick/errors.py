"""The exception for bad input, which says what would be right, and the warning for what a user should know."""


class InputError(ValueError):
    """Bad input. The message is one line: what, where, and what would be right. Commands exit with status 2 on it.

    >>> import dynamick as dk
    >>> try:
    ...     dk.open_network("nowhere.safetensors")
    ... except dk.InputError as error:
    ...     print(str(error).split(";")[0])
    nowhere.safetensors: no such file
    """


class Note(UserWarning):
    """What a user should know; the work goes on. A command says it in one line."""
