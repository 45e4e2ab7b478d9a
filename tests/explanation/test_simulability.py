"""Simulability: what the reader is shown, how its answers are counted, and the questions of the human study."""

import io

import pytest
import torch
from PIL import Image

from dynamick.errors import InputError
from dynamick.explanation import simulability, study_questions
from dynamick.explanation.explained import Concept, Explanation, RunnerUp
from dynamick.explanation.simulability import tokens


def explanation(image: int, predicted: int, seen: dict[str, float], other: int = 0, chosen: int | None = None) -> Explanation:
    return Explanation(
        image=image,
        class_index=predicted if chosen is None else chosen,
        class_name=f"class {predicted}",
        predicted=predicted,
        logit=sum(seen.values()),
        bias=0.0,
        rule="at_most",
        k=5,
        indices=list(range(len(seen))),
        products=list(seen.values()),
        concepts=[Concept(label, "object", 0.1, True) if label else None for label in seen],
        shares={"share_of_routed": [], "share_of_all": []},
        residual=0.0,
        n98=1,
        runner_up=RunnerUp(other, f"class {other}", 0.0, 0.0, [], [], []),
        maps=None,
        why=None,
    )


def test_the_reader_sees_signs_and_names_of_the_largest_alone() -> None:
    each = explanation(0, 1, {"sky": 0.2, "dog": -0.9, "": 0.5, "wall": 0.0})
    assert tokens(each, 2) == {"-dog", "+unit 3"}
    assert tokens(each, 9) == {"-dog", "+unit 3", "+sky"}


def test_telling_explanations_are_simulable() -> None:
    told = [explanation(i, i % 4, {f"concept {i % 4}": 1.0, "noise": 0.1 * (i % 3)}) for i in range(80)]
    result = simulability(told, k=2)
    assert result.agreement == 1
    assert result.chance < 0.5
    assert (result.classes, result.k, result.learnt_from, result.held_out) == (4, 2, 40, 40)


def test_explanations_that_say_nothing_leave_chance() -> None:
    mute = [explanation(i, i % 4, {"noise": 1.0}) for i in range(80)]
    result = simulability(mute)
    assert result.agreement == result.chance


def test_answers_are_held_out() -> None:
    # Each image has a concept of its own: a reader that had seen the answers would know them all.
    told = [explanation(i, i % 2, {f"concept {i}": 1.0}) for i in range(60)]
    assert simulability(told).agreement < 0.8


def test_only_predictions_can_be_simulated() -> None:
    with pytest.raises(InputError, match="not of the predicted class"):
        simulability([explanation(0, 1, {"sky": 1.0}, chosen=2)] * 4)
    with pytest.raises(InputError, match="1 explanations"):
        simulability([explanation(0, 1, {"sky": 1.0})])


def test_questions_offer_the_answer_and_the_runner_up_once() -> None:
    names = [f"class {c}" for c in range(6)]
    asked = [explanation(i, i % 6, {"sky": 0.4, "dog": -0.9}, other=(i + 1) % 6) for i in range(30)]
    images = torch.randint(0, 256, (30, 3, 5, 4), dtype=torch.uint8)
    questions = study_questions(asked, images, names, seed=1)
    for each, question, image in zip(asked, questions, images, strict=True):
        assert question.choices[question.answer] == names[each.predicted]
        assert len(set(question.choices)) == 4
        assert names[(each.predicted + 1) % 6] in question.choices
        assert question.concepts == ["- dog", "+ sky"]
        assert Image.open(io.BytesIO(question.image)).size == (4, 5)
        assert Image.open(io.BytesIO(question.image)).getpixel((3, 2)) == tuple(image[:, 2, 3].tolist())
    assert [question.number for question in questions] == list(range(1, 31))
    assert len({question.answer for question in questions}) == 4
    assert study_questions(asked, images, names, seed=1) == questions != study_questions(asked, images, names, seed=2)


def test_a_study_needs_enough_classes() -> None:
    asked = [explanation(0, 1, {"sky": 1.0})]
    with pytest.raises(InputError, match="choices: 4 with 3 classes"):
        study_questions(asked, torch.zeros(1, 3, 4, 4, dtype=torch.uint8), ["a", "b", "c"])
    with pytest.raises(InputError, match=r"images: torch\.float32"):
        study_questions(asked, torch.zeros(1, 3, 4, 4), ["a", "b", "c", "d"])
