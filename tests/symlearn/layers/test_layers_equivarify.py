"""Equivarification: exact equivariance of any module, both forms, the quotient, the readings.

Axes: batch, c, classes, group, h, w, d.
"""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from collections.abc import Callable

import pytest
import torch
from contracts import LayerCase, LayerContract
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import assert_close, assert_refused
from torch import Tensor, nn
from toys import noise

import symlearn
from symlearn.analysis.equivariance import equivariance_error
from symlearn.groups import dihedral, find_group
from symlearn.layers import (
    AtIdentity,
    GroupAction,
    GroupConv2d,
    InvariantReading,
    LiftingConv2d,
    class_and_element,
    group_map_action,
    image_action,
    joint_cross_entropy,
    matrix_action,
)
from symlearn.layers.equivarify import equivarify, equivarify_layers


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A module in float64 with the initial values of a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().double()


def cnn(size: int) -> nn.Sequential:
    """An arbitrary CNN: strides, zeros at the border, pooling; nothing about it is symmetric."""
    last = (((size + 1) // 2) // 2) ** 2
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 3, 3, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(3 * last, 5),
    )


def mlp(d: int) -> nn.Sequential:
    """An arbitrary MLP on whatever is flattened to d numbers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(d, 6), nn.Tanh(), nn.Linear(6, 5))


def permutations(n: int) -> GroupAction:
    """The symmetric group on vectors of n numbers."""
    orders = itertools.permutations(range(n))
    return matrix_action(torch.stack([torch.eye(n)[list(o)] for o in orders]), f"s{n}")


def sets_action(n: int) -> GroupAction:
    """The symmetric group on sets of n points, `[batch, n, d]`, by a table and a function of one's own."""
    orders = list(itertools.permutations(range(n)))  # (h x)[h(i)] = x[i]
    number = {order: k for k, order in enumerate(orders)}
    table = [[number[tuple(g[h[i]] for i in range(n))] for h in orders] for g in orders]
    inverse = [sorted(range(n), key=order.__getitem__) for order in orders]
    return GroupAction(table, lambda x, k: x[:, inverse[k]], f"s{n}")


CASES: dict[str, tuple[GroupAction, Callable[[], nn.Module], tuple[int, ...]]] = {
    "CNN, p4, odd": (image_action("p4"), lambda: cnn(9), (2, 9, 9)),
    "CNN, p4, even": (image_action("p4"), lambda: cnn(8), (2, 8, 8)),
    "CNN, p4m, odd": (image_action("p4m"), lambda: cnn(7), (2, 7, 7)),
    "CNN, p4m, even": (image_action("p4m"), lambda: cnn(6), (2, 6, 6)),
    "CNN, d1": (image_action("d1"), lambda: cnn(5), (2, 5, 5)),
    "CNN, own group": (image_action(dihedral(2)), lambda: cnn(5), (2, 5, 5)),
    "MLP, p4": (image_action("p4"), lambda: mlp(25), (1, 5, 5)),
    "MLP, p4m": (image_action("p4m"), lambda: mlp(32), (2, 4, 4)),
    "MLP on vectors, s3": (permutations(3), lambda: mlp(3), (3,)),
    "MLP on vectors, s4": (permutations(4), lambda: mlp(4), (4,)),
    "MLP on sets, s4": (sets_action(4), lambda: mlp(8), (4, 2)),
    "group maps, p4m": (group_map_action("p4m"), lambda: mlp(2 * 8 * 9), (2, 8, 3, 3)),
    "functions on p4": (image_action("p4").on_functions(), lambda: mlp(12), (3, 4)),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[GroupAction, nn.Sequential, Tensor]:
    """Action, network and a batch of three."""
    action, build, shape = CASES[request.param]
    return action, seeded(build), noise(3, *shape)


Case = tuple[GroupAction, nn.Sequential, Tensor]


class TestBothForms:
    """What the whole and the layer-by-layer form must be, for any network, group and action."""

    def test_the_definition(self, case: Case) -> None:
        """F^(x)(g) = F(g^-1 x)."""
        action, network, x = case
        action.check(x.shape[1:])
        y = equivarify(network, action)(x)
        assert list(y.shape) == [3, 5, len(action)]
        for g in range(len(action)):
            expected = network(action.move(x, action.inverse[g]))
            assert_close(y[:, :, g], expected, 1e-14, f"element {g}")

    def test_equivariance_is_exact(self, case: Case) -> None:
        """F^(h x) = h F^(x) as exactly as F itself does not mind the order of a batch."""
        action, network, x = case
        for form in (equivarify(network, action), equivarify_layers(network, action)):
            y = form(x)
            for h in range(len(action)):
                assert_close(form(action.move(x, h)), form.act_on_output(y, h), 1e-15, f"element {h}")

    def test_layer_by_layer_equals_whole(self, case: Case) -> None:
        action, network, x = case
        assert_close(equivarify_layers(network, action)(x), equivarify(network, action)(x), 1e-14, "layers")

    def test_projection_at_the_identity_is_the_network(self, case: Case) -> None:
        action, network, x = case
        assert_close(AtIdentity()(equivarify(network, action)(x)), network(x), 1e-14, "at the identity")

    def test_parameters_are_the_networks_own(self, case: Case) -> None:
        action, network, _ = case
        own = {id(p) for p in network.parameters()}
        for form in (equivarify(network, action), equivarify_layers(network, action)):
            assert {id(p) for p in form.parameters()} == own and not list(form.buffers())
            assert sum(p.numel() for p in form.parameters()) == sum(p.numel() for p in network.parameters())

    def test_invariant_readings(self, case: Case) -> None:
        action, network, x = case
        for reduce in ("max", "mean", "logsumexp"):
            reading = nn.Sequential(equivarify(network, action), InvariantReading(reduce))
            for h in range(len(action)):
                assert_close(reading(action.move(x, h)), reading(x), 1e-14, f"{reduce}, element {h}")


@pytest.mark.parametrize("form", [equivarify, equivarify_layers], ids=["whole", "layers"])
class TestModules:
    """A module like others: modes, dtypes, batches, gradients, saving."""

    def test_batches(self, form: Callable[..., nn.Module]) -> None:
        module, x = form(seeded(lambda: cnn(6)), "p4"), noise(5, 2, 6, 6)
        together = module(x)
        for i in range(5):
            assert_close(module(x[i : i + 1]), together[i : i + 1], 1e-14, f"sample {i} alone")
        assert list(module(x[:0]).shape) == [0, 5, 4]

    def test_called_once(self, form: Callable[..., nn.Module]) -> None:
        network, calls = seeded(lambda: cnn(6)), []
        network[0].register_forward_hook(lambda *args: calls.append(args[1][0].shape[0]))
        form(network, "p4m")(noise(3, 2, 6, 6))
        assert calls == [24], "the group is folded into the batch"

    def test_gradients(self, form: Callable[..., nn.Module]) -> None:
        """Of a loss on the group: the sum over its elements of the network's own gradients."""
        network, x = seeded(lambda: cnn(6)), noise(2, 2, 6, 6).requires_grad_()
        weights = noise(2, 5, 4, seed=3)
        targets = [x, *network.parameters()]
        found = torch.autograd.grad((weights * form(network, "p4")(x)).sum(), targets)
        outputs = [network(x.rot90(-g, (-2, -1))) for g in range(4)]
        expected = torch.autograd.grad((weights * torch.stack(outputs, 2)).sum(), targets)
        for k, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert float(one.norm()) > 0
            assert_close(one, other, 1e-12, f"gradient {k}")

    def test_batch_norm_in_training_shares_its_statistics(self, form: Callable[..., nn.Module]) -> None:
        """Statistics over the group as over the batch: both forms alike, and equivariant in training too."""
        network = seeded(
            lambda: nn.Sequential(
                nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)
            )
        )
        x = noise(4, 2, 6, 6)
        network(x)  # fixes the lazy layer
        start = copy.deepcopy(network.state_dict())
        module = form(network, "p4m").train()
        y, mean = module(x), network[1].running_mean.clone()
        for h in range(8):
            network.load_state_dict(start)
            turned = module(find_group("p4m").act_on_image(x, h))
            assert_close(turned, module.act_on_output(y, h), 1e-12, f"element {h}")
            assert_close(network[1].running_mean, mean, 1e-12, f"running mean, element {h}")
        everyone = torch.cat([find_group("p4m").act_on_image(x, h) for h in range(8)])
        network.load_state_dict(start)
        network(everyone)
        assert_close(network[1].running_mean, mean, 1e-12, "statistics over batch and group")
        assert not form(network, "p4").eval()(x).isnan().any() and not network[1].training

    def test_saving(self, form: Callable[..., nn.Module]) -> None:
        module, other = form(seeded(lambda: cnn(6)), "p4"), form(seeded(lambda: cnn(6), 1), "p4")
        x, stored = noise(2, 2, 6, 6), io.BytesIO()
        torch.save(module.state_dict(), stored)
        stored.seek(0)
        other.load_state_dict(torch.load(stored, weights_only=True))
        assert torch.equal(module(x), other(x))
        for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert torch.equal(again(x), module(x))

    def test_dtypes(self, form: Callable[..., nn.Module]) -> None:
        module, x = form(seeded(lambda: cnn(6)), "p4m"), noise(2, 2, 6, 6)
        y = module(x)
        single = module.float()(x.float())
        assert single.dtype == torch.float32
        assert_close(single.double(), y, 1e-5, "float32")

    def test_maps_keep_their_axes(self, form: Callable[..., nn.Module]) -> None:
        network = seeded(lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 2)))
        assert list(form(network, "p4")(noise(2, 1, 6, 6)).shape) == [2, 2, 4, 3, 3]
        flat = nn.Sequential(nn.Flatten(), nn.Linear(36, 1).double(), nn.Flatten(0))
        assert list(form(flat, "p4m")(noise(2, 1, 6, 6)).shape) == [2, 8], "a number a sample"

    def test_measured_error(self, form: Callable[..., nn.Module]) -> None:
        network, x = seeded(lambda: cnn(9)), noise(3, 2, 9, 9)
        for name in ("p4", "p4m"):
            for part in (network, network[:4]):  # features, and maps
                errors = equivariance_error(form(part, name), name, x)
                assert float(errors.max()) < 1e-14, f"{name}: {errors.tolist()}"
                assert float(equivariance_error(part, name, x).max()) > 0.01, "the network itself is not"
        with pytest.raises(ValueError, match="under p4, but the error was asked for p4m"):
            equivariance_error(form(network, "p4"), "p4m", x)
        with pytest.raises(ValueError, match="leave shifts out"):
            equivariance_error(form(network, "p4"), "p4", x, [(1, 0)])


