"""Running statistics of batch normalisation, measured anew."""

from __future__ import annotations

import copy

import torch
from tiny_fits import state_of
from torch import nn

from symlearn.data.samples import Held
from symlearn.layers import CosetPool2d, GroupConv2d
from symlearn.layers.coset_pool import GroupBatchNorm2d
from symlearn.training.batch_statistics import settle_batch_statistics
from symlearn.training.updates import update_evidence


def normed(dropout: float = 0.0) -> nn.Module:
    """A small network with two kinds of batch normalisation."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3, momentum=0.03),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Unflatten(1, (3, 1)),
        Repeated(),
        GroupConv2d(3, 2, 3, "p4"),
        GroupBatchNorm2d(2),
        CosetPool2d("p4"),
        nn.Flatten(),
        nn.Linear(2 * 36, 3),
    )


def unlabelled(images: torch.Tensor) -> Held:
    """Images whose targets do not matter."""
    return Held(images, torch.zeros(len(images)))


class Repeated(nn.Module):
    """The image over the four elements of p4."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, c, 1, h, w] -> [batch, c, 4, h, w]`."""
        return x.expand(-1, -1, 4, -1, -1)


class TestSettleBatchStatistics:
    def test_first_norm_holds_the_mean_and_variance_of_what_reaches_it(self) -> None:
        model, x = normed(), torch.randn(40, 1, 6, 6)
        settle_batch_statistics(model, unlabelled(x))
        before = model[0](x)
        torch.testing.assert_close(model[1].running_mean, before.mean((0, 2, 3)))
        torch.testing.assert_close(model[1].running_var, before.transpose(0, 1).flatten(1).var(1))

    def test_whole_batch_normalised_alike_in_train_and_eval_mode(self) -> None:
        """With one batch, `eval` uses the statistics that `train` would measure (up to N / (N - 1))."""
        model, x = normed(), torch.randn(200, 1, 6, 6)
        settle_batch_statistics(model, unlabelled(x))
        seen = model.eval()(x)
        torch.testing.assert_close(seen, model.train()(x), rtol=2e-3, atol=2e-3)

    def test_a_rest_counts_as_its_images_do(self) -> None:
        """41 images in batches of at most 40: two of about half, not one of 40 and one image on its own."""
        model, x = normed(), torch.randn(41, 1, 6, 6)
        x[-1] += 50
        settle_batch_statistics(model, unlabelled(x), size=40)
        mean = torch.stack([model[0](part).mean((0, 2, 3)) for part in (x[:21], x[21:])]).mean(0)
        torch.testing.assert_close(model[1].running_mean, mean)
        torch.testing.assert_close(mean, model[0](x).mean((0, 2, 3)), rtol=0.1, atol=0.1)

    def test_modes_momenta_weights_and_the_random_state_stay(self) -> None:
        model, x = normed(dropout=0.5).train(), torch.randn(40, 1, 6, 6)
        model[7].eval()
        modes = [part.training for part in model.modules()]
        weights = copy.deepcopy(dict(model.named_parameters()))
        random = torch.get_rng_state()
        settle_batch_statistics(model, unlabelled(x))
        assert [part.training for part in model.modules()] == modes
        assert torch.equal(torch.get_rng_state(), random), "dropout drew"
        assert (model[1].momentum, model[7].momentum) == (0.03, 0.1)
        assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())

    def test_nothing_runs_where_nothing_is_normalised(self) -> None:
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
        model.register_forward_hook(lambda *_: (_ for _ in ()).throw(AssertionError("ran")))
        settle_batch_statistics(model, unlabelled(torch.randn(4, 1, 6, 6)))

    def test_evidence_is_that_of_the_present_weights(self) -> None:
        """Statistics that lag behind do not enter an update."""
        data = torch.randn(60, 1, 6, 6), torch.arange(60) % 3
        fresh, lagging = (state_of(normed(), data, frequency=1) for _ in range(2))
        with torch.no_grad():
            lagging.model[1].running_mean += 7.0
            lagging.model[7].running_var *= 90.0
        for state in (fresh, lagging):
            update_evidence(state, data)
        assert fresh.evidence == lagging.evidence
