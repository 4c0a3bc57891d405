"""The class that users subclass."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal, NoReturn, Self

import structlog

from pythia.config import WorkerConfig
from pythia.core.calling import default
from pythia.core.context import current
from pythia.core.life import Life, inside
from pythia.core.lifecycle import LifecycleManager
from pythia.core.metrics import Metrics
from pythia.core.middleware import Middleware
from pythia.core.outcome import Outcome
from pythia.core.reconfigure import reconfigure
from pythia.core.retry import RetryPolicy
from pythia.core.rules import class_defaults
from pythia.core.state import WorkerState
from pythia.core.stop import StopRequest
from pythia.errors import BrokerUnavailable, TargetError
from pythia.message import Message


class Worker:
    """Consumes one queue or several: subclass it and write ``process_message``.

    Class attributes are the defaults of the settings of the same name; flags, environment and file win over them. All names
    that do not start with ``_pythia_`` and are not below are yours.
    """

    queue: str = "default"
    queues: tuple[str, ...] = ()
    concurrency: int = 10
    handler_timeout_seconds: float | None = 300
    retry: RetryPolicy = RetryPolicy()
    sink: str | None = None

    message_type: type | None = None
    execution: Literal["asyncio", "thread", "process"] | None = None
    middlewares: Sequence[Middleware] = ()
    config_class: ClassVar[type[WorkerConfig]] = WorkerConfig

    def __init__(self, config: WorkerConfig | None = None) -> None:
        """No I/O but reading the configuration. None: ``config_class()``, from file and environment.

        Raises:
            ConfigError: a setting that cannot be used.
        """
        given = self.config_class() if config is None else config
        cls = type(self)
        self._pythia_config = given.with_class_defaults(class_defaults(cls, Worker), where=cls.__name__)
        self._pythia_life = Life(self, self._pythia_config)
        self._startup_time = datetime.now()  # noqa: DTZ005 - fixed by the first page: naive, local
        self.lifecycle_manager = LifecycleManager(self._pythia_config)
        self.logger: Any = structlog.get_logger(
            worker=self._pythia_config.worker_name, worker_id=self._pythia_config.worker_id
        )

    # What you write.

    @default
    async def process_message(self, message: Message[Any]) -> Any:
        """Handle one message; a plain ``def`` runs in a thread. What it returns goes to ``sink``, if there is one.

        Return: acked. Raise: retried by the policy, or ``Retry``, ``Defer``, ``Reject``, ``Drop``. Cancelled by a timeout
        (a counted failure) or a drain (released, uncounted): let ``CancelledError`` pass.
        """
        raise NotImplementedError(f"{type(self).__name__} has no process_message: nothing handles message {message.id}")

    @default
    async def process_batch(self, messages: Sequence[Message[Any]]) -> None:
        """Instead of ``process_message``: up to ``batch.size`` messages at once. Return: all acked that have not settled
        themselves; raise: all of those fail alike."""
        raise NotImplementedError

    async def on_startup(self) -> None:
        """Before consumption begins, with the broker connected. Tasks born here are kept, told of, and cancelled at the end."""

    async def on_shutdown(self) -> None:
        """After the last message, only if ``on_startup`` completed. An error is logged; the worker still stops."""

    @default
    async def health_check(self) -> bool:
        """Every ``health_check_interval`` seconds; false, raising or late makes ``/health`` degraded."""
        return True

    async def reload_config(self) -> None:
        """On SIGUSR1, SIGHUP, ``pythia reload``: read the same sources again, and apply all that changed, or nothing.

        Override it to read something else: what is then assigned to ``self.config`` is applied as a whole when this returns,
        and not at all if it raises.

        Raises:
            ConfigError: the new configuration cannot be used, or only by a restart. BrokerError: where it leads to cannot be
                reached. Nothing changed.
        """
        old = self.config
        if await self._pythia_life.reloader.apply(old.reload()):
            await self._apply_config_changes(old, self.config)

    async def _apply_config_changes(self, old: WorkerConfig, new: WorkerConfig) -> None:
        """After a reload was applied; if this raises it is rolled back. Called again, the other way round, when a reload
        that it was told of is rolled back."""

    @default
    async def on_outcome(self, message: Message[Any], outcome: Outcome) -> None:
        """After the broker carried out a settlement; an error in it is logged, no more."""

    def idempotency_key(self, message: Message[Any]) -> str | None:
        """Names the effect of ``message``, for ``dedup.enabled``; None: no dedup."""
        return message.idempotency_key

    @default
    def ordering_key(self, message: Message[Any]) -> str | None:
        """One message at a time within a key."""
        return message.ordering_key

    # What you use.

    @property
    def config(self) -> WorkerConfig:
        """The effective configuration. Assigning applies the hot keys to a running worker and warns about the others."""
        return self._pythia_config

    @config.setter
    def config(self, new: WorkerConfig) -> None:
        reconfigure(self, new.with_class_defaults(class_defaults(type(self), Worker), where=type(self).__name__))

    @property
    def state(self) -> WorkerState:
        return self._pythia_life.state

    @property
    def name(self) -> str:
        return self._pythia_config.worker_name

    @property
    def is_running(self) -> bool:
        """From the start until a stop is asked for, or the worker failed."""
        return self.state in (WorkerState.STARTING, WorkerState.RUNNING) and not self._pythia_life.stopping

    @property
    def metrics(self) -> Metrics:
        return self._pythia_life.metrics

    @property
    def exit_stack(self) -> AsyncExitStack:
        """Closed in reverse after ``on_shutdown``, and when ``on_startup`` fails."""
        return self._pythia_life.exit_stack

    async def publish(self, queue: str, body: Any, *, delay: float | timedelta | None = None, **options: Any) -> str:
        """Publish on the worker's broker; the id, once confirmed. In a handler the id is derived from its message's, so
        that a handler that runs twice says the same. ``options``: those of ``Publisher.publish``.

        Raises:
            PublishError: refused, or in doubt. BrokerUnavailable: not connected.
        """
        options["delay"] = delay
        handled, life = current.get(), self._pythia_life
        if handled is not None and inside.get() is life:  # else it is the handler of another worker
            return await handled.say(queue, body, options)
        shift = life.shift
        if shift is None:
            raise BrokerUnavailable(f"worker {self.name} is not connected: it publishes from on_startup to on_shutdown")
        return await shift.say(queue, body, options)

    async def _handle_error(self, error: BaseException) -> NoReturn:
        """Log and count an error, and raise it; the state stays as it is."""
        self._pythia_life.tally.user_errors += 1
        self.logger.error("error", exc_info=error)
        raise error

    # Run it.

    async def start(self) -> None:
        """The whole life; returns at STOPPED. Cancelled, the worker drains first.

        Raises:
            What ``on_startup`` raised, BrokerRefused, StoreError: it could not start, or could not go on.
        """
        from pythia.service import serve  # noqa: PLC0415 - the one arrow upwards: the composition root, on first use

        await serve(self)

    def run(self) -> int:
        """The same, blocking, with signals; the exit code. It does not return from a handler that never ends: 75."""
        from pythia.service import run  # noqa: PLC0415 - as above

        return run(self)

    def running(self) -> AbstractAsyncContextManager[Self]:
        """For embedding: RUNNING inside; no signals, and no HTTP unless ``http.enabled`` was set."""
        from pythia.service import embedded  # noqa: PLC0415 - as above

        return embedded(self)

    def stop(self, *, timeout: float | None = None) -> StopRequest:
        """Ask for the stop, at the moment of the call, from any thread, task, handler or signal handler; awaiting it
        (until STOPPED) is optional. ``timeout`` replaces ``drain_timeout_seconds``."""
        return self._pythia_life.request_stop("stop", timeout)

    def pause(self) -> None:
        """Take nothing more and release what waits, from any thread; handlers go on. Not kept over a restart."""
        self._pythia_life.pause()

    def resume(self) -> None:
        self._pythia_life.resume()


def make_worker(cls: type[Worker], config: WorkerConfig | None = None) -> Worker:
    """An instance of ``cls``, whose constructor may want a configuration or may take nothing.

    Raises:
        TargetError: its constructor does not call ``Worker``'s. Whatever the constructor raises.
    """
    worker = _made(cls, config)
    if not hasattr(worker, "_pythia_life"):
        raise TargetError(f"{cls.__name__}.__init__ must call super().__init__(config)")
    return worker


def _made(cls: type[Worker], config: WorkerConfig | None) -> Worker:
    signature = inspect.signature(cls)
    if config is None:
        with contextlib.suppress(TypeError):
            signature.bind()
            return cls()
    with contextlib.suppress(TypeError):
        signature.bind(None)
        return cls(cls.config_class() if config is None else config)
    return cls()
