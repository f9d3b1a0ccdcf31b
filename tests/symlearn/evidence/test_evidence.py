"""The log marginal likelihood against dense formulas, its gradients, and the steps that raise it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from oracles import log_determinant
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal
from toys import Batch, batch_of, mixed, seeded

from kfac import KroneckerBlock, KroneckerFactors, compute_factors
from symlearn.evidence.laplace import EvidenceModel, log_marginal_likelihood, squared_norms
from symlearn.evidence.prior import LOG_MAX, LOG_MIN, PriorPrecision, tensor_groups

LIKELIHOODS = ("classification", "regression")
STRUCTURES = ("tensor", "path", "scalar")


def toy(likelihood: str) -> tuple[nn.Module, Batch, KroneckerFactors]:
    """CONV, F-FC, FC, Linear with exact factors of twelve data."""
    model, batch = mixed(), batch_of((2, 5, 4), 12, likelihood=likelihood)
    return model, batch, compute_factors(model, [batch], likelihood)


def uneven(names: tuple[str, ...]) -> dict[str, float]:
    """A precision of its own for every tensor, between 0.1 and 10."""
    return {name: 10 ** math.sin(3 * i + 1) for i, name in enumerate(names)}


def gaussian_log_likelihood(f: Tensor, y: Tensor, sigma: float) -> Tensor:
    """Sum of log N(y; f, sigma^2)."""
    return Normal(f, sigma).log_prob(y).sum()


def central_difference(function, at: float, step: float = 1e-5) -> float:
    """(f(x + h) - f(x - h)) / 2h."""
    return (function(at + step) - function(at - step)) / (2 * step)


class TestTerms:
    """Each term by its own explicit formula."""

    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    def test_against_dense_blocks(self, likelihood: str) -> None:
        model, (x, y), factors = toy(likelihood)
        sigma, delta = 0.7, uneven(factors.names)
        evidence = log_marginal_likelihood(model, factors, delta, likelihood, sigma)
        f = model(x).detach()
        if likelihood == "classification":
            fit, scale = -F.cross_entropy(f, y, reduction="sum"), 1.0
        else:
            fit, scale = gaussian_log_likelihood(f, y, sigma), sigma**2
        penalty, volume = 0.0, 0.0
        for name, p in model.named_parameters():
            penalty -= 0.5 * delta[name] * float(p.detach().square().sum())
            determinant = log_determinant(factors.to_dense(name) / scale, delta[name])
            volume += 0.5 * p.numel() * math.log(delta[name]) - 0.5 * determinant
        expected = {"log_likelihood": float(fit), "weight_penalty": penalty, "volume": volume}
        for term, value in expected.items():
            found = getattr(evidence, term)
            assert found.dtype == torch.float64, f"{term} is {found.dtype}"
            assert float(found) == pytest.approx(value, rel=1e-10), term
        assert float(evidence.total) == pytest.approx(sum(expected.values()), rel=1e-12)

    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    def test_eigendecomposition_of_kfac_agrees(self, likelihood: str) -> None:
        model, _, factors = toy(likelihood)
        delta, sigma = uneven(factors.names), 1.3 if likelihood == "regression" else 1.0
        eigen = factors.eigendecompose()
        evidence = EvidenceModel(factors, squared_norms(model), likelihood, eigen)
        volume = 0.5 * sum(len(eigen.eigenvalues[n]) * math.log(delta[n]) for n in factors.names)
        volume -= 0.5 * float(eigen.logdet(delta, sigma))
        assert float(evidence.terms(delta, sigma).volume) == pytest.approx(volume, rel=1e-10)
        gamma = {n: float(g) for n, g in eigen.effective_parameters(delta, sigma).items()}
        assert evidence.effective_parameters(delta, sigma) == pytest.approx(gamma, rel=1e-10)

    def test_effective_parameters_fall_with_the_precision(self) -> None:
        model, _, factors = toy("classification")
        evidence = EvidenceModel(factors, squared_norms(model))
        sizes = {name: p.numel() for name, p in model.named_parameters()}
        last = {name: float(size) for name, size in sizes.items()}
        for log_delta in torch.linspace(LOG_MIN, LOG_MAX, 13).tolist():
            gamma = evidence.effective_parameters(dict.fromkeys(factors.names, math.exp(log_delta)))
            for name, value in gamma.items():
                assert 0 <= value <= last[name] + 1e-9, f"{name}: {value} after {last[name]} at {log_delta}"
            last = gamma
        assert max(last.values()) < 1e-3, "at the largest precision everything is off"

    def test_half_and_half_is_the_whole(self) -> None:
        model, (x, y), whole = toy("regression")
        halves = [compute_factors(model, [(x[s], y[s])], "regression") for s in (slice(6), slice(6, None))]
        delta = uneven(whole.names)
        one = log_marginal_likelihood(model, whole, delta, "regression", 0.5).total
        two = log_marginal_likelihood(model, halves[0] + halves[1], delta, "regression", 0.5).total
        assert float(one) == pytest.approx(float(two), rel=1e-10)


class TestGradients:
    """Autograd, the closed form and finite differences of the same function."""

    @pytest.mark.parametrize("structure", STRUCTURES)
    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    def test_in_log_precision(self, likelihood: str, structure: str) -> None:
        model, _, factors = toy(likelihood)
        norms, sigma = squared_norms(model), 0.8
        evidence = EvidenceModel(factors, norms, likelihood)
        prior = PriorPrecision(tensor_groups(model, structure))
        for i, group in enumerate(prior.log):
            prior.set_log(group, math.sin(2 * i + 1))
        for group, log in prior.log.items():

            def total(value: float, group: str = group) -> float:
                shifted = copy.deepcopy(prior)
                shifted.set_log(group, value)
                return float(evidence.terms(shifted.by_tensor(), sigma).total)

            prior.log[group] = log.clone().requires_grad_()
            (slope,) = torch.autograd.grad(evidence.terms(prior.by_tensor(), sigma).total, prior.log[group])
            prior.log[group] = log
            gamma, delta = evidence.effective_parameters(prior.by_tensor(), sigma), prior.floats()
            members = [name for name in factors.names if prior.groups[name] == group]
            closed = 0.5 * sum(gamma[name] - delta[name] * norms[name] for name in members)
            measured = central_difference(total, float(log))
            scale = 0.5 * sum(gamma[name] for name in members)  # where the two parts cancel
            assert abs(float(slope) - measured) < 1e-4 * abs(measured) + 1e-7 * scale, group
            assert float(slope) == pytest.approx(closed, rel=1e-9, abs=1e-10 * scale), group

    def test_in_log_noise(self) -> None:
        model, (x, y), factors = toy("regression")
        evidence, delta = EvidenceModel(factors, squared_norms(model), "regression"), uneven(factors.names)
        squares = float((model(x).detach() - y).square().sum())
        for sigma in (0.3, 1.0, 2.5):
            log_sigma = torch.tensor(math.log(sigma), dtype=torch.float64, requires_grad=True)
            (slope,) = torch.autograd.grad(evidence.terms(delta, log_sigma.exp()).total, log_sigma)
            measured = central_difference(
                lambda s: float(evidence.terms(delta, math.exp(s)).total), math.log(sigma)
            )
            gamma = sum(evidence.effective_parameters(delta, sigma).values())
            closed = squares / sigma**2 - y.numel() + gamma
            assert float(slope) == pytest.approx(measured, rel=1e-4), f"sigma {sigma}"
            assert float(slope) == pytest.approx(closed, rel=1e-9), f"sigma {sigma}"


class TestMacKay:
    """The fixed point delta = gamma / ||theta||^2, sigma^2 = SSE / (T - gamma)."""

    @pytest.mark.parametrize("structure", STRUCTURES)
    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    def test_fixed_point_is_stationary(self, likelihood: str, structure: str) -> None:
        model, _, factors = toy(likelihood)
        norms = squared_norms(model)
        evidence = EvidenceModel(factors, norms, likelihood)
        prior = PriorPrecision(tensor_groups(model, structure))
        sigma = evidence.mackay(prior, steps=4000)
        delta, gamma = prior.floats(), evidence.effective_parameters(prior.by_tensor(), sigma)
        checked = 0
        for group, log in prior.log.items():
            if not LOG_MIN < float(log) < LOG_MAX:
                continue  # held by a bound, where the slope need not vanish
            members = [name for name in factors.names if prior.groups[name] == group]
            whole = sum(gamma[name] for name in members)
            slope = 0.5 * sum(gamma[name] - delta[name] * norms[name] for name in members)
            assert abs(slope) < 1e-6 * max(whole, 1e-3), f"{group}: slope {slope:.2e}, gamma {whole:.3g}"
            checked += 1
        assert checked > 0.5 * len(prior.log), (
            f"only {checked} of {len(prior.log)} precisions off their bounds"
        )
        if likelihood == "regression":
            freedom = evidence.n_targets - sum(gamma.values())
            assert sigma**2 == pytest.approx(-2 * evidence.fit / freedom, rel=1e-6)

    def test_steps_raise_the_evidence(self) -> None:
        model, _, factors = toy("regression")
        evidence = EvidenceModel(factors, squared_norms(model), "regression")
        prior, sigma = PriorPrecision(tensor_groups(model, "tensor"), 30.0), 5.0
        totals = [float(evidence.terms(prior.by_tensor(), sigma).total)]
        for _ in range(4):
            sigma = evidence.mackay(prior, sigma, steps=10)
            totals.append(float(evidence.terms(prior.by_tensor(), sigma).total))
        assert all(b >= a - 1e-6 for a, b in zip(totals, totals[1:], strict=False)), totals
        assert totals[-1] > totals[0] + 1

    def test_damping_only_slows(self) -> None:
        model, _, factors = toy("classification")
        evidence, ends = EvidenceModel(factors, squared_norms(model)), []
        for damping in (0.3, 1.0):
            prior = PriorPrecision(tensor_groups(model, "path"))
            evidence.mackay(prior, steps=3000, damping=damping)
            ends.append(prior.floats())
        assert ends[0] == pytest.approx(ends[1], rel=1e-5)

    def test_precisions_of_switched_off_tensors_are_left_alone(self) -> None:
        """A group without curvature is not stepped: nothing is known about it."""
        model, _, factors = toy("classification")
        prior = PriorPrecision({**tensor_groups(model, "tensor"), "absent": "absent"}, 3.0)
        EvidenceModel(factors, squared_norms(model)).mackay(prior)
        assert prior.floats()["absent"] == pytest.approx(3.0)


def diagonal_factors(**spectra: list[float]) -> KroneckerFactors:
    """Factors of biases with the given eigenvalues."""
    blocks = {
        name: KroneckerBlock(
            None, torch.diag(torch.tensor(s, dtype=torch.float64))[None], 1, torch.Size([len(s)])
        )
        for name, s in spectra.items()
    }
    return KroneckerFactors(blocks, 1)


class TestDegenerateTensors:
    """0/0, 0/norm and gamma/0 in MacKay's step."""

    EVIDENCE = EvidenceModel(
        diagonal_factors(nothing=[0.0, 0.0], flat=[0.0, 0.0], vanished=[4.0, 2.0], live=[4.0, 2.0]),
        {"nothing": 0.0, "flat": 1.5, "vanished": 0.0, "live": 0.5},
    )
    PRIOR = staticmethod(lambda: PriorPrecision({n: n for n in ("nothing", "flat", "vanished", "live")}, 2.0))

    def test_mackay(self) -> None:
        prior = self.PRIOR()
        self.EVIDENCE.mackay(prior, steps=500)
        log = {group: float(value) for group, value in prior.log.items()}
        assert log["nothing"] == pytest.approx(math.log(2.0)), "0/0 keeps its precision"
        assert log["flat"] == LOG_MIN, "weights without curvature: the prior lets go of them"
        gamma = self.EVIDENCE.effective_parameters(prior.by_tensor())
        assert gamma["vanished"] < 1e-5, "curvature without weights: off"
        assert prior.floats()["live"] == pytest.approx(gamma["live"] / 0.5, rel=1e-6)

    def test_adam(self) -> None:
        prior = self.PRIOR()
        self.EVIDENCE.adam(prior, {}, steps=2000)
        log = {group: float(value) for group, value in prior.log.items()}
        assert log["nothing"] == pytest.approx(math.log(2.0)), "no slope, no step"
        assert log["flat"] < -5, "weights without curvature: the prior lets go of them"
        assert all(LOG_MIN <= value <= LOG_MAX for value in log.values()), log

    @pytest.mark.parametrize("method", ["mackay", "adam"])
    def test_nothing_leaves_the_bounds(self, method: str) -> None:
        for initial in (1e-5, 1e7):
            prior = PriorPrecision({n: n for n in self.EVIDENCE.names}, initial)
            if method == "mackay":
                self.EVIDENCE.mackay(prior, steps=100)
            else:
                self.EVIDENCE.adam(prior, {}, steps=100, lr=3.0)
            values = [float(value) for value in prior.log.values()]
            assert all(LOG_MIN <= value <= LOG_MAX for value in values), values
            assert math.isfinite(float(self.EVIDENCE.terms(prior.by_tensor()).total))


