"""Pythia on a file of its own, filled first."""

from __future__ import annotations

import sys

from benchmarks.consume import pythia_worker
from benchmarks.consume.work import BODY, asked
from pythia import SyncPublisher


def main() -> None:
    path, queue, count, _ = asked()
    sys.argv[1] = url = f"sqlite:///{path}"
    with SyncPublisher(url) as publisher:
        publisher.publish_many(queue, [BODY] * count, content_type="application/json")
    pythia_worker.main()


if __name__ == "__main__":
    main()
