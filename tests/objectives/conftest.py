"""What tests of the runtimes that call PyTorch share."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def same_threads() -> Iterator[None]:
    """Let PyTorch use as many threads after a test as before it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
