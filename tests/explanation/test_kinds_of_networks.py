"""Networks as people have them: compiled, wrapped, sharded, scripted, of one logit, of one channel, pooled by functions."""

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dynamick as dk
from dynamick.errors import InputError
from dynamick.explanation import Reader, composition, faithfulness
from tests.explanation.networks import Small, dissection, images, small


def same(got: list[Any], want: list[Any]) -> bool:
    """Whether two lists of explanations say the same, and split the same over the image."""
    assert len(got) == len(want)
    return all(
        (a.indices, a.class_index) == (b.indices, b.class_index)
        and a.products == pytest.approx(b.products, rel=1e-5)
        and a.maps is not None
        and torch.allclose(a.maps, b.maps, atol=1e-6)
        for a, b in zip(got, want, strict=True)
    )


@pytest.mark.parametrize("how", ["wrapped", "in place", "a part", "data parallel", "both"])
def test_compiled_and_wrapped_networks_are_explained_as_they_are_inside(how: str) -> None:
    model, batch = small(2), images()
    want = dk.explain(small(2), batch, preprocess=None)
    made: nn.Module = model
    if how == "wrapped":
        made = torch.compile(model, backend="eager")
    elif how == "in place":
        model.compile(backend="eager")
    elif how == "a part":
        model.body = torch.compile(model.body, backend="eager")
    elif how == "data parallel":
        made = nn.DataParallel(model)
    else:
        made = torch.compile(nn.DataParallel(model), backend="eager")
    with torch.no_grad():
        made(batch)
    assert same(dk.explain(made, batch, preprocess=None), want)
    assert Reader(made, None).head.name.removeprefix("_orig_mod.") == "head"


def test_the_preprocessing_and_classes_of_a_wrapped_network_count() -> None:
    model = small(2)
    model.preprocessing, model.classes = dk.Preprocessing(size=9), ["a", "b", "c", "d"]
    want = dk.explain(model, images())
    got = dk.explain(nn.DataParallel(model), images())
    assert [each.class_name for each in got] == [each.class_name for each in want]
    assert same(got, want)
    made_of = composition(nn.DataParallel(model), dissection(6))
    assert made_of == composition(model, dissection(6))
    assert [each.class_name for each in made_of] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("make", [torch.jit.script, lambda model: torch.jit.trace(model, images(1))])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused_by_name(make: Any) -> None:
    plain = nn.Sequential(small().body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).eval()
    for model in (make(plain), nn.Sequential(make(plain[0]), *plain[1:])):
        with pytest.raises(InputError, match=r"^model: TorchScript, .*give the model that it was made from$"):
            dk.explain(model, images(1), preprocess=None)


def test_a_sharded_network_is_explained_by_its_whole_weights() -> None:
    code = """
import torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
import dynamick as dk
from tests.explanation.networks import images, small
dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
want = [each.products for each in dk.explain(small(2), images(), preprocess=None)]
model = small(2)
fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
print([each.products for each in dk.explain(model, images(), preprocess=None)] == want)
dist.destroy_process_group()
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.split() == ["True"], run.stderr


class Squeezed(Small):
    """One logit an image, without its dimension, as BCEWithLogitsLoss likes it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze()


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("k", [None, 2])
def test_one_squeezed_logit_is_explained_like_a_head_of_one_output(k: int | None, count: int) -> None:
    torch.manual_seed(0)
    model: nn.Module = Squeezed(classes=1).eval()
    dk.convert(model, k=k) if k else None
    with torch.no_grad():
        logits = model(images(count)).reshape(-1).tolist()
    for each, logit in zip(dk.explain(model, images(count), preprocess=None), logits, strict=True):
        assert each.logit == pytest.approx(logit)
        assert each.bias + sum(each.products) == pytest.approx(logit, abs=1e-5)
        assert each.runner_up is None


def test_the_probability_of_one_logit_is_the_logistic_functions() -> None:
    torch.manual_seed(0)
    model = Squeezed(classes=1).eval()
    measured = faithfulness(model, images(3), orders=["contribution", "integrated gradients"], counts=[0, 6], preprocess=None)
    with torch.no_grad():
        want = float(model(images(3)).sigmoid().mean())
    assert measured.curves[0].deletion[0] == pytest.approx(want)
    assert measured.curves[0].insertion[1] == pytest.approx(want)


