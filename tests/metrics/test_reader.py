"""The proxy reader against naive Bayes written out with products of fractions."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamick.metrics.simulability import ReaderState, simulability_compute, simulability_update

TOKENS = st.frozensets(st.sampled_from(["+sky", "-sky", "+dog", "+wall", "-tree"]), max_size=4)


def likeliest(train: list[tuple[frozenset[str], int]], seen: frozenset[str]) -> set[int]:
    """The answers of largest P(c) * product of P(token | c), exactly."""
    known = set().union(*(tokens for tokens, _ in train))
    chances = {}
    for c in {answer for _, answer in train}:
        own = [tokens for tokens, answer in train if answer == c]
        told = sum(len(tokens) for tokens in own)
        chances[c] = Fraction(len(own), len(train))
        for token in seen & known:
            chances[c] *= Fraction(sum(token in tokens for tokens in own) + 1, told + len(known))
    best = max(chances.values())
    return {c for c, chance in chances.items() if chance == best}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TOKENS, st.integers(0, 3)), min_size=1, max_size=12), TOKENS, st.integers(0, 12))
def test_the_reader_gives_the_likeliest_answer(train: list[tuple[frozenset[str], int]], seen: frozenset[str], cut: int) -> None:
    state = ReaderState()
    for part in (train[:cut], train[cut:]):
        simulability_update(state, [tokens for tokens, _ in part], [answer for _, answer in part])
    assert simulability_compute(state, [seen])[0] in likeliest(train, seen)


def test_ties_go_to_the_lower_class() -> None:
    state = simulability_update(ReaderState(), [frozenset({"+a"}), frozenset({"+b"})], [3, 1])
    assert simulability_compute(state, [frozenset(), frozenset({"never seen"})]) == [1, 1]


def test_a_reader_who_saw_nothing_says_so() -> None:
    with pytest.raises(ValueError, match="seen no explanation"):
        simulability_compute(ReaderState(), [frozenset()])
