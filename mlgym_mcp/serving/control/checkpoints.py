"""Snapshots over the control API: taken, listed, gone back to, and forked into sessions of their own."""

from __future__ import annotations

from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Depends, HTTPException, Response

from mlgym_mcp.api import (
    ForkRequest,
    Problem,
    RestoredView,
    RestoreRequest,
    SessionView,
    Snapshots,
    SnapshotView,
)
from mlgym_mcp.serving.control.dependencies import FoundSession, Hosted, handed_out, no_room, registry_key
from mlgym_mcp.serving.host import CREATION_ERRORS
from mlgym_mcp.serving.limits import FullError
from mlgym_mcp.session.checkpoint_store import Checkpoint, NoSuchSnapshotError, StoreError
from mlgym_mcp.session.ended import Ended
from mlgym_mcp.session.errors import InfrastructureError, RefusedError, SessionError
from mlgym_mcp.session.forking import parent_from, parent_of, stored
from mlgym_mcp.session.session import Session


def _said(code: int, text: str) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": Problem, "description": text}}


_NOT_FOUND = _said(404, "There is no such session, or it has no such snapshot.")
_NOT_NOW = _said(409, "Not now: the episode is over or being graded, or a limit is reached.")
_NOT_STORED = _said(507, "It could not be stored or read: the server's disk is full or damaged.")

router = APIRouter(prefix="/api/sessions/{id}", tags=["snapshots"], responses=_NOT_FOUND)


def _live(session: FoundSession) -> Session:
    if isinstance(session, Ended):
        raise HTTPException(409, "The episode is over: what is left is to fork its snapshots.")
    return session


_Live = Annotated[Session, Depends(_live)]


@router.post("/snapshots", status_code=201, responses=_NOT_NOW | _NOT_STORED)
async def take_snapshot(session: _Live) -> SnapshotView:
    """Keep the session's workspace as it is now. Waits for tool calls in flight; costs as much as has changed."""
    try:
        return _view(await session.checkpoints.take())
    except (SessionError, StoreError) as exc:
        raise _problem(exc) from exc


@router.get("/snapshots", responses=_NOT_STORED)
async def list_snapshots(host: Hosted, session: FoundSession) -> Snapshots:
    """List a session's snapshots, oldest first; also after its end."""
    try:
        if isinstance(session, Ended):
            found = await anyio.to_thread.run_sync(stored, session.folder, limiter=host.reading)
        else:
            found = await session.checkpoints.all()
    except (SessionError, StoreError) as exc:
        raise _problem(exc) from exc
    return Snapshots(snapshots=[_view(checkpoint) for checkpoint in found])


@router.post("/restore", responses=_NOT_NOW | _NOT_STORED)
async def restore_snapshot(wanted: RestoreRequest, session: _Live) -> RestoredView:
    """Make the session's workspace what it was at a snapshot. All its jobs are killed; no budget comes back."""
    try:
        done = await session.checkpoints.restore(wanted.snapshot)
    except (SessionError, StoreError) as exc:
        raise _problem(exc) from exc
    return RestoredView(snapshot=done.checkpoint.id, written=done.written, removed=done.removed, seconds=done.seconds)


@router.post(
    "/fork",
    status_code=201,
    responses={
        200: {"model": SessionView, "description": "The session made before with the same idempotency key."},
        **_NOT_NOW,
        **_said(503, "The server is stopping: see Retry-After."),
        **_NOT_STORED,
    },
)
async def fork_session(wanted: ForkRequest, host: Hosted, session: FoundSession, response: Response) -> SessionView:
    """Make a session that begins with a snapshot of this one, live or over. It is there at once, as a new one is."""
    key = registry_key(wanted.idempotency_key)
    folder = session.folder if isinstance(session, Ended) else session.episode.folder
    child, made = host.registry.find_by_key(key), False
    try:
        if child is None:
            snapshot = wanted.snapshot
            if isinstance(session, Session):
                parent = parent_of(session, snapshot or (await session.checkpoints.take()).id)
            elif snapshot is not None:
                catalog = host.registry.catalog
                parent = await anyio.to_thread.run_sync(parent_from, folder, snapshot, catalog, limiter=host.reading)
            else:
                raise RefusedError("The episode is over, so there is no snapshot of now: name one that it has.")
            child, made = await host.fork(
                parent, budget=wanted.budget, seed=wanted.seed, metadata=wanted.metadata, key=key
            )
    except FullError as exc:
        raise no_room(exc) from exc
    except (StoreError, *CREATION_ERRORS) as exc:
        raise _problem(exc) from exc
    begun_from = (None, None) if child.parent is None else child.parent
    if not made and (begun_from[0] != folder.name or wanted.snapshot not in (None, begun_from[1])):
        raise HTTPException(409, "the idempotency key belongs to another request")
    return handed_out(child, host, response, made=made)


def _view(checkpoint: Checkpoint) -> SnapshotView:
    return SnapshotView(
        id=checkpoint.id,
        created=checkpoint.t,
        files=checkpoint.files,
        bytes=checkpoint.size,
        new_files=checkpoint.new_files,
        new_bytes=checkpoint.new_bytes,
        calls=checkpoint.calls,
        notes=checkpoint.notes,
        left_out=dict(checkpoint.left_out),
        left_out_files=checkpoint.left_out_files,
    )


def _problem(exc: Exception) -> HTTPException:
    match exc:
        case NoSuchSnapshotError():
            return HTTPException(404, str(exc))
        case RefusedError():
            return HTTPException(409, str(exc))
        case InfrastructureError() | StoreError():
            return HTTPException(507, str(exc))
        case _:
            return HTTPException(400, str(exc))
