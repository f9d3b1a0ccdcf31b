"""What `test_kfac_process_groups.py` runs in every process of a group: `torchrun ... WORKER CASE FOLDER`.

Each process writes what it found to `FOLDER/RANK.pt`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import kfac

Batch = tuple[Tensor, Tensor]


def network(width: int = 6) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(27, width),
        nn.LayerNorm(width),
        nn.Tanh(),
        nn.Linear(width, 4),
    )


def batches(sizes: tuple[int, ...]) -> list[Batch]:
    torch.manual_seed(1)
    return [(torch.randn(n, 1, 6, 6), torch.randint(0, 4, (n,))) for n in sizes]


SPLITS = {"rows": ((5, 3, 4), 2), "sums": ((20, 13, 9, 8), 1), "mixed": ((7, 24), 1)}
PARTS = {"rows": "few data: both keep rows", "sums": "both have summed", "mixed": "one of each"}


def everything(
    model: nn.Module, data: list[Batch], likelihood: str = "classification", basis: Any = None, **options: Any
) -> dict[str, Any]:
    """Numbers of every pass, as tensors and counts."""
    grouped = {"process_group": options["process_group"]} if "process_group" in options else {}
    found: dict[str, Any] = {}
    for sharing, diagonal in (("expand", {}), ("reduce", {"0.weight": "diagonal"})):
        factors = kfac.compute_factors(
            model, data, likelihood, weight_sharing=sharing, fallback=diagonal, **options
        )
        found[sharing] = {name: factors.to_dense(name) for name in factors.names}
        found[f"{sharing}, kept"] = {
            name: b.inputs.n_rows
            for name, b in factors.items()
            if isinstance(b, kfac.KroneckerBlock) and b.inputs and b.inputs.rows
        }
        found[f"{sharing}, counts"] = (factors.n_data, factors.n_targets, float(factors.log_likelihood))
        eigen = factors.eigendecompose(vectors=True, **grouped)
        found[f"{sharing}, eigenvalues"] = eigen.eigenvalues
        if sharing == "expand":
            basis = eigen if basis is None else basis
            corrected = kfac.correct_eigenvalues(model, data, likelihood, basis, **options)
            found["corrected"], found["basis"] = corrected.eigenvalues, basis
    traces = kfac.partial_trace_basis(model, data, likelihood, **options)
    found["traces"] = traces.eigenvalues
    return found


def same(folder: Path, rank: int, group: Any) -> Any:
    """Every split of the data, and the random columns."""
    found: dict[str, Any] = {}
    for split, (sizes, at) in SPLITS.items():
        data = batches(sizes)
        part = data[:at] if rank == 0 else data[at:]
        found[split] = everything(network(), part, process_group=group)
    part = batches((6, 6))[rank : rank + 1]
    for seed in (3, 3, 4):
        factors = kfac.compute_factors(
            network(), part, "classification", "sketch", seed=seed, process_group=group
        )
        found.setdefault("sketched", []).append({n: factors.to_dense(n) for n in factors.names})
    found["placed"] = placed(rank, group)
    low = network().bfloat16()
    few = [(x.bfloat16(), y) for x, y in part]
    factors = kfac.compute_factors(low, few, "classification", process_group=group)
    found["bfloat16"] = {n: factors.to_dense(n) for n in factors.names}
    found["bfloat16 rows"] = [rows.dtype for rows in factors["3.weight"].inputs.rows]
    return found


def placed(rank: int = 0, group: Any = None) -> dict[str, Any]:
    """Factors and spectra of drawn columns whose data say where they lie, in batches of 5 of 12 data."""
    x, y = (torch.cat(parts) for parts in zip(*batches((6, 6)), strict=True))
    cut = slice(None) if group is None else slice(0, 7) if rank == 0 else slice(7, 12)
    data = list(zip(x[cut].split(5), y[cut].split(5), strict=True))
    place = None if group is None else kfac.Place(cut.start, 12, 5)
    given: dict[str, Any] = {"fisher_type": "sketch", "mc_samples": 2, "seed": 3}
    given |= {"process_group": group, "place": place}
    factors = kfac.compute_factors(network(), data, "classification", **given)
    traces = kfac.partial_trace_basis(network(), data, "classification", **given)
    corrected = kfac.correct_eigenvalues(network(), data, "classification", traces, **given)
    return {
        "factors": {n: factors.to_dense(n) for n in factors.names},
        "traces": {n: values.sort().values for n, values in traces.eigenvalues.items()},
        "corrected": {n: values.sum() for n, values in corrected.eigenvalues.items()},
    }


def failures(folder: Path, rank: int, group: Any) -> Any:
    """The message of every refusal, in this process."""
    data = batches((6, 6))[rank : rank + 1]
    torch.manual_seed(0)
    other = nn.Linear(2, 2)
    shifted = network()
    with torch.no_grad():
        shifted[0].weight.add_(0.1 * rank)
    shared = kfac.compute_factors(network(), data, "classification", process_group=group)
    common = shared.eigendecompose(vectors=True, process_group=group)
    broken = network() if rank == 0 else kfac_less()
    eigen = kfac.compute_factors(network(), data, "classification").eigendecompose(vectors=True)
    nan = [(x * float("nan") if rank else x, y) for x, y in data]
    classification = "classification"
    calls: dict[str, Callable[[], object]] = {
        "names": lambda: kfac.compute_factors(
            other if rank else network(), data, classification, process_group=group
        ),
        "shapes": lambda: kfac.compute_factors(network(6 + rank), data, classification, process_group=group),
        "weights": lambda: kfac.compute_factors(shifted, data, classification, process_group=group),
        "options": lambda: kfac.compute_factors(
            network(), data, classification, mc_samples=1 + rank, process_group=group
        ),
        "unknown choice": lambda: kfac.compute_factors(
            network(), data, classification if rank else "ranking", process_group=group
        ),
        "no data": lambda: kfac.compute_factors(
            network(), data if rank else [], classification, process_group=group
        ),
        "no data, corrected": lambda: kfac.correct_eigenvalues(
            network(), data if rank else [], classification, common, process_group=group
        ),
        "no data, traces": lambda: kfac.partial_trace_basis(
            network(), [] if rank else data, classification, process_group=group
        ),
        "uncovered": lambda: kfac.compute_factors(broken, data, classification, process_group=group),
        "basis": lambda: kfac.correct_eigenvalues(
            network(), data, classification, eigen, process_group=group
        ),
        "not finite": lambda: kfac.compute_factors(network(), nan, classification, process_group=group),
        "differentiable": lambda: kfac.compute_factors(
            network(), data, classification, differentiable=True, process_group=group
        ),
        "factors": lambda: kfac.compute_factors(network(6 + rank), data, classification).eigendecompose(
            process_group=group
        ),
    }
    found = {}
    for name, call in calls.items():
        try:
            call()
            found[name] = ("nothing", "")
        except Exception as error:  # noqa: BLE001, the test looks at what it is
            found[name] = (type(error).__name__, str(error))
    return found


def kfac_less() -> nn.Module:
    """The network with one more parameter, which no rule covers."""
    model = network()
    model.extra = nn.Parameter(torch.zeros(2))
    return model


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    case, folder = sys.argv[1], Path(sys.argv[2])
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    result = {"same": same, "failures": failures}[case](folder, rank, dist.group.WORLD)
    torch.save(result, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
