"""Many processes as one service: started, watched, replaced, stopped, and answered for on one port.

**Processes are fresh interpreters.** Each runs one worker. It is executed, not forked, so it inherits no event loop, thread,
lock or connection; a broken driver in one cannot touch another. What it is to run, secrets included, comes to it over a socket
pair that only the two of them have; its command line says the target and a number. The supervisor imports no user code:
what crashes at import crashes a process, and the supervisor tells of it in one line.

**The supervisor is a loop without an event loop** (``crew``). It starts what is due, reads what processes say, reaps what has
ended, kills what is late, and sleeps until the next of these. A process that died is started again after 0.5 s, then 1, 2, 4 …
30 s, each ± 20 %; ten seconds of running begin the count anew. Five deaths in a row of one slot are a crash loop: the others
drain, and the exit code is 70 (``policy``). What a restart cannot heal (TARGET, configuration, the port, a corrupt file: 64,
78, 69, 74) is not tried again if no process of that worker ever ran. As the first process of a container it reaps whoever is
left to it.

**One stop.** SIGTERM or SIGINT: SIGTERM to all at once, each drains by its own ``drain_timeout_seconds``, a second signal
hurries all of them, SIGKILL only for what is still there two seconds past its deadline. The port closes last. The exit code is
the worst: 0 all drained, 75 something was handed back (a killed one counts as that), else what went wrong. Processes have
groups of their own, so Ctrl-C reaches the supervisor alone. If the supervisor itself is killed, the kernel closes the socket
pairs, and each process drains as if it had been told to: no process outlives it for longer than its deadline.

**One port.** Processes listen nowhere; a thread of each answers the supervisor's questions even while a handler blocks its
loop. ``/metrics`` are sums over all (``merging``): what a dead process had counted stays in them, so nothing goes backwards.
Totals are fetched when somebody scrapes, every five seconds, and at a process's orderly end; what one counted in the five
seconds before a SIGKILL can be missing from the sums, and never from the work. ``/health`` has every process and the worst
status; ready is when every process is. ``pause``, ``resume`` and ``reload`` go to all, a pause also to those that start later.

**Reload** (SIGUSR1): the supervisor reads its configuration, starts or drains processes to match ``processes`` and
``[workers]``, and passes the signal on. If it cannot read it, nobody is told and nothing changes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pythia.supervisor.api import Server, Supervisor

__all__ = ["Server", "Supervisor"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'pythia.supervisor' has no attribute {name!r}")
    value = getattr(import_module("pythia.supervisor.api"), name)
    globals()[name] = value
    return value
