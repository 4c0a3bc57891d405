"""What the driver raises, in our words: translated once, here, with what the operator can do."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from typing import Any

import aiormq.exceptions as amqp

from pythia.broker import ConsumerCancelled
from pythia.brokers.rabbitmq.sockets import Refusal
from pythia.errors import BrokerError, BrokerRefused, BrokerUnavailable

_NO_ACCESS = 403
_NOT_ALLOWED = 530

_AUTHENTICATION = (amqp.AuthenticationError, amqp.ProbableAuthenticationError)
_PASSES = (amqp.AMQPError, OSError, TimeoutError, RuntimeError, EOFError)


def at_connecting(error: BaseException, where: str, refusal: Refusal | None) -> BrokerError:
    """Why a connection to ``where`` (no password) could not be made; ``refusal`` is what the server closed it with."""
    if refusal is not None and refusal.code in (_NO_ACCESS, _NOT_ALLOWED):
        return BrokerRefused(
            f"{where} does not let this user into the virtual host: {refusal.text}; create it (rabbitmqctl add_vhost) or "
            "give permission (rabbitmqctl set_permissions)"
            if refusal.code == _NOT_ALLOWED
            else f"{where} refused the user name or the password of broker.url: {refusal.text}"
        )
    if isinstance(error, _AUTHENTICATION):
        return BrokerRefused(f"{where} refused the user name or the password of broker.url")
    if isinstance(error, ssl.SSLCertVerificationError):
        return BrokerRefused(f"{where} has a certificate that cannot be verified: {error.verify_message}")
    return BrokerUnavailable(f"{where} cannot be reached: {_text(error)}")


def on_channel(error: BaseException, doing: str) -> BrokerError:
    """Why something asked of an open connection failed; what the server forbids is a refusal."""
    match error:
        case (
            amqp.ChannelAccessRefused()
            | amqp.ChannelPreconditionFailed()
            | amqp.ChannelLockedResource()
            | amqp.ConnectionNotImplemented()
            | amqp.ConnectionCommandInvalid()
        ):
            kind: type[BrokerError] = BrokerRefused
        case amqp.ChannelNotFoundEntity():
            kind = ConsumerCancelled
        case _:
            kind = BrokerUnavailable
    return kind(f"cannot {doing}: {_text(error)}")


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Driver errors inside become ours. A cancellation that nobody asked for is the driver's way to say "closed".

    Raises:
        BrokerUnavailable, ConsumerCancelled, BrokerRefused: as ``on_channel`` says.
    """
    task = asyncio.current_task()
    before = 0 if task is None else task.cancelling()
    try:
        yield
    except BrokerError:
        raise
    except asyncio.CancelledError:
        if task is None or task.cancelling() > before:
            raise
        raise BrokerUnavailable(f"cannot {doing}: the connection was closed") from None
    except _PASSES as error:
        raise on_channel(error, doing) from error


def why_closed(closing: asyncio.Future[Any]) -> str:
    """What the server said when it closed a channel or a connection; empty when it said nothing."""
    return "" if closing.cancelled() else last_words(closing.exception())


def last_words(error: BaseException | None) -> str:
    """The last text among an error's arguments, where the driver puts the server's."""
    return next((part for part in reversed(getattr(error, "args", ())) if isinstance(part, str)), "")


def _text(error: BaseException) -> str:
    """The server's words, or the operating system's; never the driver's representation of itself."""
    if isinstance(error, TimeoutError) and not error.args:
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return last_words(error) or type(error).__name__
