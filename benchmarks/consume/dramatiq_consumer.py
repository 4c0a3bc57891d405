"""Dramatiq with eight threads, its default; it publishes its own messages first."""

from __future__ import annotations

import threading
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker

from benchmarks.consume.work import Meter, asked, order_of

THREADS = 8


def main() -> None:
    url, queue, count, workload = asked()
    meter = Meter(count, workload)
    over = threading.Event()
    broker: dramatiq.Broker
    broker = RabbitmqBroker(url=url) if url.startswith("amqp") else RedisBroker(url=url, namespace=queue)
    broker.middleware[:] = [one for one in broker.middleware if type(one).__name__ != "Prometheus"]
    dramatiq.set_broker(broker)
    counting = threading.Lock()

    @dramatiq.actor(queue_name=queue)
    def work(order: dict[str, Any]) -> None:
        with counting:
            meter.handle_at_once(order)
            if meter.done.is_set():
                over.set()

    for _ in range(count):
        work.send(order_of(workload))
    worker = dramatiq.Worker(broker, worker_threads=THREADS)
    worker.start()
    over.wait()
    worker.stop()


if __name__ == "__main__":
    main()
