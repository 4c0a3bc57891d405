"""What a URL and the configuration say to the Redis adapters, and what their keys are called."""

from __future__ import annotations

import os
from importlib import resources

import pytest

from pythia.brokers import open_broker
from pythia.brokers.redis import RedisSettings, mode_of
from pythia.brokers.redis.driver import Address
from pythia.brokers.redis.keys import DEAD, dead, delayed, processing
from pythia.brokers.redis.settings import driver_url
from pythia.config import WorkerConfig
from pythia.errors import BrokerRefused, BrokerUnavailable, ConfigError


@pytest.mark.parametrize(
    ("url", "mode"),
    [
        ("redis://h", "stream"),
        ("redis://h/1?mode=stream", "stream"),
        ("rediss://h?ssl_cert_reqs=none&mode=list", "list"),
        ("redis://h/?mode=pubsub", "pubsub"),
    ],
)
def test_a_url_says_its_mode_and_means_streams_when_it_does_not(url, mode):
    assert mode_of(url) == mode
    assert open_broker(url).capabilities.name == f"redis-{mode}"


@pytest.mark.parametrize("url", ["redis://h?mode=queue", "redis://h?mode=", "redis://h?mode=list&mode=stream"])
def test_a_mode_that_there_is_not_is_a_configuration_error(url):
    with pytest.raises(ConfigError, match="stream, list, pubsub"):
        mode_of(url)


def test_the_driver_never_sees_our_parameter():
    assert (
        driver_url("rediss://u:p%40@h:1/2?mode=list&ssl_cert_reqs=none") == "rediss://u:p%40@h:1/2?ssl_cert_reqs=none"
    )


def test_settings_are_those_of_the_configuration_and_the_same_without_one():
    config = WorkerConfig.load(
        os.devnull,
        **{
            "broker.connect_timeout_seconds": 3,
            "broker.heartbeat_seconds": 2,
            "broker.declare": False,
            "redis.group": "billing",
            "redis.delete_on_ack": False,
            "worker_id": "a b\u00fc:1",
        },
    )
    assert RedisSettings.of(config) == RedisSettings(
        connect_timeout=3, heartbeat=2, declare=False, group="billing", delete_on_ack=False, client_name="a-b-:1"
    )
    plain = RedisSettings.of(WorkerConfig.load(os.devnull, worker_id="pythia"))
    assert plain == RedisSettings.of(None)


def test_a_silent_connection_is_given_up_within_two_heartbeats():
    assert RedisSettings(heartbeat=1).answer_timeout == 2
    assert RedisSettings(heartbeat=600).answer_timeout == 5


@pytest.mark.parametrize(
    ("queue", "key"),
    [("orders", "{orders}:dead"), ("{eu}orders", "{eu}orders:dead"), ("o{x", "{o{x}:dead")],
)
def test_side_keys_share_the_slot_of_their_queue(queue, key):
    assert dead(queue) == key


def test_side_keys_are_told_apart():
    assert DEAD.format(queue="orders") == dead("orders")
    assert len({dead("q"), delayed("q"), processing("q", "a"), processing("q", "b")}) == 4


def test_no_parameter_of_the_url_makes_the_driver_send_anything_twice_or_decode():
    settings = RedisSettings(connect_timeout=1)
    url = "redis://h?retry_on_timeout=yes&socket_timeout=99&protocol=3&decode_responses=yes&max_connections=3"
    connection = Address(url, settings).thread_connection(2.0)
    assert (connection.retry.get_retries(), connection.retry_on_timeout, connection.socket_timeout) == (0, False, 2.0)
    assert (int(connection.protocol), connection.encoder.decode_responses) == (2, False)


def test_a_parameter_that_nobody_knows_is_refused_without_the_password():
    with pytest.raises(BrokerRefused, match="parameter") as caught:
        Address("redis://u:canary@h?flavour=mild", RedisSettings()).thread_connection(1.0)
    assert "canary" not in f"{caught.value} {caught.value.__cause__}"


async def test_a_server_that_is_not_there_is_unavailable_and_the_password_stays():
    broker = open_broker("redis://u:canary@127.0.0.1:1/0")
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1") as caught:
        await broker.connect()
    assert "canary" not in str(caught.value)
    await broker.close()


def test_the_scripts_travel_with_the_package():
    names = {entry.name for entry in resources.files("pythia.brokers.redis").joinpath("lua").iterdir()}
    assert {"fence.lua", "stream_ack.lua", "list_ack.lua", "delayed_move.lua"} <= names
