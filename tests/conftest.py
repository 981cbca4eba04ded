"""Fixtures that all tests share."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# CI's two cores are busy with sandboxes: how long drawing an example takes says nothing about the code.
settings.register_profile("mlgym", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
settings.load_profile("mlgym")

os.environ.pop("COLUMNS", None)  # several workers get the width of the terminal: tables are to be of the same, always


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
