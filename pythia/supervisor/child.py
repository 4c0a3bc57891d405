"""One process under the supervisor: it is told over its wire what to run, runs that, and answers questions meanwhile.

The questions are answered by a thread of its own, so that a blocked handler silences nothing. When the wire closes, the
supervisor is gone, however it ended: then the process drains as if it had been told to.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from multiprocessing import spawn
from pathlib import Path
from typing import Any

from pythia import service, signals
from pythia.config import (
    WorkerConfig,
    redacted,
    set_config_file,
    set_process_flags,
    set_worker_table,
    was_set,
)
from pythia.core.events import Notice
from pythia.core.life import Life
from pythia.core.worker import Worker, make_worker
from pythia.errors import PythiaError
from pythia.observability import health
from pythia.observability.metrics import WorkerCollector, gathered
from pythia.supervisor import inside
from pythia.supervisor.channel import Line
from pythia.supervisor.order import Order
from pythia.supervisor.policy import KILL_GRACE_SECONDS, RELOAD_SECONDS
from pythia.target import load_target, make, user_bug


def main(argv: Sequence[str]) -> int:
    """The whole life of the process; its exit code."""
    inside.mark()
    with signals.early():
        line = Line(socket.socket(fileno=int(argv[0])))
        payload = line.read()
        if payload is None:
            return 0
        return _run(line, pickle.loads(payload))  # noqa: S301 - from our parent, over a socket that nobody else has


def _run(line: Line, order: Order) -> int:
    try:
        worker = _worker(order)
    except PythiaError as error:
        line.say({"failed": str(error)})
        return error.exit_code
    life = service.life_of(worker)
    life.http = order.common.http
    life.on_running = lambda: line.say({"running": True})
    if order.paused:
        worker.pause()
    desk = _Desk(line, worker, life)
    line.say({"hello": desk.card()})
    threading.Thread(target=desk.serve, name="pythia-supervisor", daemon=True).start()
    common = order.common
    options = service.RunOptions(
        burst=common.burst, max_messages=common.max_messages, fail_fast=common.fail_fast, http=False
    )
    code = service.run(worker, options)
    line.say({"failed": life.status.failure, "metrics": desk.metrics()})
    return code


def _worker(order: Order) -> Worker:
    common, post = order.common, order.post
    if common.main is not None:
        _make_main(common.main)
    set_config_file(None if common.config_file is None else Path(common.config_file))
    flags: Mapping[str, Any] = common.flags
    if common.worker_id is not None:
        flags = {**flags, "worker_id": f"{common.worker_id}-{order.slot}"}
    set_process_flags(flags, common.flag_names)
    set_worker_table(post.table)
    worker_class = load_target(post.target)
    if post.config is None:
        return make(worker_class)
    return make_worker(worker_class, _own(pickle.loads(post.config), order.slot))  # noqa: S301 - as above


def _make_main(data: Mapping[str, Any]) -> None:
    """The script that added the workers becomes this process's ``__main__``, under the name ``__mp_main__``.

    Raises:
        TargetError: it raises, or starts a supervisor itself.
    """
    try:
        spawn.prepare(dict(data))
    except PythiaError:
        raise
    except Exception as error:
        raise user_bug(f"importing {data.get('init_main_from_path', 'the script')}", error) from error


def _own(config: WorkerConfig, slot: int) -> WorkerConfig:
    """The configuration of this process: what was read or computed in another one is read and computed anew."""
    own = {"worker_id": f"{config.worker_id}-{slot}"} if was_set(config, "worker_id") else {}
    return config.model_copy(update=own).reload()


class _Desk:
    """Answers the supervisor."""

    def __init__(self, line: Line, worker: Worker, life: Life) -> None:
        self._line = line
        self._worker = worker
        self._life = life
        self._collector = WorkerCollector(life.status, notice=lambda text: life.emit(Notice(detail=text)))

    def card(self) -> dict[str, Any]:
        config = self._worker.config
        return {
            "worker": config.worker_name,
            "worker_id": config.worker_id,
            "drain_timeout_seconds": config.drain_timeout_seconds,
        }

    def serve(self) -> None:
        """Until the supervisor is gone; then stop the process."""
        while (frame := self._line.read()) is not None:
            request = json.loads(frame)
            if request["do"] == "reload":  # takes its time
                threading.Thread(target=self._reload, args=(request["id"],), name="pythia-reload", daemon=True).start()
                continue
            try:
                said = self._answer(str(request["do"]))
            except Exception as error:  # noqa: BLE001 - the top of this thread: one bad answer must not end it
                said = {"error": f"{type(error).__name__}: {error}"}
            self._line.say({"id": request["id"], **said})
        self._follow()

    def _answer(self, question: str) -> dict[str, Any]:
        status = self._life.status
        answers: Mapping[str, Callable[[], dict[str, Any]]] = {
            "probes": self._probes,
            "health": lambda: {"health": health.health(status)},
            "metrics": lambda: {"metrics": self.metrics()},
            "plan": lambda: {"reload": self._life.planned().to_json()},
            "config": lambda: {"config": redacted(status.config)},
            "pause": lambda: self._done(self._worker.pause),
            "resume": lambda: self._done(self._worker.resume),
        }
        return answers[question]()

    def _probes(self) -> dict[str, Any]:
        status, now = self._life.status, time.monotonic()
        probes = {"live": health.live, "ready": health.ready, "startup": health.startup}
        return {name: probe(status, now).to_json() for name, probe in probes.items()}

    @staticmethod
    def _done(act: Callable[[], None]) -> dict[str, Any]:
        act()
        return {}

    def _reload(self, number: int) -> None:
        """What came of it; it is carried out when the worker runs."""
        with suppress(TimeoutError, CancelledError):  # then the supervisor says that there was no answer
            reloaded = self._life.reload().result(RELOAD_SECONDS)
            self._line.say({"id": number, "reload": reloaded.to_json()})

    def metrics(self) -> list[Any]:
        families = gathered([self._collector]).collect()
        return [
            [family.name, family.type, family.documentation, [[s.name, s.labels, s.value] for s in family.samples]]
            for family in families
        ]

    def _follow(self) -> None:
        """The supervisor is gone. What SIGTERM cannot end is ended when it should have been."""
        if self._life.state.name == "STOPPED":
            return
        self._life.emit(Notice(detail="the supervisor is gone: stopping"))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self._life.drain_timeout + KILL_GRACE_SECONDS)
        os._exit(75)
