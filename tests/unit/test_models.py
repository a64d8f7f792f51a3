import json
import math

import numpy as np
import pytest
import torch
from helpers import F64, normal, one_sentence
from hypothesis import given
from hypothesis import strategies as st

from fmlib.models import MLP, Equivariant, ResidualMLP, TimeFeatures, TokenMLP, UNet, parameter_count


def awake(network: torch.nn.Module) -> torch.nn.Module:
    """The network with random weights everywhere, so that no block is silent."""
    for i, p in enumerate(network.parameters()):
        p.data.copy_(0.3 * normal(*p.shape, seed=i, dtype=p.dtype))
    return network


LABELS = {"label": torch.tensor([0, 3, 1, 1, 2])}
UNTIL = {"s": torch.tensor([1.0, 1.0, 0.9, 0.85, 1.0])}
# How to make it, the shape of a row, what a call needs besides
NETWORKS = {
    "MLP": (lambda: MLP(3, width=8, depth=2), (3,), {}),
    "ResidualMLP": (lambda: ResidualMLP(3, width=8, blocks=2), (3,), {}),
    "labelled": (lambda: ResidualMLP(3, width=8, blocks=2, classes=4), (3,), LABELS),
    "UNet": (lambda: UNet((3, 8, 4), width=8), (3, 8, 4), {}),
    "labelled UNet": (lambda: UNet((1, 4, 8), width=8, classes=4), (1, 4, 8), LABELS),
    "MLP of two times": (lambda: MLP(3, width=8, depth=2, until=True), (3,), UNTIL),
    "ResidualMLP of two times": (lambda: ResidualMLP(3, 8, 2, classes=4, until=True), (3,), LABELS | UNTIL),
    "UNet of two times": (lambda: UNet((1, 4, 8), 8, until=True, highest=6.0), (1, 4, 8), UNTIL),
}
every_network = pytest.mark.parametrize("make, shape, condition", NETWORKS.values(), ids=NETWORKS)


@every_network
def test_a_number_a_scalar_and_a_vector_are_one_time(make, shape, condition):
    network, x = awake(make()), normal(5, *shape, dtype=torch.float32)
    expected = network(x, torch.full((5,), 0.3), **condition)
    assert expected.shape == x.shape and not torch.equal(network(x, 0.4, **condition), expected)
    for t in (0.3, torch.tensor(0.3)):
        torch.testing.assert_close(network(x, t, **condition), expected)


@every_network
@given(order=st.permutations(range(5)), dtype=st.sampled_from([torch.float32, F64]))
def test_rows_are_independent_and_dtype_follows(make, shape, condition, order, dtype):
    network = awake(make()).to(dtype)
    x, t = normal(5, *shape, dtype=dtype), torch.linspace(0, 0.8, 5, dtype=dtype)
    value = network(x, t, **condition)
    assert value.dtype == dtype and value.is_contiguous()
    shuffled = network(x[order], t[order], **{name: c[order] for name, c in condition.items()})
    torch.testing.assert_close(shuffled, value[order])
    alone = network(x[2:3], t[2], **{name: c[2:3] for name, c in condition.items()})
    torch.testing.assert_close(alone, value[2:3])


def test_time_features_are_a_geometric_scale_of_sines_and_cosines():
    t = np.array([0.0, 0.3, 1.0])
    angle = t[:, None] * np.geomspace(np.pi / 2, 64 * np.pi, 16)
    features = TimeFeatures()(torch.tensor(t, dtype=torch.float32)[:, None])
    np.testing.assert_allclose(features, np.hstack([np.sin(angle), np.cos(angle)]), atol=1e-4)


def test_blocks_and_gain_add_nothing_at_first_and_learn_from_the_first_step():
    network = ResidualMLP(3, width=8, blocks=4, classes=4)
    x, label = normal(5, 3, dtype=torch.float32), torch.arange(5) % 4
    value = network(x, 0.3, label=label)
    assert torch.equal(value, network.leave(network.enter(x)))
    value.square().sum().backward()
    assert all(block.leave.weight.grad.abs().max() > 0 for block in network.blocks)
    assert network.gain.weight.grad.abs().max() > 0


def test_time_and_label_reach_the_output_once_the_blocks_are_awake():
    network, x = awake(ResidualMLP(3, width=8, blocks=1, classes=2)), normal(1, 3, dtype=torch.float32)
    values = [network(x, t, label=torch.tensor([y])) for t in (0.1, 0.9) for y in (0, 1)]
    gaps = [(a - b).abs().max() for i, a in enumerate(values) for b in values[:i]]
    assert min(gaps) > 1e-3