CONTRACT = [
    LayerCase(
        f"{name}, {size}",
        lambda name=name: equivarify(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh()), name),
        (2, size, size),
        (3, order, size - 2, size - 2),
        linear=False,
        wrong_shapes=((2, size, size + 1),),
    )
    for name, order in (("p4", 4), ("p4m", 8))
    for size in (4, 5)
] + [
    LayerCase(
        "permutations",
        lambda: equivarify(nn.Linear(3, 4), permutations(3)),
        (3,),
        (4, 6),
        linear=False,
        wrong_shapes=((5,),),
    )
]


@pytest.mark.parametrize("case", CONTRACT, ids=str)
class TestContract(LayerContract):
    """The laws of every layer."""


@settings(max_examples=20, deadline=None)
@given(size=st.integers(3, 9), batch=st.integers(1, 4), name=st.sampled_from(["p4", "p4m", "c2", "d2"]))
def test_any_size(size: int, batch: int, name: str) -> None:
    network, x = seeded(lambda: cnn(size)), noise(batch, 2, size, size)
    module = equivarify(network, name)
    y = module(x)
    for h in range(len(find_group(name))):
        moved = module(find_group(name).act_on_image(x, h))
        assert_close(moved, module.act_on_output(y, h), 1e-14, f"element {h}")


