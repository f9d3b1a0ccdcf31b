"""Augmentation: each sample by itself, whole pixels, black border, one generator."""

import pytest
import torch

from symlearn.data import augment


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(batch=64, c=2, h=12, w=10):
    return torch.rand(batch, c, h, w, generator=generator(9)) + 1  # no pixel is 0


def by_hand(image, down, right, mirror, fill):
    """One sample, [c, h, w], slowly: mirror, then shift."""
    source = image.flip(-1) if mirror else image
    c, h, w = image.shape
    out = torch.tensor(fill)[:, None, None].expand(c, h, w).clone()
    out[:, max(down, 0) : h + min(down, 0), max(right, 0) : w + min(right, 0)] = source[
        :, max(-down, 0) : h + min(-down, 0), max(-right, 0) : w + min(-right, 0)
    ]
    return out


def find(result, original, fill, shift=3):
    candidates = [
        (d, r, m) for d in range(-shift, shift + 1) for r in range(-shift, shift + 1) for m in (False, True)
    ]
    return [candidate for candidate in candidates if torch.equal(result, by_hand(original, *candidate, fill))]


def test_each_sample_is_flipped_and_shifted_by_itself():
    batch, fill = images(), [-1.0, -2.0]
    out = augment(batch, generator(), shift=3, fill=fill)
    found = [find(result, original, fill) for result, original in zip(out, batch, strict=True)]
    assert all(len(candidates) == 1 for candidates in found)
    moves = [candidates[0] for candidates in found]
    assert len(set(moves)) > 30, "samples of one batch share their moves"
    assert {down for down, _, _ in moves} == {right for _, right, _ in moves} == set(range(-3, 4))
    assert 16 < sum(mirror for *_, mirror in moves) < 48


def test_only_the_generator_matters_and_nothing_else_is_touched():
    batch = images()
    before, kept = torch.get_rng_state(), batch.clone()
    first = augment(batch, generator(1))
    torch.manual_seed(5)
    assert torch.equal(augment(batch, generator(1)), first)
    assert not torch.equal(augment(batch, generator(2)), first)
    torch.set_rng_state(before)
    augment(batch, generator(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(batch, kept)


def test_switched_off_it_is_the_identity():
    assert torch.equal(augment(images(), generator(), flip=False, shift=0), images())


def test_flips_alone():
    batch = images()
    out = augment(batch, generator(), shift=0)
    same = (out == batch).flatten(1).all(1)
    mirrored = (out == batch.flip(-1)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 16 < int(mirrored.sum()) < 48


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    assert augment(images().to(dtype), generator(), fill=torch.tensor([0.5, 1.0])).dtype == dtype


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"shift": 10}, "expected whole pixels from 0 to 9"),
        ({"shift": -1}, "shift is -1"),
        ({"shift": 1.5}, "shift is 1.5"),
        ({"fill": [1.0, 2.0, 3.0]}, "fill has 3 values"),
    ],
    ids=str,
)
def test_wrong_arguments(arguments, expected):
    with pytest.raises(ValueError, match=expected):
        augment(images(), generator(), **arguments)


def test_wrong_shape():
    with pytest.raises(ValueError, match="expected \\[batch, c, h, w\\]"):
        augment(torch.rand(3, 4, 4), generator())
