"""Table 2 of van der Ouderaa et al. 2023 in small: sparsified paths beside dense ones.

Digits of scikit-learn in quadrants, both tasks, as in quadrant_digits.py:

    learned              f-fc+conv, selection by search
    sparse               s-fc+s-conv, half of the anchors, lengthscales learned by the evidence
    sparse-fixed         the same with every lengthscale left at 1
    sparse-lengthscale   the prior on the lengthscales in place of the anchors' values (the omega rows)

    python experiments/layerwise/sparse_digits.py [--seeds 0 1 2] [--workers 2] [--scale smoke]

It writes results/sparse_digits.json (a row a run) and prints the table. Runs that lie finished under --runs
are read, not repeated; those of quadrant_digits.py are the same.
"""

from __future__ import annotations

import sys

from digit_runs import HERE, keep_run, run_networks, table, write_results

RESULTS = HERE / "results" / "sparse_digits.json"
NETWORKS = {
    "learned": {"paths": "f-fc+conv"},
    "sparse": {"paths": "s-fc+s-conv"},
    "sparse-fixed": {"paths": "s-fc+s-conv", "learn": "nothing"},
    "sparse-lengthscale": {"paths": "s-fc+s-conv", "sparse_prior": "lengthscale"},
}
PUBLISHED = {  # van der Ouderaa et al. 2023, Table 2: parameters, test accuracy in percent, -log q / N
    "data": "CIFAR-10, ten-layer network, full scale; not comparable with these reduced-scale runs",
    "f-fc+conv": {"parameters": "1.8 M", "accuracy": 83.92, "negative_log_evidence": 1.277},
    "s-fc+s-conv": {"parameters": "1.0 M", "accuracy": 81.55, "negative_log_evidence": 0.978},
    "s-fc+s-conv, prior on lengthscales": {
        "parameters": "1.0 M",
        "accuracy": 80.63,
        "negative_log_evidence": 1.067,
    },
}


def main() -> int:
    """Run everything, write the JSON, print the table."""
    options, rows = run_networks(NETWORKS, __doc__.splitlines()[0], RESULTS)
    keep_run(options.runs, options.out.parent, "sparse", options.seeds[0])
    print(table(rows))
    write_results(
        options.out, options.scale, {"experiment": "sparse digits", "published": PUBLISHED, "rows": rows}
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
