"""Puts the delivery path of one run together: from a worker, its configuration and a connected broker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pythia.broker import Broker, IdempotencyStore
from pythia.core.calling import handler_of, written
from pythia.core.dedup import Dedup
from pythia.core.engine import ON_OUTCOME, Engine, Terms
from pythia.core.events import TaskFailed
from pythia.core.middleware import compose
from pythia.core.ordering import KeyOf, Keys, key_of_producer
from pythia.core.outcome import Outcome
from pythia.core.processor import Processor
from pythia.core.rules import Rules, build_rules, declared_type
from pythia.core.shift import Shift
from pythia.message import Message

if TYPE_CHECKING:
    from pythia.config import WorkerConfig
    from pythia.core.life import Life
    from pythia.core.worker import Worker

CLAIM_WITHOUT_TIMEOUT_SECONDS = 3600.0


def assemble(life: Life, broker: Broker, store: IdempotencyStore | None) -> tuple[Shift, Engine]:
    """The shift and the engine of a run that is about to begin; nothing is started."""
    worker, config = life.worker, life.worker.config
    shift = Shift(
        worker=config.worker_name,
        worker_id=config.worker_id,
        broker=broker,
        rules=rules_of(worker, config),
        tally=life.tally,
        emit=life.emit,
        clock=life.clock,
        random=life.random,
        stopwatch=life.stopwatch,
        suspects=life.suspects,
    )
    life.tally.consumes(config.queue_names)  # so that their counters stand at 0 before the first message
    batched, handler = handler_of(worker)
    dedup = Dedup(store, worker.idempotency_key, shift, hold_seconds=claim_seconds(config))
    processor = Processor(shift, compose(worker.middlewares, handler), dedup, batched=batched)
    engine = Engine(
        shift,
        processor,
        Keys(key_of(worker, broker)),
        terms_of(config),
        batched=batched,
        on_connection=life.connection_changed,
        broker_url=config.broker.display_url,
    )
    shift.on_outcome = outcome_hook(worker, engine)
    return shift, engine


def terms_of(config: WorkerConfig) -> Terms:
    """How ``config`` has its queues consumed."""
    return Terms(
        queues=config.queue_names,
        concurrency=config.concurrency,
        prefetch=config.prefetch,
        lease=config.lease_seconds,
    )


def claim_seconds(config: WorkerConfig) -> float:
    """How long a claim of an idempotency key outlives a crash."""
    return (config.handler_timeout_seconds or CLAIM_WITHOUT_TIMEOUT_SECONDS) + config.lease_seconds


def key_of(worker: Worker, broker: Broker) -> KeyOf | None:
    """By what the worker keeps messages apart: it computes keys, or the broker does not keep them apart by itself."""
    if written(type(worker).ordering_key):
        return worker.ordering_key
    return None if broker.capabilities.ordering_keys else key_of_producer


def rules_of(worker: Worker, config: WorkerConfig) -> Rules:
    """The rules of ``worker`` under ``config``."""
    declared = worker.message_type or declared_type(handler_function(worker))
    return build_rules(config, policy=type(worker).retry, declared_type=declared)


def handler_function(worker: Worker) -> Any:
    """The function whose annotations tell the type of bodies."""
    cls = type(worker)
    return cls.process_batch if written(cls.process_batch) else cls.process_message


def outcome_hook(worker: Worker, engine: Engine) -> Any:
    """The user's ``on_outcome``, run beside the lanes; None when the class has none of its own."""
    if not written(type(worker).on_outcome):
        return None

    async def told(message: Message[Any], outcome: Outcome) -> None:
        try:
            await worker.on_outcome(message, outcome)
        except Exception as error:  # noqa: BLE001 - the user's hook may raise anything; it is told, no more
            engine.emit(TaskFailed(where="on_outcome", error=error))

    def hook(message: Message[Any], outcome: Outcome) -> None:
        engine.beside(told(message, outcome), ON_OUTCOME)

    return hook
