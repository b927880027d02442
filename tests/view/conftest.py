"""One browser for all tests of pictures: it takes seconds to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..support.browser import Browser


@pytest.fixture(scope="package")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Headless Chromium; whoever uses it opens a page of his own."""
    found = Browser(tmp_path_factory.mktemp("browser"))
    try:
        yield found
    finally:
        found.close()
