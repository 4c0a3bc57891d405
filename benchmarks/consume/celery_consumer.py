"""Celery with its solo pool, the cheapest one a message, and late acks; it publishes its own tasks first."""

from __future__ import annotations

from typing import Any

from celery import Celery

from benchmarks.consume.work import PREFETCH, Meter, asked, order_of


def main() -> None:
    url, queue, count, workload = asked()
    meter = Meter(count, workload)
    app = Celery("bench", broker=url)
    app.conf.update(
        task_default_queue=queue,
        broker_transport_options={"global_keyprefix": f"{queue}:"} if url.startswith("redis") else {},
        task_acks_late=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=PREFETCH,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,  # the figures are printed
        broker_connection_retry_on_startup=True,
    )

    @app.task(name="work")
    def work(order: dict[str, Any]) -> None:
        meter.handle_at_once(order)
        if meter.done.is_set():
            app.control.shutdown()

    for _ in range(count):
        work.delay(order_of(workload))
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    app.worker_main(["worker", "--pool", "solo", "--loglevel", "ERROR", *quiet])


if __name__ == "__main__":
    main()
