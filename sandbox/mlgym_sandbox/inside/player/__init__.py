"""Runs a submission's program for the referee: reads questions on stdin, writes answers to stdout.

Standard library only (numpy in the roles of arrays), Python 3.9 or newer. It reaches a fresh sandbox, whose working
directory holds the submission, as one text made of these modules, see ``inside.bundle``: no file to guard.

Frames: ``u32 LE header length | JSON header | payload``. A question is ``{"seq", "op", "args" | "args_size",
"reply_bytes", "size"}``; an answer is ``{"seq", "ok": true, "result": {...}}`` followed by exactly
``reply_bytes`` bytes, or ``{"seq", "ok": false, "code", "error"}`` followed by none. The first question is
``hello {"role", "entry", ...facts}``, which imports the entry; each role's operations are told in its module:
``matches``, ``policy``, ``arrays``, ``branching``, ``calling``.

What this program protects: stray prints cannot corrupt a frame, because the real stdin and stdout are moved
to private descriptors before the submission is loaded. What it does not, and need not, protect: the
submission shares this process, so it may find those descriptors, forge answers or replace this code. All it
can do with that is to choose its own answers, which is what it is asked for anyway: no label, opponent,
clock, random state or score is here; the referee computes every length, checks every value, and believes
nothing else.
"""
