"""The pytest plugin: a fixture that asks for a sound model.

    def test_gradients(assert_healthy):
        assert_healthy(build_model(), one_batch(), nn.CrossEntropyLoss())

pytest loads it wherever surefoot is installed, and torch only with the first test that asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="session")
def assert_healthy() -> Callable[..., Any]:
    """surefoot.testing.assert_healthy(model, batch, loss_fn=None, optimizer=None, *, ignore=())."""
    from surefoot.testing import assert_healthy

    return assert_healthy
