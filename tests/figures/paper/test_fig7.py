"""`dynamick reproduce fig7`: shares and residuals against arithmetic by hand, on networks whose weights are known."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import dynamick as dk
from dynamick import models
from dynamick.cli.main import main
from dynamick.data import ComposedScenes
from dynamick.data.class_folders import FolderImages, image_folder
from dynamick.dissection import Dissection
from dynamick.explanation import ConceptBasis
from dynamick.figures.paper import fig3, fig7
from dynamick.figures.paper.fig7 import summary, verdicts
from dynamick.figures.runs import Run
from dynamick.training.recipe import Recipe

CLASSES = ["blue", "green", "red"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 1), ("val", 4)):
        for label, name in enumerate(CLASSES):
            place = tmp_path / "images" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                noise = torch.randint(0, 90, (16, 16, 3), generator=generator, dtype=torch.uint8)
                noise[..., 2 - label] += 150
                Image.fromarray(noise.numpy()).save(place / f"{number}.png")
    return tmp_path / "images"


def make_run(folder: Path, model: str, images: Path) -> Path:
    """A finished run of 16 units, with a random head that has weights of both signs."""
    folder.mkdir(parents=True)
    recipe: dict[str, Any] = Recipe(model=model, width=4).to_dict()
    recipe["data"] |= {"kind": "folder", "root": str(images), "size": 16}
    recipe["optim"]["epochs"] = 1
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "metrics.csv").write_text("epoch,seconds,train_loss,top1,sparse_share\n1,1.0,0.5,50.0,0.1\n")
    torch.manual_seed(1)
    dk.save(models.create(model, 3, "cifar", 4, classes=CLASSES), folder / "last.safetensors")
    lines = ["unit,category,label,score,object-label,object-truth,object-activation,object-intersect,object-iou"]
    lines += [f"{unit},object,thing$_{unit},0.25,thing$_{unit},100,150,50,0.25" for unit in range(1, 17)]
    tally = folder.parent / "dissections" / folder.name / "tally.csv"
    tally.parent.mkdir(parents=True)
    tally.write_text("\n".join(lines) + "\n")
    return folder


def test_residuals_are_those_of_the_paper(images: Path, tmp_path: Path) -> None:
    data = image_folder(images, "val", 16)
    runs = []
    for model, k in (("res8", None), ("res8-d5a", 5)):
        network = dk.load(make_run(tmp_path / model, model, images) / "last.safetensors").eval()
        runs.append(Run(tmp_path, model, f"d{k}" if k else "dense", k, 8, Recipe(model=model), network))
    rows = {row["model"]: row for row in summary(runs, data, None)}
    for run in runs:
        left, counts = [], []
        with torch.no_grad():
            features: list[torch.Tensor] = []
            run.network.fc.register_forward_pre_hook(lambda _, inputs, seen=features: seen.append(inputs[0]))
            chosen = run.network(run.network.preprocessing(data.images)).argmax(1).tolist()
        for x, c in zip(features[0].double(), chosen, strict=True):
            products = (run.network.fc.weight[c].double() * x).tolist()
            routed = sorted(products, reverse=True)
            routed = [each for each in routed[: run.k] if each > 0] if run.k else routed
            largest = sorted(routed, key=abs, reverse=True)
            left.append(abs(1 - sum(largest[:4]) / sum(products)))
            within = [abs(sum(largest[:n]) - sum(largest)) <= 0.02 * abs(sum(largest)) for n in range(1, len(largest) + 1)]
            counts.append(next(n for n in range(1, len(largest) + 1) if all(within[n - 1 :])))
        assert rows[run.model]["left"] == pytest.approx(torch.tensor(left).quantile(0.5).item(), rel=1e-4)
        assert rows[run.model]["n98"] == torch.tensor(counts).double().quantile(0.5).item()


@pytest.mark.parametrize(("left", "said"), [(0.019, "holds"), (0.021, "fails")])
def test_the_verdict_is_the_papers_two_percent(left: float, said: str) -> None:
    row = {"model": "res8-d5a", "k": 5, "depth": 8, "left": left, "left_std": 0.003, "ibd": None}
    dense = {"model": "res8", "k": None, "depth": 8, "left": 0.4, "left_std": None, "ibd": None}
    assert verdicts([dense, row]) == [
        "res8: its 4 largest units leave 40.0 % of the sum over all units",
        f"res8-d5a: its 4 largest units leave {100 * left:.1f} ± 0.3 % of the sum over all units "
        f"(paper, Dynamic-5: 2%): {said}",
    ]


@pytest.mark.parametrize(("by_ibd", "said"), [(0.5, "holds"), (0.01, "fails")])
def test_ibd_leaves_more_than_few_units(by_ibd: float, said: str) -> None:
    row = {"model": "res8-d5a", "k": 5, "depth": 8, "left": 0.015, "left_std": None, "ibd": None}
    dense = {"model": "res8", "k": None, "depth": 8, "left": 0.4, "left_std": None, "ibd": by_ibd, "ibd_std": 0.02}
    assert verdicts([dense, row])[-1] == (
        f"res8: IBD leaves {100 * by_ibd:.1f} ± 2.0 %, more than the 4 largest units of res8-d5a, 1.5 % "
        f"(paper: 45% and 2%): {said}"
    )


def test_fig_7_from_runs(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path / name, name[:-2], images) for name in ("res8-0", "res8-1", "res8-d5a-0")]
    out = tmp_path / "out"
    options = ["--dissections", str(tmp_path / "dissections"), "--out", str(out)]
    main(["reproduce", "fig7", *map(str, runs), *options])
    page = capsys.readouterr().out
    assert "| res8 | 2 |" in page
    assert "Medians over 12 validation images" in page
    found = json.loads((out / "fig7.json").read_text())
    assert [row["runs"] for row in found["rows"]] == [2, 1]
    drawn = (out / "fig7.svg").read_text()
    # A concept's name is no formula, and the size stands in the figure.
    assert drawn.count("<image") >= 12
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", "fig7", str(runs[0]), *options])
    assert stop.value.code == 2
    assert "one or more with a Dynamic-K head" in capsys.readouterr().err


def test_only_runs_that_differ_in_their_seeds_are_averaged(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run(tmp_path / name, name[:-2], images) for name in ("res8-0", "res8-1", "res8-d5a-0")]
    path = runs[1] / "config.yaml"
    recipe = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(recipe | {"seed": 1, "optim": recipe["optim"] | {"lr": 0.5}}))
    given = ["--dissections", str(tmp_path / "dissections"), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", "fig7", *map(str, runs), *given])
    err = capsys.readouterr().err
    assert (stop.value.code, len(err.splitlines())) == (2, 1)
    assert f"{runs[1]}: another res8 than {runs[0]} (optim.lr: " in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dead", ["res8-0", "res8-d5a-0"])
def test_a_network_whose_scores_are_all_zero_has_none(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead: str
) -> None:
    runs = [make_run(tmp_path / name, name[:-2], images) for name in ("res8-0", "res8-1", "res8-d5a-0")]
    network = dk.load(tmp_path / dead / "last.safetensors")
    with torch.no_grad():
        network.fc.weight.zero_()
    dk.save(network, tmp_path / dead / "last.safetensors")
    basis = ConceptBasis([1], ["thing"], torch.eye(16, dtype=torch.float64)[:1], [1], [1.0])
    monkeypatch.setattr("dynamick.figures.paper.fig7.learn_basis", lambda *_, **__: basis)
    ComposedScenes("val", 2, image_size=32).write_broden(tmp_path / "concepts")
    options = ["--dissections", str(tmp_path / "dissections"), "--concepts", str(tmp_path / "concepts")]
    main(["reproduce", "fig7", *map(str, runs), *options, "--out", str(tmp_path / "out")])
    page = (tmp_path / "out" / "fig7.md").read_text()
    model = dead[:-2]
    assert "IBD's concepts of concepts (2 images, " in page
    # A mean over the other run alone would not be the model's.
    assert f"| {model} | {2 if model == 'res8' else 1} | none | none |  |" in page
    assert f"{model}: the sum over all units is 0 for every image of a run: nothing to hold" in page
    assert "nan" not in page.lower()


def test_images_that_are_decoded_as_needed_make_the_same_figures(images: Path, tmp_path: Path) -> None:
    whole, as_needed = image_folder(images, "val", 16), FolderImages(images, "val", 16)
    runs = []
    for model, k in (("res8", None), ("res8-d5a", 5)):
        network = dk.load(make_run(tmp_path / model, model, images) / "last.safetensors").eval()
        units = Dissection.read_tally(tmp_path / "dissections" / model / "tally.csv")
        runs.append(Run(tmp_path, model, f"d{k}" if k else "dense", k, 8, Recipe(model=model), network, units=units))
    assert summary(runs, as_needed, None) == summary(runs, whole, None)
    for data in (whole, as_needed):
        fig3.draw(runs, data).savefig(tmp_path / "fig3.png")
        fig7.draw(runs[0], runs[1], data).savefig(tmp_path / "fig7.png")
