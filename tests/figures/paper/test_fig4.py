"""Fig. 4: its verdicts, and what it draws."""

import json
from collections.abc import Callable
from pathlib import Path

from dynamick.cli.main import main
from dynamick.figures.paper import fig4
from dynamick.figures.runs import Run


def test_panels_say_that_they_show_one_run(known_run: Callable[..., Run]) -> None:
    made = [("res8", 83.0, 0.01), ("res8", 84.0, 0.03), ("res8-d5a", 83.4, 0.96), ("res8-l1", 82.0, 0.97)]
    runs = [known_run(*each) for each in made]
    curves, heads = fig4.draw(runs).subfigs
    assert curves.axes[0].get_title() == "(a) validation top-1, %; the first run of each"
    assert heads.get_suptitle().startswith("(b) |w| of the first run's head")


def test_figure_4_has_a_verdict_for_each_strength_of_l1(
    cifar: list[str], tmp_path: Path, make_run: Callable[..., Path], edit: Callable[..., str]
) -> None:
    stronger = make_run(tmp_path / "stronger", "res8-l1", 80.0, 0.5)
    edit(stronger, optim={"l1": 20.0})
    main(["reproduce", "fig4", *cifar, str(stronger), "--out", str(tmp_path / "out")])
    said = json.loads((tmp_path / "out" / "fig4.json").read_text())["verdicts"]
    assert [each.partition(":")[0] for each in said] == [
        "d5 sparser than res8-l1, strength 0.1",
        "d5 sparser than res8-l1, strength 20",
        "res8-l1, strength 0.1 sparser than dense",
        "res8-l1, strength 20 sparser than dense",
    ]


def test_figure_4_says_what_fails(cifar: list[str], tmp_path: Path) -> None:
    main(["reproduce", "fig4", *cifar, "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "fig4.json").read_text())
    assert [each.rsplit(" ", 1)[1] for each in found["verdicts"]] == ["fails", "holds"]
    # The smaller size is stated in the figure itself.
    assert "width 4, 2 epochs" in (tmp_path / "out" / "fig4.svg").read_text()
