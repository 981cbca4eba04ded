"""Why a tool call was not carried out. Each message is what the agent reads."""

from __future__ import annotations


class SessionError(Exception):
    """Base of all."""


class RefusedError(SessionError):
    """The call is in order but cannot be had now: the episode is over, a budget is spent, data is being prepared.

    An ordinary result for the agent, not an error of its own.
    """


class EpisodeOverError(RefusedError):
    """The episode has ended."""


class MisuseError(SessionError):
    """The call asks for something that does not exist or is not allowed: the agent's to correct."""


class InfrastructureError(SessionError):
    """Something of ours failed (engine, disk, grader): never the agent's fault, never a score."""