class TestQuotient:
    """Elements that act trivially cost nothing and say nothing."""

    def test_only_cosets_are_evaluated(self) -> None:
        table = [[(g + h) % 8 for h in range(8)] for g in range(8)]
        c8 = GroupAction(table, lambda x, k: x.rot90(k, (-2, -1)), "c8")
        network, x = seeded(lambda: cnn(6)), noise(3, 2, 6, 6)
        detected = c8.quotient(c8.kernel((2, 6, 6)))
        rows: list[int] = []
        network.register_forward_hook(lambda *args: rows.append(len(args[2])))
        small, large = equivarify(network, detected), equivarify(network, c8)
        y, full = small(x), large(x)
        assert rows == [12, 24] and list(y.shape) == [3, 5, 4]
        assert_close(y.repeat(1, 1, 2), full, 1e-14, "the function on C_8, constant on cosets")
        for h in range(8):
            turned = small(c8.move(x, h))
            assert_close(turned, small.act_on_output(y, h % 4), 1e-15, f"element {h}")

    def test_equals_the_group_itself(self) -> None:
        network, x = seeded(lambda: cnn(6)), noise(2, 2, 6, 6)
        action = image_action("p4m")
        assert torch.equal(equivarify(network, action.quotient([0]))(x), equivarify(network, action)(x))


