"""Orbits of pairs (output, input) under a group given by generators: connected parts of a graph.

No element but the generators is ever formed, so the group may be as large as n!.

Axes: generator, d_out, d_in.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from symlearn.layers.generators import SignedPermutations


def components(nodes: int, targets: list[np.ndarray]) -> np.ndarray:
    """Which connected part every node is in, `[nodes]`, numbered by their first nodes."""
    sources = np.tile(np.arange(nodes), len(targets))
    edges = coo_array(
        (np.ones(len(sources), np.int8), (sources, np.concatenate(targets))), shape=(nodes, nodes)
    )
    return connected_components(edges, directed=False)[1].astype(np.int64)


def orbits_of_pairs(
    action_in: SignedPermutations, action_out: SignedPermutations
) -> tuple[np.ndarray, np.ndarray]:
    """The orbit of every pair `[d_out, d_in]`, and its sign within: +-1, or 0 where W must be zero."""
    p, s = action_in.index.numpy(), action_in.sign.numpy()
    q, t = action_out.index.numpy(), action_out.sign.numpy()
    shape = (action_out.d, action_in.d)
    pairs = action_out.d * action_in.d
    moved = [(b[:, None] * action_in.d + a[None]).ravel() for a, b in zip(p, q, strict=True)]
    if not (action_in.signed or action_out.signed):
        return components(pairs, moved).reshape(shape), np.ones(shape, np.int64)
    flips = [(b[:, None] * a[None] < 0).ravel() for a, b in zip(s, t, strict=True)]
    doubled = [  # nodes (pair, +) first, then (pair, -)
        np.concatenate([target + pairs * flip, target + pairs * ~flip])
        for target, flip in zip(moved, flips, strict=True)
    ]
    plus, minus = components(2 * pairs, doubled).reshape(2, *shape)
    return np.minimum(plus, minus), np.sign(minus - plus)


def maps_onto(action_in: SignedPermutations, action_out: SignedPermutations) -> bool:
    """Look for a map from input points onto output points that moves with the group, both without signs.

    An orbit of pairs that has as many as there are points in its input's orbit is such a map.

    Returns:
        Whether there is one. What does nothing on the input then does nothing on the output; the converse of
        that is not true.
    """
    label, _ = orbits_of_pairs(action_in, action_out)
    of_input = components(action_in.d, list(action_in.index.numpy()))
    points = np.bincount(of_input)[of_input]
    return bool((np.bincount(label.ravel())[label] == points).any(1).all())