class TwoStages(nn.Module):
    """Two maps of the same number of units, without biases: both are zero in a black image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, bias=False), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.second(self.first(x))).flatten(1))


@pytest.mark.parametrize("first", [torch.zeros(1, 3, 9, 9), torch.full((1, 3, 9, 9), torch.nan)])
def test_a_first_image_that_tells_nothing_takes_no_maps_from_the_others(first: Tensor) -> None:
    model, rest = TwoStages(), images(70)
    want = dk.explain(model, rest, preprocess=None)
    assert all(each.maps is not None and each.maps.shape[1:] == (3, 3) for each in want)
    got = dk.explain(TwoStages(), torch.cat([first.expand(66, -1, -1, -1), rest]), preprocess=None, batch_size=66)
    assert same(got[66:], want)


def test_black_images_alone_are_explained_too() -> None:
    reader = Reader(TwoStages(), None)
    assert [each.products for each in dk.explain(TwoStages(), torch.zeros(2, 3, 9, 9), preprocess=None)] == [[0.0] * 8] * 2
    reader.maps(torch.zeros(2, 3, 9, 9))
    assert reader.read(images(2)).maps is not None, "what black images seemed to say is forgotten"


class Functional(nn.Module):
    """The commonest way to write a small network: functions between the layers."""

    def __init__(self, pool: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.pool = nn.Conv2d(3, 6, 3, stride=2), nn.Linear(6, 4), pool

    def forward(self, x: Tensor) -> Tensor:
        maps = F.relu(self.conv(x))
        if self.pool == "adaptive":
            return self.fc(F.adaptive_avg_pool2d(maps, 1).flatten(1))
        if self.pool == "mean":
            return self.fc(maps.mean((2, 3)))
        return self.fc(maps.flatten(2).sum(2) / maps[0, 0].numel())


@pytest.mark.parametrize("pool", ["adaptive", "mean", "sum"])
def test_maps_that_no_module_puts_out_are_found_among_the_functions(pool: str) -> None:
    model, batch = Functional(pool), images()
    with torch.no_grad():
        maps = F.relu(model.conv(batch))
    for each in dk.explain(model, batch, preprocess=None):
        assert each.maps is not None
        want = maps[each.image, each.indices] * model.fc.weight[each.class_index, each.indices][:, None, None] / 16
        torch.testing.assert_close(each.maps, want.detach())


class Permuted(nn.Module):
    """Maps with their units as the last axis, or a row of tokens, as transformers have them."""

    def __init__(self, form: str, pooled_by_module: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form, self.pooled_by_module = form, pooled_by_module
        self.conv, self.norm, self.act, self.fc = nn.Conv2d(3, 6, 3, stride=2), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x).permute(0, 2, 3, 1)
        if self.form == "tokens":
            maps = maps.flatten(1, 2)
        maps = self.act(self.norm(maps)) if self.pooled_by_module else F.relu(self.norm(maps))
        return self.fc(maps.mean(1) if self.form == "tokens" else maps.mean((1, 2)))


@pytest.mark.parametrize("pooled_by_module", [True, False])
@pytest.mark.parametrize("form", ["units last", "tokens"])
def test_maps_are_found_whichever_axis_their_units_are(form: str, pooled_by_module: bool) -> None:
    model, batch = Permuted(form, pooled_by_module), images()
    with torch.no_grad():
        maps = F.relu(model.norm(model.conv(batch).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    for each in dk.explain(model, batch, preprocess=None):
        assert each.maps is not None
        want = maps[each.image, each.indices] * model.fc.weight[each.class_index, each.indices][:, None, None] / 16
        torch.testing.assert_close(each.maps, want.detach())
    if pooled_by_module:
        assert "act" in Reader(model, None).maps(batch).layers
        with pytest.raises(InputError, match="grad-cam: the maps have their units as the last axis"):
            faithfulness(model, batch, orders=["grad-cam"], preprocess=None)


def test_grad_cam_says_that_it_needs_a_module() -> None:
    with pytest.raises(InputError, match="grad-cam: no module of the model puts out the map"):
        faithfulness(Functional("mean"), images(), orders=["grad-cam"], preprocess=None)


def test_a_network_of_one_channel_is_explained_or_the_advice_is_right() -> None:
    torch.manual_seed(0)
    model: Any = Small()
    model.body[0] = nn.Conv2d(1, 6, 3, stride=2)
    model.preprocessing = dk.Preprocessing()
    with pytest.raises(InputError, match=r"^model: takes images of 1 channel, and is given 3; give --mean and --std of one"):
        dk.explain(model, images())
    model.preprocessing = dk.Preprocessing(mean=(0.5,), std=(0.5,))
    grey = images()[:, :1]
    assert same(dk.explain(model, grey.expand(-1, 3, -1, -1)), dk.explain(model, grey))


@pytest.mark.parametrize("value", [{"mean": (0, 0, 0)}, "imagenet"])
def test_a_preprocessing_that_is_no_function_is_refused(value: object) -> None:
    model: Any = small()
    model.preprocessing = value
    with pytest.raises(InputError, match=rf"^model: its preprocessing is a {type(value).__name__}, no function"):
        dk.explain(model, images())


@pytest.mark.parametrize("classes", [["a", "b", "c", "d"], {0: "a", 1: "b", 2: "c", 3: "d"}, {"a": 0, "b": 1, "c": 2, "d": 3}])
def test_class_names_are_read_in_every_form(classes: object) -> None:
    model: Any = small()
    model.classes = classes
    assert all(each.class_name == "abcd"[each.class_index] for each in dk.explain(model, images(), preprocess=None))


def test_another_default_type_changes_nothing() -> None:
    model: Any = small(2)
    model.preprocessing = dk.Preprocessing(size=9)
    batch = images()
    want = dk.explain(model, batch)
    torch.set_default_dtype(torch.float64)
    try:
        got = dk.explain(model, batch)
    finally:
        torch.set_default_dtype(torch.float32)
    assert same(got, want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_every_precision_are_explained(dtype: torch.dtype) -> None:
    model = small(2).to(dtype)
    for each in dk.explain(model, images(), preprocess=None):
        assert each.maps is not None
        assert each.bias + sum(each.products) == pytest.approx(each.logit, abs=2e-2)


def test_written_units_count_from_1() -> None:
    each = dk.explain(small(2), images(1), preprocess=None)[0]
    written = each.to_dict()
    assert written["units"] == each.units == [index + 1 for index in each.indices]
    assert each.runner_up is not None
    assert written["runner_up"]["units"] == [unit + 1 for unit in each.runner_up.indices]
