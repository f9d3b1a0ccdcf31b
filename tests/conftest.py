"""What all tests share: one thread where sizes are toys, registries as they were, and the long ones first.

Runs write their pictures as dots, since drawing takes as long as a short fit; modules marked `pictures` have
them drawn, and the tests of `report/plots` draw every one.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Iterator

import pytest
import torch

from symlearn.layers import PATHS

DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAGqxBhQAAAABJRU5ErkJggg=="
)  # a grey PNG of one pixel


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Run on one thread, processes of a test's own too, and give the others back: toy sizes lose by them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="module")
def dots_for_pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """One pixel in place of every picture of a run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("pictures") is None:
            patch.setattr("symlearn.report.page.pngs", dots)
        yield


def dots(figures: Iterable[str]) -> dict[str, bytes]:
    """A white pixel by the name of each figure."""
    return dict.fromkeys(figures, DOT)


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
