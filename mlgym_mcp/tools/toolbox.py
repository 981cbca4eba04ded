"""The list of tools: each function with what a client and the session need to know of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from mlgym_mcp.api import ScoreView, StatusView, TaskView
from mlgym_mcp.session.calls import CallSpec
from mlgym_mcp.tools import files, jobs, notes, task
from mlgym_mcp.tools.reply import Call, Reply, with_warning


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """One tool.

    Attributes:
        function: ``async (call, ...) -> Reply``; its docstring and annotations are the description and schema.
        title: for people.
        call: how it runs beside other calls and whether it counts.
        read_only: it changes nothing.
        destructive: it may destroy work.
        idempotent: doing it twice is the same as once.
        result: the model of its structured result, or ``None`` for plain text.
    """

    function: Callable[..., Awaitable[Reply]]
    title: str
    call: CallSpec
    read_only: bool
    destructive: bool
    idempotent: bool
    result: type[BaseModel] | None = None

    @property
    def name(self) -> str:
        """The tool's name on the wire."""
        return self.function.__name__

    async def run(self, call: Call, **arguments: Any) -> Reply:
        """Carry out one call; the reply says so, once, when little of the budget is left since the call before.

        Raises:
            Exception: what the tool raises.
        """
        reply = await self.function(call, **arguments)
        if call.session.over is not None or self.result is TaskView:
            return reply
        warning = call.session.meter.new_warning()
        if warning is None or self.result is StatusView:  # the status says it every time
            return reply
        return with_warning(reply, warning)


_READ = CallSpec("shared", counted=True)
_ALWAYS = CallSpec("shared", counted=False, after_end=True)
_FREE = CallSpec("shared", counted=False)
_CHANGE = CallSpec("ordered", counted=True)
_ALONE = CallSpec("exclusive", counted=True)
_LAST = CallSpec("exclusive", counted=False, after_end=True)  # a score that nobody waited for is still there

TOOLS: tuple[ToolSpec, ...] = (
    ToolSpec(task.get_task, "Read the task", _ALWAYS, True, False, True, TaskView),
    ToolSpec(task.status, "Session status", _ALWAYS, True, False, True, StatusView),
    ToolSpec(files.read_file, "Read a file", _READ, True, False, True),
    ToolSpec(files.write_file, "Write a file", _CHANGE, False, True, True),
    ToolSpec(files.edit_file, "Edit a file", _CHANGE, False, True, False),
    ToolSpec(files.list_files, "List files", _READ, True, False, True),
    ToolSpec(files.search_files, "Search files", _READ, True, False, True),
    ToolSpec(jobs.shell, "Run a command", _CHANGE, False, True, False),
    ToolSpec(jobs.job_wait, "Wait for a job", _FREE, True, False, True),
    ToolSpec(jobs.job_output, "Read a job's output", _FREE, True, False, True),
    ToolSpec(jobs.job_list, "List jobs", _FREE, True, False, True),
    ToolSpec(jobs.job_stop, "Stop a job", _FREE, False, True, True),
    ToolSpec(task.validate, "Validate", _ALONE, False, False, False, ScoreView),
    ToolSpec(task.submit, "Submit and finish", _LAST, False, True, False, ScoreView),
    ToolSpec(notes.note_write, "Keep a note", _FREE, False, False, False),
    ToolSpec(notes.note_search, "Find notes", _FREE, True, False, True),
)

BY_NAME = {tool.name: tool for tool in TOOLS}