class TestAdam:
    """Closed-form slopes through Adam's own arithmetic."""

    @pytest.mark.parametrize("structure", STRUCTURES)
    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    def test_equals_torch_adam_on_the_evidence(self, likelihood: str, structure: str) -> None:
        """Thirty steps in two calls, the moments carried between them."""
        model, _, factors = toy(likelihood)
        evidence = EvidenceModel(factors, squared_norms(model), likelihood)
        groups = tensor_groups(model, structure)
        ours, moments = PriorPrecision(groups, 2.0), {}
        sigma = evidence.adam(ours, moments, 0.6, steps=11)
        sigma = evidence.adam(ours, moments, sigma, steps=19)

        theirs = PriorPrecision(groups, 2.0)
        log_sigma = torch.tensor(math.log(0.6), dtype=torch.float64, requires_grad=True)
        for value in theirs.log.values():
            value.requires_grad_()
        learned = [*theirs.log.values(), *([log_sigma] if likelihood == "regression" else [])]
        optimizer = torch.optim.Adam(learned, lr=0.1, maximize=True)
        for _ in range(30):
            optimizer.zero_grad()
            evidence.terms(theirs.by_tensor(), log_sigma.exp()).total.backward()
            optimizer.step()
        truth = {group: float(value.detach()) for group, value in theirs.log.items()}
        assert ours.state() == pytest.approx(truth, abs=1e-9)
        assert sigma == pytest.approx(math.exp(float(log_sigma.detach())), rel=1e-9)

    def test_raises_the_evidence_to_the_fixed_point(self) -> None:
        model, _, factors = toy("regression")
        evidence = EvidenceModel(factors, squared_norms(model), "regression")
        groups = tensor_groups(model, "path")
        prior, moments, sigma = PriorPrecision(groups), {}, 3.0
        totals = [float(evidence.terms(prior.by_tensor(), sigma).total)]
        for lr in (0.1, 0.1, 0.1, 0.03, 0.01):
            sigma = evidence.adam(prior, moments, sigma, steps=200, lr=lr)
            totals.append(float(evidence.terms(prior.by_tensor(), sigma).total))
        assert all(b > a - 1e-3 for a, b in zip(totals, totals[1:], strict=False)), totals
        best = PriorPrecision(groups)
        best_sigma = evidence.mackay(best, 3.0, steps=4000)
        optimum = float(evidence.terms(best.by_tensor(), best_sigma).total)
        assert totals[-1] == pytest.approx(optimum, abs=0.05), "Adam and MacKay end at the same evidence"


