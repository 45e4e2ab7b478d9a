"""Whether a dissection is of the network that is explained."""

from pathlib import Path
from typing import Any

import torch

import dynamick as dk
from dynamick.data import Broden
from dynamick.explanation import Reader
from dynamick.explanation.dissected import dissected_itself, read_units


def test_dead_units_do_not_vouch_for_a_dissection_and_half_precision_is_served(place: Path) -> None:
    concepts = Broden(place / "concepts")

    def network(seed: int, dtype: torch.dtype = torch.float32) -> Any:
        torch.manual_seed(seed)
        model = dk.models.create("res8-d3a", 10, stem="compact", width=8).eval()
        model.layer3[0].bn2.weight.data[:28], model.layer3[0].downsample[1].weight.data[:28] = 0, 0
        return model.to(dtype)

    for dtype in (torch.float32, torch.bfloat16):
        units = dk.dissect(network(0, dtype), "layer3", concepts, progress=False)
        assert dissected_itself(Reader(network(0, dtype)), units, concepts)
        assert not dissected_itself(Reader(network(5, dtype)), units, concepts)


def test_a_tally_is_read_with_the_dissection_beside_it(place: Path, tmp_path: Path) -> None:
    whole, alone = read_units(place / "res8" / "tally.csv"), tmp_path / "tally.csv"
    assert whole is not None
    assert whole.layer == "layer3"
    # Of another dissection beside it nothing is taken.
    alone.write_bytes((place / "res8" / "tally.csv").read_bytes())
    other = dk.dissect(dk.load(place / "res8.safetensors"), "layer2", Broden(place / "concepts"), progress=False)
    (tmp_path / "dissection.json").write_text(other.to_json())
    assert read_units(alone) is not None
    assert read_units(alone).rows == whole.rows
    assert not read_units(alone).layer