def test_gain_multiplies_each_coordinate_by_a_number_that_depends_on_the_time():
    network, x = ResidualMLP(3, width=8, blocks=1), normal(5, 3, dtype=torch.float32)
    before = network(x, 0.3)
    torch.nn.init.normal_(network.gain.weight)
    added = (network(x, 0.3) - before) / x
    torch.testing.assert_close(added, added[:1].expand(5, 3), atol=1e-4, rtol=1e-4)
    assert added[0].unique().numel() == 3 and ((network(x, 0.9) - before) / x - added).abs().max() > 1e-3


def test_at_first_the_blocks_of_the_image_network_only_pass_on():
    network, x = UNet((1, 8, 8), width=8, classes=4), normal(5, 1, 8, 8, dtype=torch.float32)
    label = torch.arange(5) % 4
    assert torch.equal(network(x, 0.3, label=label), network(x, 0.9, label=label.flip(0)))
    network(x, 0.3, label=label).square().sum().backward()
    blocks = [m for m in network.modules() if hasattr(m, "conv_2")]
    assert len(blocks) == 6 and all(block.conv_2.weight.grad.abs().max() > 0 for block in blocks)
    assert network.gain.weight.grad.abs().max() > 0 and network.attention.leave.weight.grad.abs().max() > 0


def test_attention_by_its_formula():
    block = awake(UNet((1, 8, 8), width=16).attention).double()
    h = normal(2, 64, 2, 2)
    rows = block.norm(h).flatten(2).transpose(1, 2)  # (batch, pixels, channels)
    weight, bias = block.enter.weight[:, :, 0, 0], block.enter.bias
    q, k, v = (rows @ weight.T + bias).chunk(3, -1)
    mixed = []
    for head in range(2):
        mine = slice(32 * head, 32 * head + 32)
        scores = torch.einsum("bic,bjc->bij", q[..., mine], k[..., mine]) / math.sqrt(32)
        mixed.append(torch.einsum("bij,bjc->bic", scores.exp() / scores.exp().sum(-1, keepdim=True), v[..., mine]))
    out = torch.cat(mixed, -1) @ block.leave.weight[:, :, 0, 0].T + block.leave.bias
    torch.testing.assert_close(block(h), h + out.transpose(1, 2).reshape(h.shape))


def test_parameter_count_by_hand():
    assert parameter_count(MLP(2, width=10, depth=3)) == (34 * 10 + 10) + 2 * (10 * 10 + 10) + (10 * 2 + 2)
    block = (10 * 20 + 20) + 2 * (10 * 10 + 10)
    around = (2 * 10 + 10) + (32 * 10 + 10) + 2 * 10 + 2 * (10 * 2 + 2)
    assert parameter_count(ResidualMLP(2, width=10, blocks=3)) == around + 3 * block
    network = ResidualMLP(2, width=10, blocks=3, classes=7)
    assert parameter_count(network) == around + 3 * block + 7 * 10
    network.embed.label.requires_grad_(False)
    assert parameter_count(network) == around + 3 * block


@every_network
def test_config_builds_the_same_network_again(make, shape, condition):
    network = make()
    twin = type(network)(**network.config)
    twin.load_state_dict(network.state_dict())
    x = normal(5, *shape, dtype=torch.float32)
    assert torch.equal(twin(x, 0.5, **condition), network(x, 0.5, **condition))


@every_network
def test_on_an_accelerator_no_value_is_read(make, shape, condition):
    """A meta tensor has a shape and no values: reading one, for a check or a branch, would raise."""
    x, t = torch.empty(5, *shape, device="meta"), torch.empty(5, device="meta")
    assert make().to("meta")(x, t, **{name: c.to("meta") for name, c in condition.items()}).shape == x.shape


@every_network
def test_compiled_a_network_stays_in_one_piece(make, shape, condition):
    network = make()
    x, t = normal(5, *shape, dtype=torch.float32), torch.linspace(0, 0.8, 5)
    whole = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(whole(x, t, **condition), network(x, t, **condition))


X = torch.zeros(3, 2)
BAD = {
    "column time": (X, torch.zeros(3, 1), ValueError, r"t .*\(3, 1\)"),
    "short time": (X, torch.zeros(2), ValueError, r"t .*\(2,\)"),
    "late": (X, 1.5, ValueError, "1.5"),
    "NaN time": (X, math.nan, ValueError, "nan"),
    "integer time": (X, torch.tensor([0, 1, 1]), TypeError, "int64"),
    "dimension": (torch.zeros(3, 5), 0.5, ValueError, r"x must have shape \(batch, 2\), got \(3, 5\)"),
    "image": (torch.zeros(3, 1, 2), 0.5, ValueError, r"got \(3, 1, 2\)"),
    "format": (X.double(), 0.5, TypeError, "x is float64 and the network's weights are float32: convert one of them"),
}


