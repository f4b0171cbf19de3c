import pytest
import torch
from torch import nn

from training.demo.photo_teacher import fast_linear
from training.demo.photo_teacher.fast_linear import LinearAsConvolution


@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 8), (2, 1, 3, 8)])
@pytest.mark.parametrize("bias", [True, False])
def test_results_and_gradients_equal_those_of_a_linear_layer(shape, bias, monkeypatch):
    torch.manual_seed(0)
    layer, inputs = nn.Linear(8, 6, bias), torch.randn(shape, requires_grad=True)
    expected = torch.autograd.grad(layer(inputs).square().sum(), [inputs, *layer.parameters()])
    calls = []
    convolve = fast_linear._convolve
    monkeypatch.setattr(fast_linear, "_convolve", lambda *args: calls.append(args) or convolve(*args))
    with LinearAsConvolution():
        outputs = layer(inputs)
    assert len(calls) == 1 and torch.allclose(outputs, layer(inputs), atol=1e-6)
    gradients = torch.autograd.grad(outputs.square().sum(), [inputs, *layer.parameters()])
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(gradients, expected, strict=True))


def test_other_dtypes_are_not_replaced(monkeypatch):
    monkeypatch.setattr(fast_linear, "_convolve", None)
    layer = nn.Linear(8, 6).double()
    with LinearAsConvolution():
        assert layer(torch.randn(2, 8, dtype=torch.float64)).shape == (2, 6)
