import pytest
import torch
from torch.nn import functional as F

from vqtrt.config.audio import WaveNetStack
from vqtrt.models.wavenet import WaveNet, WaveNetLayer, gate

CLASSES, CHANNELS = 12, 8


@pytest.fixture
def wavenet():
    torch.manual_seed(0)
    stack = WaveNetStack(layers=6, cycles=2, channels=CHANNELS, head=10)
    return WaveNet(stack, CLASSES).double().eval()


def classes(n, t, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(CLASSES, (n, t), generator=generator)


def by_definition(wavenet, previous, bias, hop):
    """Step by step, layer by layer, with plain sums."""
    p = CHANNELS
    n, t = previous.shape
    h = wavenet.embedding.weight[previous]
    layers = wavenet.wavenet_layers()
    gates = []
    for index, layer in enumerate(layers):
        weight, own = layer.gates.weight, layer.gates.bias
        out = torch.zeros(n, t, p, dtype=h.dtype)
        for step in range(t):
            a = h[:, step] @ weight[:, p:].T + own
            if step >= layer.dilation:
                a = a + h[:, step - layer.dilation] @ weight[:, :p].T
            if bias is not None:
                a = a + bias[:, step // hop, 2 * p * index : 2 * p * (index + 1)]
            out[:, step] = torch.tanh(a[:, :p]) * torch.sigmoid(a[:, p:])
        gates.append(out)
        if layer.residual is not None:
            h = h + out @ layer.residual.weight.T
    features = torch.relu(torch.cat(gates, 2) @ wavenet.skip.weight.T + wavenet.skip.bias)
    return features @ wavenet.out.weight.T + wavenet.out.bias


@pytest.mark.parametrize("hop", [None, 4, 20])
def test_it_is_the_sum_of_its_layers(wavenet, hop):
    previous = wavenet.shift_right(classes(2, 20))
    bias = None
    if hop:
        generator = torch.Generator().manual_seed(2)
        width = 6 * 2 * CHANNELS
        bias = torch.randn(2, 20 // hop, width, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        got = wavenet(previous, bias, hop or 1)
        torch.testing.assert_close(got, by_definition(wavenet, previous, bias, hop or 1))


def test_no_logit_sees_its_own_class_or_a_later_one(wavenet):
    sequence = classes(1, 40)
    embedded = []
    wavenet.embedding.register_forward_hook(
        lambda module, given, made: embedded.append(made.requires_grad_()) or made
    )
    logits = wavenet(wavenet.shift_right(sequence))
    reach = wavenet.config.receptive_field
    for step in (0, 17, 39):
        (grad,) = torch.autograd.grad(logits[0, step].sum(), embedded[0], retain_graph=True)
        seen = grad[0].abs().sum(1)
        # Place s of `previous` holds the class of step s − 1.
        assert seen[step + 1 :].sum() == 0
        assert (seen[max(0, step - reach + 1) : step + 1] > 0).all()
        assert seen[: max(0, step - reach + 1)].sum() == 0


def test_moved_on_begins_with_nothing(wavenet):
    sequence = classes(2, 5)
    moved = wavenet.shift_right(sequence)
    assert (moved[:, 0] == CLASSES).all()
    assert torch.equal(moved[:, 1:], sequence[:, :-1])


def test_the_receptive_field_of_the_papers_size():
    assert WaveNetStack().receptive_field == 2047  # twice 1 + 2 + … + 512, and the step itself
    assert WaveNetStack().dilations[8:12] == (256, 512, 1, 2)


def test_the_last_layer_has_no_stream_to_add_to(wavenet):
    assert wavenet.wavenet_layers()[-1].residual is None
    assert all(parameter.requires_grad for parameter in wavenet.parameters())
    wavenet(wavenet.shift_right(classes(1, 20))).sum().backward()
    assert all(parameter.grad is not None for parameter in wavenet.parameters())


def test_gate_by_hand():
    a = torch.tensor([[0.5, -1.0, 2.0, 0.0]])
    torch.testing.assert_close(
        gate(a), torch.tanh(a[:, :2]) * torch.sigmoid(torch.tensor([[2.0, 0.0]]))
    )


def test_a_dilation_longer_than_the_sequence():
    torch.manual_seed(0)
    layer = WaveNetLayer(CHANNELS, 64, residual=False)
    h = torch.randn(1, 5, CHANNELS)
    alone = gate(F.linear(h, layer.gates.weight[:, CHANNELS:], layer.gates.bias))
    torch.testing.assert_close(layer(h, None, 1), alone)


def test_layers_have_to_fill_their_cycles():
    with pytest.raises(ValueError, match="7 layers in 2 cycles"):
        WaveNetStack(layers=7, cycles=2)
