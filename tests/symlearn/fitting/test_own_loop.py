"""A training loop of one's own: the prior's share of the gradients, evidence updates, what comes of them."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny_fits import bars, one_layer, options
from torch import nn

import symlearn
from symlearn.layers import RelaxedLayer2d
from symlearn.training.state import FitState
from symlearn.training.updates import update_evidence


def loop(
    model: nn.Module,
    updates: symlearn.EvidenceUpdates,
    data: tuple[torch.Tensor, torch.Tensor],
    epochs: int,
    burn_in: int = 0,
) -> list[float]:
    """Whole-batch steps of Adam, with an update after every fifth epoch of those after the burn-in."""
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    found = []
    for epoch in range(1, burn_in + epochs + 1):
        optimizer.zero_grad()
        F.cross_entropy(model(data[0]), data[1]).backward()
        updates.add_gradients()
        optimizer.step()
        if epoch % 5 == 0 and epoch > burn_in:
            found.append(updates.step())
    return found


class TestGradients:
    def test_added_gradients_are_those_of_the_penalty(self) -> None:
        data, model = bars(40, "direction"), one_layer("f-fc+conv", classes=3)
        updates = symlearn.EvidenceUpdates(model, train=data)
        updates.step()
        F.cross_entropy(model(data[0]), data[1]).backward()
        updates.add_gradients()
        added = {name: p.grad.clone() for name, p in model.named_parameters()}
        model.zero_grad()
        (F.cross_entropy(model(data[0]), data[1]) + updates.penalty()).backward()
        for name, p in model.named_parameters():
            torch.testing.assert_close(added[name], p.grad)

    def test_penalty_is_the_log_priors(self) -> None:
        data, model = bars(40, "direction"), one_layer("conv", classes=3)
        updates = symlearn.EvidenceUpdates(model, train=data)
        updates.step()
        delta = updates.prior_precision
        expected = sum(delta[n] * float(p.detach().square().sum()) for n, p in model.named_parameters()) / 80
        assert float(updates.penalty()) == pytest.approx(expected, rel=1e-5)


class TestUpdates:
    def test_a_step_is_an_evidence_update_of_fit(self) -> None:
        data, model = bars(60, "direction"), one_layer("f-fc+conv", classes=3)
        state = FitState(copy.deepcopy(model), options().resolved(60), 60)
        update_evidence(state, data)
        updates = symlearn.EvidenceUpdates(model, options(), data)
        assert updates.step() == state.evidence
        assert updates.prior_precision == state.prior.floats()

    def test_learning_raises_the_evidence(self) -> None:
        """From below the constant predictor's 264 nats to far above it."""
        data, model = bars(240, "direction"), one_layer("f-fc+conv", classes=3)
        found = loop(model, symlearn.EvidenceUpdates(model, train=data), data, 100, burn_in=200)
        assert found[-1] > max(found[0] + 50, -132), found

    @pytest.mark.parametrize("training", [True, False])
    def test_the_networks_mode_is_kept(self, training: bool) -> None:
        model = one_layer(classes=3).train(training)
        updates = symlearn.EvidenceUpdates(model)
        updates.step(bars(40, "direction"))
        assert model.training is training

    def test_interrupted_loop_continues_bit_identically(self) -> None:
        data, model = bars(60, "direction"), one_layer("f-fc+conv", classes=3)
        updates = symlearn.EvidenceUpdates(model, train=data)
        loop(model, updates, data, 10)
        twin = copy.deepcopy(model)
        other = symlearn.EvidenceUpdates(twin, train=data)
        other.load_state_dict(copy.deepcopy(updates.state_dict()))
        assert loop(model, updates, data, 10) == loop(twin, other, data, 10)

    def test_a_regressions_noise_is_in_the_loss(self) -> None:
        x, y = torch.randn(40, 1, 8, 8), torch.randn(40, 3)
        updates = symlearn.EvidenceUpdates(
            one_layer(classes=3), {"data": {"likelihood": "regression"}}, (x, y)
        )
        updates.step()
        f = updates.model(x)
        assert updates.sigma_noise != 1
        expected = 0.5 * (f - y).square().sum(1).mean() / updates.sigma_noise**2
        torch.testing.assert_close(updates.loss(f, y), expected)


class TestResult:
    def test_report_and_collapse(self) -> None:
        data, model = bars(120, "direction"), one_layer("f-fc+conv", classes=3)
        updates = symlearn.EvidenceUpdates(model, train=data)
        loop(model, updates, data, 40)
        result = updates.result(bars(60, "direction", 1))
        assert result.model is model and 0.3 < result.report["test"]["accuracy"] <= 1
        (layer, *_) = result.report["layers"]
        assert layer["verdict"]["symmetry"] == "undecided", "nobody asked"
        assert result.report["selection"]["removals"] == []
        plain = symlearn.collapse(model, result)
        assert not any(isinstance(m, RelaxedLayer2d) for m in plain.modules())
        torch.testing.assert_close(plain(data[0]), model(data[0]), rtol=1e-4, atol=1e-4)

    def test_without_data(self) -> None:
        updates = symlearn.EvidenceUpdates(one_layer())
        for ask in (updates.penalty, updates.step, updates.state_dict):
            with pytest.raises(ValueError, match="no training data yet"):
                ask()

    def test_wrong_data_are_told(self) -> None:
        with pytest.raises(ValueError, match="takes no training images"):
            symlearn.EvidenceUpdates(one_layer(), train=(torch.ones(4, 3, 8, 8), torch.zeros(4).long()))


class TestShown:
    def test_results_show_themselves(self) -> None:
        data, model = bars(60, "direction"), one_layer("f-fc+conv", classes=3)
        updates = symlearn.EvidenceUpdates(model, train=data)
        updates.step()
        result = updates.result()
        assert repr(result).startswith("FitResult: ") and len(repr(result)) < 500
        html = result._repr_html_()
        assert html.startswith("<pre") and "f-fc" in html and html == result.report._repr_html_()
        assert result.plot("effective-dimension").get_axes()
        with pytest.raises(ValueError, match="no figure 'x'; expected one of effective-dimension"):
            result.plot("x")

    def test_names_are_escaped(self) -> None:
        data, model = bars(60, "direction"), one_layer("f-fc+conv", classes=3)
        updates = symlearn.EvidenceUpdates(model, train=data)
        updates.step()
        report = updates.result().report
        report["layers"][0]["name"] = "<script>alert(1)</script>"
        assert "<script>" not in report._repr_html_()