@pytest.mark.parametrize("network", [MLP(2, 4, 1), ResidualMLP(2, 4, 1)], ids=["MLP", "ResidualMLP"])
@pytest.mark.parametrize("x, t, kind, message", BAD.values(), ids=BAD)
def test_bad_input(network, x, t, kind, message):
    with pytest.raises(kind, match=message) as error:
        network(x, t)
    assert one_sentence(error)


BAD_LABELS = {
    "none": (4, None, ValueError, "classes=4, so a call needs label="),
    "idle": (None, torch.zeros(3, dtype=torch.long), ValueError, "classes=None, so a call takes no label="),
    "late": (4, torch.tensor([0, 4, 1]), ValueError, r"\[0, 4\), got values from 0 to 4"),
    "negative": (4, torch.tensor([0, -1, 1]), ValueError, "got values from -1 to 1"),
    "floats": (4, torch.zeros(3), TypeError, "torch.float32"),
    "booleans": (4, torch.zeros(3, dtype=torch.bool), TypeError, "torch.bool"),
    "column": (4, torch.zeros(3, 1, dtype=torch.long), TypeError, r"\(3, 1\)"),
    "short": (4, torch.zeros(1, dtype=torch.long), ValueError, r"label must have shape \(3,\), got \(1,\)"),
    "list": (4, [0, 1, 2], TypeError, "list"),
}


@pytest.mark.parametrize("classes, label, kind, message", BAD_LABELS.values(), ids=BAD_LABELS)
def test_bad_labels(classes, label, kind, message):
    with pytest.raises(kind, match=message) as error:
        ResidualMLP(2, 4, 1, classes)(X, 0.5, label=label)
    assert one_sentence(error)


SIZES = {
    "dim": (lambda: MLP(2.0), TypeError, "dim must be an integer, got 2.0"),
    "no dim": (lambda: ResidualMLP(0), ValueError, "dim must be at least 1, got 0"),
    "width": (lambda: MLP(2, width=-8), ValueError, "width must be at least 1, got -8"),
    "width of messages": (lambda: Equivariant(3, 2, width=0), ValueError, "width must be at least 1, got 0"),
    "blocks": (lambda: ResidualMLP(2, blocks=-1), ValueError, "blocks must be at least 0, got -1"),
    "classes": (lambda: ResidualMLP(2, classes="ten"), TypeError, "classes must be an integer, got 'ten'"),
    "classes of images": (lambda: UNet((1, 8, 8), 8, classes=2.5), TypeError, "classes must be an integer, got 2.5"),
    "classes of words": (lambda: TokenMLP(3, 4, classes=-1), ValueError, "classes must be at least 0, got -1"),
    "words": (lambda: TokenMLP(3, 4, blocks=True), TypeError, "blocks must be an integer, got True"),
    "sides": (lambda: UNet((1, 8.0, 8), 8), TypeError, "shape must be an integer, got 8.0"),
    "frequencies": (lambda: TimeFeatures(0), ValueError, "count must be at least 1, got 0"),
    "a list": (lambda: MLP(2)([[0.0, 0.0]], 0.5), TypeError, "x must be a torch.Tensor, got list"),
    "an array": (lambda: UNet((1, 4, 4), 8)(np.zeros((1, 1, 4, 4)), 0.5), TypeError, "got ndarray"),
    "complex labels": (
        lambda: ResidualMLP(2, 4, 1, classes=3)(torch.zeros(1, 2), 0.5, label=torch.zeros(1, dtype=torch.complex64)),
        TypeError,
        "label must be an integer tensor .* got torch.complex64",
    ),
}


@pytest.mark.parametrize("call, kind, message", SIZES.values(), ids=SIZES)
def test_bad_sizes_and_inputs_of_every_network(call, kind, message):
    with pytest.raises(kind, match=message) as error:
        call()
    assert one_sentence(error)


@pytest.mark.parametrize("make", [lambda n: MLP(n(2), n(4), n(1)), lambda n: UNet([n(1), n(4), n(4)], n(8), n(3))])
def test_sizes_of_numpy_become_numbers_that_json_holds(make):
    assert json.loads(json.dumps(make(np.int64).config)) == make(int).config


@pytest.mark.parametrize("shape, width", [((1, 6, 8), 8), ((1, 8), 8), ((1, 0, 8), 8), ((1, 8, 8), 12), ((1, 8, 8), 0)])
def test_bad_sizes_of_the_image_network(shape, width):
    with pytest.raises(ValueError, match=r"need shape \(channels, 4 m, 4 n\) and a width of 8 k") as error:
        UNet(shape, width)
    assert one_sentence(error)


@pytest.mark.parametrize("x", [torch.zeros(3, 1, 8, 12), torch.zeros(3, 64), torch.zeros(1, 8, 8)])
def test_bad_images(x):
    with pytest.raises(ValueError, match=r"x must have shape \(batch, 1, 8, 8\)") as error:
        UNet((1, 8, 8), 8)(x, 0.5)
    assert one_sentence(error)
