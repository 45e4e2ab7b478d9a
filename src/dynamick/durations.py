"""How long something takes, in words."""


def in_words(seconds: float) -> str:
    """A time, roughly: `about 20 seconds`, `about 3 minutes`, `about 2 hours`. A very short time is `a few seconds`."""
    for unit, name in ((3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * unit:
            return f"about {round(seconds / unit)} {name}"
    return f"about {round(seconds)} seconds" if seconds >= 5 else "a few seconds"
