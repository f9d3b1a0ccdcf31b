"""Table 1 of van der Ouderaa et al. 2023 in small: does the network find the symmetry of each task?

Digits of scikit-learn in one of four quadrants of a 16 x 16 frame; tasks `quadrant-digit` (position does not
matter) and `quadrant` (it does). For every seed and task, networks trained in the same way:

    learned      f-fc+conv, selection by search            (the default)
    gradient     f-fc+conv, selection by gradients alone   (the paper's)
    conv, f-fc   one path, same stages, prior precisions by the evidence
    conv-map, f-fc-map, fc-map   one path, MAP, all prior precisions 1

Run it again with

    python experiments/layerwise/quadrant_digits.py [--seeds 0 1 2] [--workers 2] [--scale smoke]

It writes results/quadrant_digits.json (a row a run), prints the table and says which of its laws hold, seed
by seed and for the means over the seeds. Runs that lie finished under --runs are read, not repeated.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

from digit_runs import HERE, TASKS, fc_share, keep_run, run_networks, table, write_results

RESULTS = HERE / "results" / "quadrant_digits.json"
NETWORKS = {
    "learned": {"paths": "f-fc+conv", "selection": "search"},
    "conv": {"paths": "conv", "selection": "search"},
    "f-fc": {"paths": "f-fc", "selection": "search"},
    "conv-map": {"paths": "conv", "selection": "none"},
    "f-fc-map": {"paths": "f-fc", "selection": "none"},
    "gradient": {"paths": "f-fc+conv", "selection": "gradient"},
    "fc-map": {"paths": "fc", "selection": "none"},
}
PUBLISHED = {  # van der Ouderaa et al. 2023, Table 1: test accuracy in percent
    "data": "MNIST, ten-layer network, full scale; not comparable with these reduced-scale runs",
    "quadrant-digit": {"fc-map": 95.73, "conv-map": 99.38, "fc": 97.04, "conv": 99.23, "gradient": 98.86},
    "quadrant": {"fc-map": 95.10, "conv-map": 24.68, "fc": 95.46, "conv": 24.50, "gradient": 99.00},
}


def means(rows: list[dict]) -> list[dict]:
    """The means over the seeds, as rows of a seed called "mean"; nothing of a network that ever stopped."""
    runs: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        runs.setdefault((row["network"], row["task"]), []).append(row)
    return [
        {
            "network": network,
            "task": task,
            "seed": "mean",
            **{
                key: statistics.mean(row[key] for row in same)
                for key in ("accuracy", "nll", "log_marginal_likelihood")
            },
            "noise": statistics.mean(map(stated_noise, same)),
            "effective_parameters": {
                path: statistics.mean(row["effective_parameters"][path] for row in same)
                for path in same[0]["effective_parameters"]
            },
        }
        for (network, task), same in runs.items()
        if not any("stopped" in row for row in same)
    ]


def stated_noise(row: dict[str, Any]) -> float:
    """What refits of the same network differ by, in nats, as the search's last round measured it."""
    return next((p["noise"] for p in reversed(row.get("proposals", [])) if p["noise"] is not None), 0.0)


def laws(rows: list[dict]) -> list[dict]:
    """What must hold for every seed, with the numbers that decide it."""
    cell = {(r["network"], r["task"], r["seed"]): r for r in rows if "stopped" not in r}
    seeds = sorted({r["seed"] for r in rows})
    found = []

    def law(text: str, seed: int | str, holds: bool, numbers: dict) -> None:
        found.append({"law": text, "seed": seed, "holds": bool(holds), **numbers})

    for seed in seeds:
        digit, quadrant = cell["learned", "quadrant-digit", seed], cell["learned", "quadrant", seed]
        law(
            "convolutional paths hold most of the effective parameters on quadrant-digit",
            seed,
            fc_share(digit) < 0.5,
            {"fc_share": fc_share(digit)},
        )
        law(
            "clearly more of them in FC paths on quadrant",
            seed,
            fc_share(quadrant) > fc_share(digit) + 0.05,
            {"fc_share": fc_share(quadrant), "on_quadrant_digit": fc_share(digit)},
        )
        law(
            "CONV alone (MAP) fails quadrant",
            seed,
            cell["conv-map", "quadrant", seed]["accuracy"] < 0.4,
            {"accuracy": cell["conv-map", "quadrant", seed]["accuracy"]},
        )
        for task in TASKS:
            learned = cell["learned", task, seed]
            maps = [
                cell[n, task, seed] for n in ("conv-map", "f-fc-map", "fc-map") if (n, task, seed) in cell
            ]
            singles = [cell[n, task, seed] for n in ("conv", "f-fc") if (n, task, seed) in cell]
            best = max(r["accuracy"] for r in maps)
            law(
                f"{task}: accuracy within 2 points of the best MAP baseline",
                seed,
                learned["accuracy"] >= best - 0.02,
                {"accuracy": learned["accuracy"], "best_map": best},
            )
            lowest = min(r["nll"] for r in maps)
            law(
                f"{task}: test NLL below every MAP baseline",
                seed,
                learned["nll"] < lowest,
                {"nll": learned["nll"], "best_map": lowest},
            )
            evidence = max(r["log_marginal_likelihood"] for r in singles)
            noise = learned["noise"] if seed == "mean" else stated_noise(learned)
            law(
                f"{task}: log evidence at least the best single path's, within noise",
                seed,
                learned["log_marginal_likelihood"] >= evidence - noise,
                {
                    "log_evidence": learned["log_marginal_likelihood"],
                    "best_single": evidence,
                    "noise": noise,
                },
            )
    return found


def main() -> int:
    """Run everything, write the JSON, print the table and the laws."""
    options, rows = run_networks(NETWORKS, __doc__.splitlines()[0], RESULTS)
    keep_run(options.runs, options.out.parent, "learned", options.seeds[0])
    stopped = {row["network"] for row in rows if "stopped" in row}  # no laws about these; the rows tell why
    compared = {"learned", "conv", "f-fc", "conv-map", "f-fc-map"} <= set(options.networks) - stopped
    holds, over_seeds = (laws(rows), laws(means(rows))) if compared else ([], [])
    print(table(rows))
    for law in [*holds, *over_seeds]:
        print("holds " if law["holds"] else "FAILS ", {k: v for k, v in law.items() if k != "holds"})
    found = {"rows": rows, "laws": holds, "laws_over_seeds": over_seeds}
    content = {"experiment": "quadrant digits", "published": PUBLISHED, **found}
    write_results(options.out, options.scale, content)
    failed = options.scale != "smoke" and not all(law["holds"] for law in holds)
    return 1 if stopped or failed else 0


if __name__ == "__main__":
    sys.exit(main())
