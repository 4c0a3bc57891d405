"""The demo's worker, and what it is given: the records of the installed distributions."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from importlib import metadata
from pathlib import Path
from random import Random

import pytest

from pythia import Message, Reject, WorkerConfig
from pythia.cli.demo_files import installed_files
from pythia.core.outcome import decide
from pythia.examples.integrity import IntegrityWorker, RecordedFile, digest_of


def recorded(data: bytes, algorithm: str = "sha256") -> str:
    return urlsafe_b64encode(hashlib.new(algorithm, data).digest()).decode().rstrip("=")


def message(path: Path, digest: str, algorithm: str = "sha256") -> Message[RecordedFile]:
    body = RecordedFile(path=str(path), algorithm=algorithm, digest=digest, distribution="shop-1.0")
    return Message(body)


@pytest.fixture
async def worker() -> IntegrityWorker:
    worker = IntegrityWorker(WorkerConfig(broker={"url": "memory://"}))
    await worker.on_startup()
    return worker


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "md5"])
async def test_a_file_that_is_as_recorded_passes_and_its_bytes_are_counted(tmp_path, worker, algorithm):
    data = b"x" * 300_000
    (tmp_path / "file").write_bytes(data)
    await worker.process_message(message(tmp_path / "file", recorded(data, algorithm), algorithm))
    assert worker.metrics.counter("integrity_bytes_total")._value == 300_000


async def test_a_changed_file_is_rejected_with_its_name_and_both_digests(tmp_path, worker):
    (tmp_path / "file").write_bytes(b"changed")
    with pytest.raises(Reject) as caught:
        await worker.process_message(message(tmp_path / "file", recorded(b"original")))
    for fact in (str(tmp_path / "file"), recorded(b"original"), recorded(b"changed"), "shop-1.0"):
        assert fact in caught.value.reason


async def test_a_file_that_is_gone_is_retried_twice_and_then_dead_lettered(tmp_path, worker):
    with pytest.raises(FileNotFoundError) as caught:
        await worker.process_message(message(tmp_path / "gone", recorded(b"")))
    kinds = [decide(caught.value, attempt=n, policy=worker.retry, random=Random()).kind for n in (1, 2, 3)]
    assert kinds == ["retry", "retry", "dead_letter"]


async def test_an_unknown_algorithm_is_not_tried_again(tmp_path, worker):
    (tmp_path / "file").write_bytes(b"data")
    with pytest.raises(ValueError) as caught:
        await worker.process_message(message(tmp_path / "file", "abc", "sha257"))
    assert decide(caught.value, attempt=1, policy=worker.retry, random=Random()).dead_reason == "gave_up"


def test_a_digest_is_written_as_a_record_writes_it(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert digest_of(tmp_path / "empty", "sha256") == ("47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU", 0)


def site(tmp_path: Path, *rows: str, name: str = "shop-1.0") -> Path:
    folder = tmp_path / "lib" / "site-packages"
    info = folder / f"{name}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "RECORD").write_text("\n".join(rows))
    return folder


def test_every_recorded_file_with_a_digest_is_listed_even_one_that_has_vanished(tmp_path):
    # From Python 3.12 on, `Distribution.files` would leave the vanished one out.
    folder = site(tmp_path, "shop/__init__.py,sha256=abc=,3", "shop-1.0.dist-info/RECORD,,", "shop/x.pyc,,", "odd", "")
    found = installed_files(folder)
    (file,) = found.files
    assert file == RecordedFile(
        path=str(folder / "shop" / "__init__.py"), algorithm="sha256", digest="abc", distribution="shop-1.0"
    )
    assert (found.without_digest, found.distributions, found.without_record) == (3, 1, 0)


def test_a_script_outside_site_packages_is_found_where_it_is(tmp_path):
    folder = site(tmp_path, "../../bin/shop,sha256=abc,3", '"shop/a, b.txt",sha256=def,1')
    assert [file.path for file in installed_files(folder).files] == [
        str(tmp_path / "bin" / "shop"),
        str(folder / "shop" / "a, b.txt"),
    ]


def test_a_distribution_whose_record_is_missing_or_unreadable_is_counted(tmp_path):
    folder = site(tmp_path, "shop/__init__.py,sha256=abc,3")
    (folder / "bare-1.0.dist-info").mkdir()
    (folder / "broken-1.0.dist-info").mkdir()
    (folder / "broken-1.0.dist-info" / "RECORD").write_bytes(b"\xff\xfe\xff")
    found = installed_files(folder)
    assert (len(found.files), found.distributions, found.without_record) == (1, 3, 2)


def test_without_a_directory_it_is_this_environment_that_is_listed():
    distributions = {file.distribution for file in installed_files(None).files}
    assert f"pytest-{metadata.version('pytest')}" in distributions


def test_a_directory_that_is_searched_twice_is_listed_once(tmp_path, monkeypatch):
    folder = site(tmp_path, "shop/__init__.py,sha256=abc,3")
    monkeypatch.setattr("sys.path", [str(folder), str(folder)])
    assert len(installed_files(None).files) == 1
