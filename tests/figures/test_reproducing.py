"""`dynamick reproduce`: bad input of every figure is one line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dynamick.cli.main import main


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["fig3", "--seeds", "0"], "--seeds 0: give an integer from 1 up"),
        (["fig9"], "reproduce fig9: no such figure"),
        (["fig2", "whole"], "reproduce fig2: whole would not be read; give no runs"),
        ([], "reproduce: no figure is named; give table1, fig2, "),
        (["fig3", "--out", "whole/config.yaml"], "--out whole/config.yaml: it or a folder above it is a file"),
        (["table1", "whole", "--out", "whole/config.yaml/x"], "--out whole/config.yaml/x: it or a folder above it is a file"),
        (["fig6", "--dissections", "whole/config.yaml/x"], "--dissections whole/config.yaml/x: it or a folder above it"),
        (["overlap", "whole", "places/../whole"], "whole: is given twice; give each run once"),
        (["fig5", "places", "other/places", "--dissections", "d"], "places: two runs are called places; rename one"),
        (["fig3", "places"], "reproduce fig3: give a run with a Dynamic-K head"),
        (["overlap", "places", "whole"], "reproduce overlap: the runs are of different data"),
        (["table1", "--data", "nowhere"], "nowhere/cifar-10-batches-py: missing or damaged"),
        (["fig5", "--data", "nowhere"], "nowhere/minibroden"),
        (["table1", "nowhere"], "nowhere: no finished training (config.yaml is missing)"),
        (["fig3", "empty"], "empty/config.yaml: damaged, or no training's; give a folder that `dynamick train` wrote"),
        (["overlap", "garbled"], "garbled/config.yaml: damaged, or no training's"),
        (["fig4", "places"], "places: trained on folder; the paper's fig4 is of cifar10"),
        (["fig5", "places"], "give --dissections DIR"),
        (["fig5", "places", "--dissections", "d"], "d/places/tally.csv: no such file"),
        (["table1", "short"], "short: 1 of 2 epochs are done"),
        (["table1", "places", "whole"], "of different data"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    said: str,
    make_run: Callable[..., Path],
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("places"), "res8", 30.0, 0.0, "folder")
    make_run(Path("whole"), "res8", 30.0, 0.0)
    make_run(Path("short"), "res8", 30.0, 0.0, epochs=1)
    (make_run(Path("empty"), "res8", 30.0, 0.0) / "config.yaml").write_text("")
    (make_run(Path("garbled"), "res8", 30.0, 0.0) / "config.yaml").write_text("model: [")
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", *given])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("reproduced").exists()
