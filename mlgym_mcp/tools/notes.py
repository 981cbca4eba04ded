"""Notes to oneself, for agents whose context is shorter than the episode."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mlgym_mcp.tools.reply import Call, Reply, cut


async def note_write(
    call: Call,
    text: Annotated[str, Field(description="What to remember: a result, a plan, a dead end.")],
    tags: Annotated[str, Field(description="Words to find it by, separated by spaces. May be empty.")] = "",
) -> Reply:
    """Keep a note for later in this episode: it outlives your context and the connection."""
    note = call.session.notes.write(text, tuple(tags.split()))
    return Reply(f"Kept as note {note.id}.", meta={"note": note.id})


async def note_search(
    call: Call,
    query: Annotated[str, Field(description="Words to look for; empty shows the newest notes.")] = "",
    limit: Annotated[int, Field(ge=1, le=50, description="How many notes to show at most.")] = 10,
) -> Reply:
    """Find notes kept with note_write in this episode, the best match first."""
    notes = call.session.notes.search(query, limit)
    if not notes:
        return Reply(f"No note matches (there are {len(call.session.notes)}).", meta={"notes": 0})
    shown = [f"[{n.id}]{' (' + ' '.join(n.tags) + ')' if n.tags else ''} {n.text}" for n in notes]
    return Reply(cut("\n\n".join(shown), "ask with a smaller limit"), meta={"notes": len(notes)})
