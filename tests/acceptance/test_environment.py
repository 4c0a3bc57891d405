"""What a platform puts into the environment stops nothing; what an operator misspells there stops at once."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.service_kit import NOTE, Place, assert_one_clear_line, until

APP = (
    NOTE
    + """
class App(Worker):
    async def process_message(self, message):
        note("handled", message.body)
"""
)

# What Kubernetes injects into every pod of a namespace with the services `pythia` and `pythia-metrics`, and Docker's links.
INJECTED = {
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "KUBERNETES_PORT": "tcp://10.96.0.1:443",
    "PYTHIA_SERVICE_HOST": "10.96.12.7",
    "PYTHIA_SERVICE_PORT": "8080",
    "PYTHIA_SERVICE_PORT_HTTP": "8080",
    "PYTHIA_PORT": "tcp://10.96.12.7:8080",
    "PYTHIA_PORT_8080_TCP": "tcp://10.96.12.7:8080",
    "PYTHIA_PORT_8080_TCP_ADDR": "10.96.12.7",
    "PYTHIA_PORT_8080_TCP_PORT": "8080",
    "PYTHIA_PORT_8080_TCP_PROTO": "tcp",
    "PYTHIA_PORT_5353_UDP": "udp://10.96.12.7:5353",
    "PYTHIA_PORT_5353_UDP_ADDR": "10.96.12.7",
    "PYTHIA_METRICS_SERVICE_HOST": "10.96.12.8",
    "PYTHIA_METRICS_SERVICE_PORT": "9090",
    "PYTHIA_METRICS_PORT": "tcp://10.96.12.8:9090",
    "PYTHIA_METRICS_PORT_9090_TCP": "tcp://10.96.12.8:9090",
    "PYTHIA_METRICS_PORT_9090_TCP_ADDR": "10.96.12.8",
    "PYTHIA_TEST_ANYTHING": "goes",
}


def test_what_kubernetes_injects_for_a_service_called_pythia_stops_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path, APP)
    done = place.command("publish", "default", '"m"', **INJECTED)
    assert (done.returncode, done.stderr) == (0, "")
    with place.running("--port", "0", **INJECTED) as service:
        until(lambda: place.ledger() == ["handled m"], "handled")
        assert service.ask("/readyz")[0] == 200
        assert not service.url.endswith(":8080")
        assert service.stop() == 0
    assert place.command("check", **INJECTED).returncode == 0


def test_a_misspelt_name_beside_them_is_still_found(tmp_path: Path) -> None:
    code, text = Place(tmp_path, APP).run_to_the_end("--burst", PYTHIA_HTTP_PROT="8081", **INJECTED)
    assert code == 78
    assert_one_clear_line(text, "PYTHIA_HTTP_PROT", "did you mean PYTHIA_HTTP__PORT")


def test_a_port_that_is_meant_as_a_setting_is_not_taken_for_an_injected_one(tmp_path: Path) -> None:
    code, text = Place(tmp_path, APP).run_to_the_end("--burst", PYTHIA_PORT="8081")
    assert code == 78
    assert_one_clear_line(text, "PYTHIA_PORT")