class TestOfGroupMaps:
    """Equivarified parts in a network of group maps."""

    def test_a_later_layer_on_all_elements(self) -> None:
        """As in Bao & Song's example: copies side by side, a layer on them, equivarified by the moved copies."""
        first = equivarify(seeded(lambda: nn.Conv2d(1, 3, 3)), "p4")
        mixing = seeded(lambda: nn.Sequential(nn.Flatten(1, 2), nn.Conv2d(12, 5, 1)), 1)
        second = equivarify(mixing, first.output_action)
        x = noise(2, 1, 6, 6)
        for h in range(4):
            turned = second(first(x.rot90(h, (-2, -1))))
            assert_close(turned, second.act_on_output(second(first(x)), h), 1e-14, f"element {h}")

    def test_one_layer_on_functions_is_element_by_element(self) -> None:
        """(F^ y)(g) = F((g^-1 y)(e)) = F(y(g))."""
        layer, action = seeded(lambda: nn.Linear(3, 2)), image_action("p4m").on_functions()
        y = noise(2, 3, 8)
        expected = torch.stack([layer(y[:, :, g]) for g in range(8)], 2)
        found = equivarify(nn.Sequential(AtIdentity(), layer), action)(y)
        assert_close(found, expected, 1e-14, "element by element")

    def test_a_head_on_a_group_convolution(self) -> None:
        network = seeded(
            lambda: nn.Sequential(
                LiftingConv2d(1, 3, 3, "p4"),
                nn.ReLU(),
                GroupConv2d(3, 2, 3, "p4"),
                equivarify(
                    nn.Sequential(AtIdentity(), nn.Flatten(), nn.Linear(50, 4)), group_map_action("p4")
                ),
            )
        )
        x = noise(2, 1, 5, 5)
        for h in range(4):
            turned = network(x.rot90(h, (-2, -1)))
            assert_close(turned, network(x).roll(h, 2), 1e-12, f"{90 * h} degrees")


