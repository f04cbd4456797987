"""What the tests of pages share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chromium import Browser


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for all tests of pages; a skip where there is none."""
    running = Browser(tmp_path_factory.mktemp("profile"))
    yield running
    running.close()
