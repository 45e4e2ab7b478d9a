"""Dissection during training logs the figures that dissecting by hand gives, and a run keeps them."""

from dynamick.training.dissecting import DissectEvery  # noqa: I001, before lightning: it makes torchvision importable
import lightning as L
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from dynamick.data import Broden, ComposedScenes
from dynamick.dissection import dissect
from dynamick.errors import InputError
from dynamick.preprocessing import Preprocessing
from dynamick.training import DataRecipe, OptimRecipe, Recipe, read_history, train


class Small(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Flatten(), torch.nn.Linear(16, 2))

    def training_step(self, batch, index):
        return self.model(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


@pytest.mark.parametrize(("every", "epochs"), [(2, [2, 4, 5]), (3, [3, 5]), (5, [5]), (9, [5])])
def test_the_last_epoch_is_dissected_too(every, epochs):
    callback = DissectEvery(None, "0", every)
    assert [epoch for epoch in range(1, 6) if callback.due(epoch, 5)] == epochs


class Interrupt(L.Callback):
    """Ends a training after its second epoch, as Ctrl-C does."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt


def rows_of(folder):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in read_history(folder)]


def test_a_run_keeps_what_each_epoch_measured_and_trains_as_without(tmp_path):
    ComposedScenes("val", 20, seed=3, image_size=32).write_broden(tmp_path / "concepts")
    data = DataRecipe(kind="scenes", size=32, train_images=64, val_images=32)
    recipe = Recipe(model="res8-d2a", stem="patch", width=8, data=data, optim=OptimRecipe(epochs=5, batch_size=32, lr=0.01))

    def dissecting():
        return DissectEvery(Broden(tmp_path / "concepts"), "layer3", every=2)

    callback = dissecting()
    train(recipe, tmp_path / "whole", callbacks=[callback])
    rows = rows_of(tmp_path / "whole")
    kept = [(row["epoch"], row["dissection/mean_score"]) for row in rows if "dissection/mean_score" in row]
    assert [epoch for epoch, _ in kept] == [2, 4, 5]
    assert kept == callback.history

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "stopped", callbacks=[dissecting(), Interrupt()])
    assert len(rows_of(tmp_path / "stopped")) == 2
    train(recipe, tmp_path / "stopped", callbacks=[dissecting()])
    assert rows_of(tmp_path / "stopped") == rows

    train(recipe, tmp_path / "plain")
    plain = [{name: value for name, value in row.items() if not name.startswith("dissection/")} for row in rows]
    assert rows_of(tmp_path / "plain") == plain
    want, *got = (load_file(tmp_path / name / "last.safetensors") for name in ("plain", "whole", "stopped"))
    assert all(torch.equal(want[name], each[name]) for each in got for name in want)


def test_every_second_epoch_is_dissected(small):
    _, dataset = small.case(40)
    options = {"preprocessing": Preprocessing(), "batch_size": 8}
    callback = DissectEvery(dataset, "0", every=2, **options)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(max_epochs=4, accelerator="cpu", callbacks=[callback], **quiet)
    module = Small()
    trainer.fit(module, DataLoader(torch.randn(4, 3, 2, 2), batch_size=4))
    assert [epoch for epoch, _ in callback.history] == [2, 4]
    expected = dissect(module.model, "0", dataset, progress=False, **options).summary()
    assert callback.history[-1][1] == expected.mean_score
    assert float(trainer.callback_metrics["dissection/mean_score"]) == pytest.approx(expected.mean_score)
    assert float(trainer.callback_metrics["dissection/detectors"]) == expected.detectors
    again = DissectEvery(dataset, "0")
    again.load_state_dict(callback.state_dict())
    assert again.history == callback.history
    with pytest.raises(InputError, match="every: 0"):
        DissectEvery(dataset, "0", every=0)