class TestReadings:
    """Classes and elements."""

    def test_the_element_turns_with_the_input(self) -> None:
        network, x = seeded(lambda: cnn(6)), noise(20, 2, 6, 6)
        action = image_action("p4m")
        module = equivarify(network, action)
        classes, elements = class_and_element(module(x))
        for h in range(8):
            found = class_and_element(module(action.move(x, h)))
            assert torch.equal(found[0], classes)
            assert torch.equal(found[1], action.product[h, elements])
        assert torch.equal(InvariantReading()(module(x)).argmax(1), classes), (
            "the class of the likeliest pair"
        )

    def test_loss_does_not_depend_on_the_turn(self) -> None:
        """Upright with the identity, or turned with the element: one loss."""
        module, x, classes = equivarify(seeded(lambda: cnn(6)), "p4"), noise(6, 2, 6, 6), torch.arange(6) % 5
        upright = joint_cross_entropy(module(x), classes, torch.zeros_like(classes))
        for h in range(4):
            turned = joint_cross_entropy(module(x.rot90(h, (-2, -1))), classes, torch.full_like(classes, h))
            assert_close(turned, upright, 1e-12, f"{h} quarter turns")

    def test_loss_is_a_softmax_over_pairs(self) -> None:
        logits, classes, elements = noise(3, 5, 4), torch.tensor([0, 4, 2]), torch.tensor([3, 0, 1])
        log_p = logits.reshape(3, 20).log_softmax(1).reshape(3, 5, 4)
        expected = -torch.stack([log_p[i, classes[i], elements[i]] for i in range(3)]).mean()
        assert_close(joint_cross_entropy(logits, classes, elements), expected, 1e-12, "cross-entropy")
        marginal = log_p.exp().sum(2).log()
        assert_close(InvariantReading("logsumexp")(logits).log_softmax(1), marginal, 1e-12, "class alone")

    def test_learns_an_upright_class_and_reads_the_turn(self) -> None:
        """Two upright patterns, never shown turned; told apart with their turns."""
        patterns = torch.zeros(2, 1, 4, 4)
        patterns[0, 0, 0, :], patterns[1, 0, 0, 0] = 1, 2
        module = equivarify(seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 2))).float(), "p4")
        optimizer, classes = torch.optim.Adam(module.parameters(), lr=0.1), torch.tensor([0, 1])
        for _ in range(100):
            loss = joint_cross_entropy(module(patterns), classes, torch.zeros_like(classes))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for h in range(4):
            found = class_and_element(module(patterns.rot90(h, (-2, -1))))
            assert found[0].tolist() == [0, 1] and found[1].tolist() == [h, h], f"{h} quarter turns: {found}"


class Pair(nn.Module):
    """Two outputs."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Twice the input."""
        return x, x


IMAGES, PLAIN = noise(2, 1, 4, 4), nn.Sequential(nn.Flatten())
REFUSED = {
    "unknown group": (lambda: equivarify(PLAIN, "p5"), "unknown group 'p5'"),
    "oblong images": (lambda: equivarify(PLAIN, "p4")(noise(2, 1, 4, 5)), "square maps, got 4x5"),
    "two outputs": (lambda: equivarify(Pair(), "p4")(IMAGES), "became tuple"),
    "no row a sample": (lambda: equivarify(nn.Flatten(0), "p4")(IMAGES), "a batch of 8 became [128]"),
    "later layer without rows": (
        lambda: equivarify_layers(nn.Sequential(nn.Flatten(), nn.Flatten(0)), "p4")(IMAGES),
        "became [128]",
    ),
    "no layers": (lambda: equivarify_layers(nn.Sequential(), "p4"), "one layer or more"),
    "no chain": (lambda: equivarify_layers(nn.Linear(2, 2), "p4"), "use equivarify"),
    "another number of elements": (
        lambda: equivarify_layers(nn.Sequential(PLAIN, PLAIN), "p4").layers[1](noise(2, 3, 8)),
        "4 elements",
    ),
    "output of another group": (
        lambda: equivarify(PLAIN, "p4").act_on_output(noise(2, 3, 8), 1),
        "4 elements",
    ),
    "unknown reduction": (lambda: InvariantReading("sum"), "'max', 'mean' or 'logsumexp', got 'sum'"),
    "no group to read": (lambda: InvariantReading()(noise(3)), "[batch, c, group, ...], got [3]"),
    "logits without group": (lambda: class_and_element(noise(2, 10)), "[2, 10]"),
    "class too large": (
        lambda: joint_cross_entropy(noise(1, 3, 4), torch.tensor([3]), torch.tensor([0])),
        "classes from 0 to 2, one for each of 1 samples, got [1] from 3 to 3",
    ),
    "element too large": (
        lambda: joint_cross_entropy(noise(1, 3, 4), torch.tensor([2]), torch.tensor([4])),
        "elements from 0 to 3",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_input(name: str) -> None:
    assert_refused(*REFUSED[name])


def test_public_names() -> None:
    assert symlearn.equivarify is equivarify and symlearn.equivarify_layers is equivarify_layers
    assert symlearn.GroupAction is GroupAction
