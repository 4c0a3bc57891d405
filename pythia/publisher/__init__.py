"""Publishing from any application: ``Publisher`` for asyncio, ``SyncPublisher`` for everything else.

What ``publish`` returned is confirmed: the broker has it. Nothing is buffered in memory and nothing is sent again behind
your back; an error says whether the message may be there all the same (``in_doubt``), and then publishing it again with the
same ``id`` is safe. A connection that was lost is made anew by the next call.
"""

from __future__ import annotations

from pythia.publisher.asynchronous import Publisher
from pythia.publisher.blocking import SyncPublisher

__all__ = ["Publisher", "SyncPublisher"]
