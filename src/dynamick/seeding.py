"""Seeds of PyTorch's generators."""

PRIME = 4_000_000_007


def seed_of(number: int) -> int:
    """A number of any size as the 32 bits that PyTorch's CPU generator takes of a seed, where it would drop the higher ones.

    Numbers below the prime stay as they are.
    """
    return number % PRIME
