"""The one long-lived program inside a sandbox: runs commands and touches files for a server outside.

Standard library only, Python 3.9 or newer. It reaches a sandbox as one text (or file of bytecode) made of these
modules, see ``inside.bundle``, and is configured by the environment variable ``MLGYM_RUNNER``. One thread, one
loop over epoll.

It is PID 1 where the sandbox has its own pid namespace. Where it can, it has another uid than the commands,
so that they can neither signal it nor reach its descriptors; it takes the agent's uid for everything it does
on the agent's behalf. Nothing a command prints is ever read as protocol: output is payload, counted and kept.

It starts in a few milliseconds and forks cheaply because it imports little: modules of the standard library that
are large, or drag in large ones, are imported when they are first needed, or only their C halves (``native``).
"""