class TestBayesianLinearRegression:
    """y = X w + noise, one output, no bias: KFAC is exact and so is the Laplace approximation."""

    DATA, WEIGHTS, NOISE = 400, 12, 0.3

    def data(self) -> Batch:
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(self.DATA, self.WEIGHTS, generator=generator, dtype=torch.float64)
        w = torch.randn(self.WEIGHTS, 1, generator=generator, dtype=torch.float64) / 2
        noise = torch.randn(self.DATA, 1, generator=generator, dtype=torch.float64)
        return x, x @ w + self.NOISE * noise

    def at_map(self, batch: Batch, delta: float, sigma: float) -> nn.Sequential:
        """The linear model at its MAP weights under these hyperparameters."""
        x, y = batch
        model = seeded(nn.Linear(self.WEIGHTS, 1, bias=False))
        normal = x.T @ x + delta * sigma**2 * torch.eye(self.WEIGHTS, dtype=torch.float64)
        with torch.no_grad():
            model[0].weight.copy_(torch.linalg.solve(normal, x.T @ y).T)
        return model

    def exact(self, batch: Batch, delta: Tensor, sigma: Tensor) -> Tensor:
        """log N(y; 0, sigma^2 I + X X^T / delta), the weights integrated out."""
        x, y = batch
        covariance = sigma**2 * torch.eye(len(x), dtype=torch.float64) + x @ x.T / delta
        return MultivariateNormal(torch.zeros(len(x), dtype=torch.float64), covariance).log_prob(y[:, 0])

    @pytest.mark.parametrize(("delta", "sigma"), [(1.0, 1.0), (0.05, 0.3), (40.0, 2.0)], ids=str)
    def test_evidence_is_the_exact_marginal_likelihood(self, delta: float, sigma: float) -> None:
        batch = self.data()
        model = self.at_map(batch, delta, sigma)
        factors = compute_factors(model, [batch], "regression")
        found = log_marginal_likelihood(model, factors, {"0.weight": delta}, "regression", sigma).total
        truth = self.exact(batch, *torch.tensor([delta, sigma], dtype=torch.float64))
        assert float(found.detach()) == pytest.approx(float(truth), rel=1e-9)

    @pytest.mark.parametrize("method", ["mackay", "adam"])
    def test_planted_noise_is_found(self, method: str) -> None:
        """Alternating MAP weights and hyperparameters ends where the exact marginal likelihood is stationary."""
        batch = self.data()
        prior, sigma, moments = PriorPrecision({"0.weight": "0.weight"}), 1.0, {}
        for k in range(60):
            model = self.at_map(batch, prior.floats()["0.weight"], sigma)
            factors = compute_factors(model, [batch], "regression")
            evidence = EvidenceModel(factors, squared_norms(model), "regression")
            if method == "mackay":
                sigma = evidence.mackay(prior, sigma)
            else:
                sigma = evidence.adam(prior, moments, sigma, lr=0.1 * 0.9**k)
        assert sigma == pytest.approx(self.NOISE, rel=0.1)
        logs = [torch.tensor(v, dtype=torch.float64) for v in (float(prior.log["0.weight"]), math.log(sigma))]
        logs = [log.requires_grad_() for log in logs]
        slopes = torch.autograd.grad(self.exact(batch, logs[0].exp(), logs[1].exp()), logs)
        limit = 1e-4 if method == "mackay" else 0.1  # nats per unit of log; Adam stops near
        assert max(abs(float(s)) for s in slopes) < limit, f"slopes of the exact evidence: {slopes}"


