"""Fixtures of the sandbox's tests."""

from __future__ import annotations

from tests.sandbox.engine import docker_home, engine, host_image

__all__ = ["docker_home", "engine", "host_image"]
