"""Dissection during training logs the figures that dissecting by hand gives."""

from dynamick.training.dissecting import DissectEvery  # noqa: I001, before lightning: it makes torchvision importable
import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from dynamick.dissection import dissect
from dynamick.errors import InputError
from dynamick.preprocessing import Preprocessing


class Small(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Flatten(), torch.nn.Linear(16, 2))

    def training_step(self, batch, index):
        return self.model(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


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