class TestWrongInput:
    """One line each."""

    def test_a_tensor_without_precision(self) -> None:
        model, _, factors = toy("classification")
        delta = uneven(factors.names[1:])
        with pytest.raises(
            ValueError, match=r"^no prior precision for 0.weight; give a positive value"
        ) as error:
            log_marginal_likelihood(model, factors, delta)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("value", [0.0, -2.0, math.nan, math.inf], ids=str)
    def test_a_precision_that_is_not_positive(self, value: float) -> None:
        model, _, factors = toy("classification")
        delta = {**uneven(factors.names), "0.bias": value}
        with pytest.raises(ValueError, match=r"prior precision of 0.bias .* positive"):
            log_marginal_likelihood(model, factors, delta)

    @pytest.mark.parametrize("value", [0.0, -1.0, math.nan], ids=str)
    def test_a_noise_that_is_not_positive(self, value: float) -> None:
        model, _, factors = toy("regression")
        with pytest.raises(ValueError, match="sigma_noise must be positive"):
            log_marginal_likelihood(model, factors, uneven(factors.names), "regression", value)

    def test_an_unknown_likelihood(self) -> None:
        model, _, factors = toy("classification")
        with pytest.raises(ValueError, match="unknown likelihood 'poisson'; choose"):
            log_marginal_likelihood(model, factors, uneven(factors.names), "poisson")

    def test_a_tensor_without_norm(self) -> None:
        _, _, factors = toy("classification")
        with pytest.raises(ValueError, match="no weight norms for"):
            EvidenceModel(factors, {})
