"""amqps:// and rediss://: encrypted, the server's certificate verified; one that cannot be is refused in a sentence."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pythia.brokers import open_broker
from pythia.errors import BrokerRefused
from tests.conformance.rigs import bodies, numbered, options, settle, take
from tests.kit import servers
from tests.kit.private_rabbit import PrivateRabbit
from tests.kit.private_redis import PrivateRedis
from tests.kit.processes import free_port


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``key.pem`` and ``cert.pem``, a certificate for 127.0.0.1 that is its own authority."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: no certificate can be made")
    folder = tmp_path_factory.mktemp("tls")
    folder.parent.parent.chmod(0o755)
    folder.parent.chmod(0o755)
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run(
        [*command.split(), "-keyout", "key.pem", "-out", "cert.pem"], cwd=folder, check=True, capture_output=True
    )
    for name in ("key.pem", "cert.pem"):
        (folder / name).chmod(0o644)
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def rabbit(certificate: Path) -> Iterator[str]:
    servers.require_private_rabbit()
    port = free_port()
    settings = f"""
listeners.ssl.1 = 127.0.0.1:{port}
ssl_options.cacertfile = {certificate}/cert.pem
ssl_options.certfile = {certificate}/cert.pem
ssl_options.keyfile = {certificate}/key.pem
ssl_options.verify = verify_none
"""
    with PrivateRabbit(settings):
        yield f"amqps://guest:guest@127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def redis(certificate: Path) -> Iterator[str]:
    servers.require_private_redis()
    port, pem = free_port(), str(certificate / "cert.pem")
    files = ("--tls-cert-file", pem, "--tls-key-file", str(certificate / "key.pem"), "--tls-ca-cert-file", pem)
    with PrivateRedis("--tls-port", str(port), *files, "--tls-auth-clients", "no"):
        yield f"rediss://127.0.0.1:{port}/0"


CASES = [("rabbit", "cafile"), ("redis", "ssl_ca_certs")]


@pytest.mark.parametrize(("server", "parameter"), CASES)
async def test_messages_go_through_an_encrypted_connection(request, certificate, server, parameter):
    broker = open_broker(f"{request.getfixturevalue(server)}?{parameter}={certificate}/cert.pem")
    await broker.connect()
    try:
        async with broker.consume("q", options()) as consumer:
            await broker.publish("q", numbered(3))
            deliveries = await take(consumer, 3)
            assert bodies(deliveries) == [b"0", b"1", b"2"]
            for delivery in deliveries:
                await settle(consumer, delivery, "ack")
    finally:
        await broker.close()


@pytest.mark.parametrize(("server", "parameter"), CASES)
async def test_a_certificate_that_cannot_be_verified_is_refused(request, server, parameter):
    broker = open_broker(request.getfixturevalue(server))
    with pytest.raises(BrokerRefused, match="certificate") as caught:
        await broker.connect()
    assert caught.value.exit_code == 78
    await broker.close()
