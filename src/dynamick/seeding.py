"""Seeds of PyTorch's generators."""

PRIME = 4_000_000_007


def seed_of(number: int) -> int:
    """A seed for PyTorch's CPU generator, from a number of any size. The generator itself uses only the lower 32 bits.

    Numbers below the prime stay as they are.
    """
    return number % PRIME
