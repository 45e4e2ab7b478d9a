"""Simulability: can a reader who sees only named concepts and their signs give the network's answer?

The proxy reader is a multinomial naive Bayes classifier. From explanations with their answers it learns how often each token (a
sign and a concept, such as "+grass") goes with each answer. Of a new explanation it sees only the tokens: no numbers, no units
and no image. It is deterministic, and Laplace's smoothing is its only setting. So the explanations are measured, and not the
reader.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

Tokens = frozenset[str]


@dataclass
class ReaderState:
    """What the reader has seen: how often each answer, and each token with each answer.

    >>> state = dk.metrics.simulability_update(dk.metrics.ReaderState(), [frozenset({"wing"})], [3])
    >>> state.answers[3], state.tokens[3]["wing"]
    (1, 1)
    """

    answers: Counter[int] = field(default_factory=Counter)
    tokens: defaultdict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))


def simulability_update(state: ReaderState, tokens: Iterable[Tokens], answers: Iterable[int]) -> ReaderState:
    """Show the reader explanations with the network's answers; returns the state.

    >>> state = dk.metrics.simulability_update(dk.metrics.ReaderState(), [frozenset({"wing"}), frozenset({"sky"})], [0, 0])
    >>> state.answers[0]
    2
    """
    for seen, answer in zip(tokens, answers, strict=True):
        state.answers[answer] += 1
        state.tokens[answer].update(seen)
    return state


def simulability_compute(state: ReaderState, tokens: Sequence[Tokens]) -> list[int]:
    """The reader's answers to new explanations: the likeliest answer, log P(c) + sum of log P(token | c).

    P(token | c) is smoothed by one for each token ever seen; a token never seen says nothing. Ties: the lower class.

    Raises:
        ValueError: the reader has seen nothing.

    >>> shown, said = [frozenset({"wing"}), frozenset({"wheel"})], [0, 1]
    >>> state = dk.metrics.simulability_update(dk.metrics.ReaderState(), shown, said)
    >>> dk.metrics.simulability_compute(state, [frozenset({"wheel"}), frozenset({"wing"})])
    [1, 0]
    """
    if not state.answers:
        raise ValueError("simulability: the reader has seen no explanation to learn from")
    known = set().union(*state.tokens.values())
    total = sum(state.answers.values())
    classes = sorted(state.answers)
    size = {c: sum(state.tokens[c].values()) + len(known) for c in classes}

    def score(c: int, seen: Tokens) -> float:
        # fsum over sorted tokens: a set has no order, and the order of a sum must not decide a tie.
        told = [math.log((state.tokens[c][token] + 1) / size[c]) for token in sorted(seen & known)]
        return math.fsum([math.log(state.answers[c] / total), *told])

    return [max(classes, key=lambda c: (score(c, seen), -c)) for seen in tokens]
