"""Which networks are read, where their maps are found, and that they are left as they were."""

import pytest
import torch
import torchvision
from torch import nn

import dynamick as dk
from dynamick.errors import InputError
from dynamick.preprocessing import Preprocessing
from tests.explanation.networks import images, small


def test_the_model_is_left_as_it_was() -> None:
    model = small(2).train()
    model.body.eval()
    before = [(name, module.training, len(module._forward_hooks)) for name, module in model.named_modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    dk.explain(model, images(), preprocess=None)
    with pytest.raises(InputError):
        dk.explain(model, torch.rand(1, 5, 9, 9), preprocess=None)
    assert [(name, module.training, len(module._forward_hooks)) for name, module in model.named_modules()] == before
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_dropout_does_not_blur_an_explanation_while_training() -> None:
    model = small(2).train()
    first, second = (dk.explain(model, images(), preprocess=None) for _ in range(2))
    assert [each.logit for each in first] == [each.logit for each in second]


def test_preprocessing_is_the_models_own_unless_said() -> None:
    model = small(2)
    model.preprocessing = Preprocessing(size=9, mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7))
    raw = (images(2, side=12) * 255).to(torch.uint8)
    by_model = dk.explain(model, raw)
    prepared = dk.explain(model, model.preprocessing(raw), preprocess=None)
    floats = dk.explain(model, raw / 255)
    given_one = dk.explain(small(2), raw, preprocess=model.preprocessing)
    for others in (prepared, floats, given_one):
        assert [each.logit for each in others] == pytest.approx([each.logit for each in by_model], rel=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v2"])
def test_published_architectures_split_over_the_image(name: str) -> None:
    torch.manual_seed(0)
    model = dk.convert(getattr(torchvision.models, name)(num_classes=7), k=5)
    each = dk.explain(model, images(1, side=64), preprocess=None)[0]
    assert each.why is None
    assert each.maps is not None
    assert each.maps.shape == (5, 2, 2)
    torch.testing.assert_close(each.maps.sum(dim=(1, 2)), torch.tensor(each.products), rtol=1e-4, atol=1e-7)


def test_layers_between_pooling_and_head_leave_the_units_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(small().body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(6), nn.Linear(6, 3))
    each = dk.explain(model, images(1), preprocess=None)[0]
    assert each.maps is None
    assert "layers between" in str(each.why)
    assert each.bias + sum(each.products) == pytest.approx(each.logit, abs=1e-5)


@pytest.mark.parametrize("name", ["convnext_tiny", "vgg11_bn", "mobilenet_v3_small"])
def test_published_architectures_with_layers_before_the_head_say_so(name: str) -> None:
    torch.manual_seed(0)
    each = dk.explain(getattr(torchvision.models, name)(num_classes=3), images(1, side=64), preprocess=None)[0]
    assert each.maps is None
    assert "layers between" in str(each.why)
    assert each.bias + sum(each.products) == pytest.approx(each.logit, abs=1e-5)


def test_maps_of_one_cell_are_no_split() -> None:
    each = dk.explain(torchvision.models.resnet18(num_classes=3), images(1, side=32), preprocess=None)[0]
    assert each.maps is None
    assert "one cell" in str(each.why)


def test_maps_may_be_left_out() -> None:
    each = dk.explain(small(2), images(1), preprocess=None, maps=False)[0]
    assert each.maps is None
    assert each.why == "maps were not asked for"


def test_a_convolutional_classifier_on_pooled_maps_is_a_linear_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(small().body, nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 3, 1), nn.Flatten())
    batch = images(2)
    for each in dk.explain(model, batch, preprocess=None):
        assert each.bias + sum(each.products) == pytest.approx(each.logit, abs=1e-5)
        assert each.maps is not None


def test_a_classifier_that_is_pooled_later_is_refused() -> None:
    model = torchvision.models.squeezenet1_1(num_classes=5)
    with pytest.raises(InputError, match=r"classifier\.1.*pooled later"):
        dk.explain(model, images(1, side=64), preprocess=None)


def test_what_follows_the_head_is_noticed() -> None:
    model = nn.Sequential(small(), nn.Softmax(dim=1))
    with pytest.raises(InputError, match=r"not that of its last linear layer '0\.head'"):
        dk.explain(model, images(1), preprocess=None)


def test_a_model_without_a_linear_layer_is_refused() -> None:
    with pytest.raises(InputError, match="no linear layer"):
        dk.explain(nn.Flatten(), images(1), preprocess=None)
