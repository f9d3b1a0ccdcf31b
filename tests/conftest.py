"""What all tests share: one thread where sizes are toys, registries as they were, and the long ones first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from symlearn.layers import PATHS


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Run on one thread, processes of a test's own too, and give the others back: toy sizes lose by them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def own_paths() -> Iterator[None]:
    """What a test, or a page that it runs, registers is gone after it: its neighbours take any order."""
    known = dict(PATHS)
    yield
    PATHS.clear()
    PATHS.update(known)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests first: whoever runs files side by side then ends with short ones."""
    slow = Counter(module_of(item) for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[module_of(item)])


def module_of(item: pytest.Item) -> pytest.Module | None:
    """The file of a test."""
    return item.getparent(pytest.Module)
