"""The sentence of a decision: golden ones, and that it holds whatever is summed."""

import doctest
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dynamick as dk
from dynamick.explanation import sentence as module
from dynamick.explanation.sentence import Side, grouped, per_cent, sentence, spoken
from tests.explanation.networks import dissection, images, small

WING, WHEEL, SKY = ("wing", 3.5), ("wheel", 1.5), ("sky", 1.0)


@pytest.mark.parametrize(
    ("parts", "rival", "wrong", "said"),
    [
        (
            [WING, WHEEL],
            Side("car", 0.6, [WHEEL]),
            False,
            "aeroplane: wing 70 %, wheel 30 %; 4.4 ahead of car, which lacks wing",
        ),
        (
            # Units of one concept are one, and what the rival sums of it counts as one.
            [("wing", 1.5), WHEEL, ("wing", 2.0)],
            Side("car", 0.6, [("wing", 0.2), ("wing", 0.2)]),
            False,
            "aeroplane: wing 70 %, wheel 30 %; 4.4 ahead of car, which has less wing",
        ),
        (
            [WING, WHEEL],
            Side("bird-cage", 4.0, [("beak", 3.0)]),
            True,
            "aeroplane (wrong: it is bird-cage): wing 70 %, wheel 30 %; 1.0 ahead of bird-cage, which lacks wing",
        ),
        ([WING], Side("car", 6.0, [SKY]), False, "aeroplane: wing 100 %; 1.0 behind car, which has sky"),
        (
            [WING, SKY],
            Side("car", 6.0, [("sky", 3.0)]),
            False,
            "aeroplane: wing 78 %, sky 22 %; 1.0 behind car, which has more sky",
        ),
        ([], Side("car", 4.0, []), False, "aeroplane: no unit speaks for it; 1.0 ahead of car, by its bias"),
        ([WING], None, False, "aeroplane: wing 100 %"),
        ([WING], Side("car", 5.0, [WING]), False, "aeroplane: wing 100 %; level with car"),
        ([WING], Side("car", 4.98, []), False, "aeroplane: wing 100 %; 0.02 ahead of car, which lacks wing"),
        # 5.0 less 0.6, as both logits are shown.
        ([WING], Side("car", 0.56, []), False, "aeroplane: wing 100 %; 4.4 ahead of car, which lacks wing"),
        ([WING, ("sky", -0.5)], None, False, "aeroplane: wing 117 %, sky −17 %"),
        ([("wing", -0.5), ("sky", -1.25)], None, False, "aeroplane: sky −1.2, wing −0.5"),
        ([("wing", 9.0), ("sky", -8.9)], None, False, "aeroplane: wing +9.0, sky −8.9"),
        (
            [(f"u{n}", 1.0) for n in range(1, 9)],
            None,
            False,
            "aeroplane: u1 with 13 %, u2 with 13 %, u3 with 13 %, u4 with 12 %, u5 with 12 %, the rest 37 %",
        ),
        ([WING, ("sky", 0.001)], None, False, "aeroplane: wing 100 %"),
    ],
)
def test_golden_sentences(parts: list[tuple[str, float]], rival: Side | None, wrong: bool, said: str) -> None:
    assert sentence(Side("aeroplane", 5.0, parts), rival, wrong) == said


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("swimming_pool-outdoor-s", "swimming pool, outdoor"),
        ("bakery-shop-s", "bakery, shop"),
        ("museum-indoor", "museum, indoor"),
        ("temple-east_asia", "temple, east asia"),
        ("subway_station-platform", "subway station, platform"),
        ("stadium-football", "stadium, football"),
        ("black-and-tan_coonhound", "black-and-tan coonhound"),
        ("cross-country_skiing", "cross-country skiing"),
        ("/b/bakery/shop", "bakery, shop"),
        ("red-c", "red"),
        ("vitamin-c", "vitamin-c"),
        ("t-shirt", "t-shirt"),
        ("ceiling_lamp", "ceiling lamp"),
        ("tench, Tinca tinca", "tench, Tinca tinca"),
        ("-s", "-s"),
        ("3", "3"),
        ("", ""),
    ],
)
def test_names_as_people_say_them(raw: str, said: str) -> None:
    assert spoken(raw) == said


@given(st.text(max_size=20))
def test_a_name_is_never_lost(name: str) -> None:
    assert spoken(name) or not name


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12))
def test_whole_per_cent_add_up_and_are_near(values: list[float]) -> None:
    total = sum(values)
    if abs(total) < 1e-3:
        return
    shares = [value / total for value in values]
    whole = per_cent(shares)
    if abs(100 * sum(shares) - 100) < 1e-6:
        assert sum(whole) == 100
        assert all(abs(n - 100 * share) < 1 + 1e-6 for n, share in zip(whole, shares, strict=True))


anything = st.floats(allow_nan=True, allow_infinity=True)
parts = st.lists(st.tuples(st.sampled_from(["wing", "wheel", "sky", "unit 7", "a", "b", "c"]), anything), max_size=9)


@given(parts, parts, anything, anything, st.booleans())
def test_whatever_is_summed_is_said(
    mine: list[tuple[str, float]], theirs: list[tuple[str, float]], logit: float, other: float, wrong: bool
) -> None:
    said = sentence(Side("aeroplane", logit, mine), Side("car", other, theirs), wrong)
    assert said.startswith("aeroplane")
    assert "\n" not in said
    shares = [int(n.replace("−", "-")) for n in re.findall(r"(−?\d+) %", said)]
    assert not shares or sum(shares) == 100
    lacked = re.search(r"lacks (.+)$", said)
    if lacked:
        assert grouped(mine)[lacked[1]] > 0


def test_an_explanation_says_its_own_numbers() -> None:
    for each in dk.explain(small(3), images(), units=dissection(6), preprocess=None):
        said = repr(each)
        assert said == each.sentence
        sums = grouped([(f"thing {i}" if i else "unit 1", p) for i, p in zip(each.indices, each.products, strict=True)])
        first = re.match(r"(\d): (?:no unit speaks for it|(.+?) with \d+ %)", said)
        assert first is not None
        assert first[1] == each.class_name
        assert first[2] == next(iter(sums), None)
        assert each.runner_up is not None
        # Small logits have three decimals, and the lead is theirs.
        lead = round(each.logit, 3) - round(each.runner_up.logit, 3)
        assert lead < 1e-3 or f"{lead:.3f} ahead of {each.runner_up.class_name}" in said


def test_its_examples_are_true() -> None:
    assert doctest.testmod(module).failed == 0
