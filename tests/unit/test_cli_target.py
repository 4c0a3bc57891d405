"""TARGET: the worker that a person means, or one line that says what was found instead."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pythia.core.worker import Worker
from pythia.errors import ConfigError, TargetError
from pythia.target import load_target, make

WORKERS = """
from pythia import Worker, handler

class OrderWorker(Worker):
    queue = "orders"

class MailWorker(Worker):
    class Inner(Worker):
        pass

@handler("receipts")
async def on_receipt(message):
    pass

answer = 42
instance = OrderWorker
"""


@pytest.fixture
def project(workdir, monkeypatch):
    """An importable directory of this test's own: write(name, source)."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)

    def write(name: str, source: str) -> Path:
        path = workdir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        return path

    yield write
    for name in set(sys.modules) - before:
        if str(workdir) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def refusal(text: str) -> str:
    with pytest.raises(TargetError) as raised:
        load_target(text)
    said = str(raised.value)
    assert "\n" not in said
    return said


def test_a_worker_class_is_found_by_module_and_attribute(project):
    project("t1/workers.py", WORKERS)
    worker = load_target("t1.workers:OrderWorker")
    assert issubclass(worker, Worker)
    assert worker.queue == "orders"


def test_the_current_directory_is_importable(project, workdir):
    project("t2.py", WORKERS)
    load_target("t2:OrderWorker")
    assert str(workdir) in sys.path


def test_a_handler_function_stands_for_its_worker(project):
    project("t3.py", WORKERS)
    assert issubclass(load_target("t3:on_receipt"), Worker)


def test_a_nested_class_is_reached_by_dots(project):
    project("t4.py", WORKERS)
    assert load_target("t4:MailWorker.Inner").__name__ == "Inner"


def test_a_module_alone_is_the_one_worker_that_it_defines(project):
    project("t5.py", "from pythia import Worker\nclass Mine(Worker):\n    pass\nsame = Mine\n")
    assert load_target("t5").__name__ == "Mine"


def test_what_a_module_imports_does_not_count_beside_what_it_defines(project):
    project("t6a.py", "from pythia import Worker\nclass Other(Worker):\n    pass\n")
    project("t6.py", "from t6a import Other\nclass Mine(Other):\n    pass\n")
    assert load_target("t6").__name__ == "Mine"


def test_a_package_that_only_gathers_workers_offers_those(project):
    project("t7a.py", "from pythia import Worker\nclass Gathered(Worker):\n    pass\n")
    project("t7/__init__.py", "from t7a import Gathered\n")
    assert load_target("t7").__name__ == "Gathered"


def test_a_module_with_several_workers_lists_them(project):
    project("t8.py", WORKERS)
    assert refusal("t8") == "say which worker: t8 defines t8:MailWorker, t8:OrderWorker, t8:instance, t8:on_receipt"


def test_a_module_without_a_worker_says_so(project):
    project("t9.py", "from pythia import Worker\n")
    assert refusal("t9") == "module t9 defines no Worker class and no @handler function"
    assert refusal("t9:Mine") == "module t9 has no 'Mine'; t9 defines no worker"


def test_a_misspelt_attribute_is_told_with_what_is_near(project):
    project("t10.py", WORKERS)
    said = refusal("t10:OrderWorkr")
    assert said.startswith("module t10 has no 'OrderWorkr', did you mean OrderWorker?; t10 defines t10:MailWorker")


@pytest.mark.parametrize(
    ("attribute", "found"),
    [
        ("answer", "an instance of int"),
        ("on_receipt.__name__", "an instance of str"),
        ("OrderWorker.queue", "an instance of str"),
    ],
)
def test_an_attribute_that_is_no_worker_says_what_it_is(project, attribute, found):
    project("t11.py", WORKERS)
    assert f"t11:{attribute} is {found}, not a Worker class or a @handler function" in refusal(f"t11:{attribute}")


def test_a_class_that_is_no_worker_is_named(project):
    project("t12.py", "class Plain:\n    pass\n")
    assert "t12:Plain is the class Plain, not a Worker class" in refusal("t12:Plain")


@pytest.mark.parametrize("text", ["", ":Worker", "shop:"])
def test_half_a_target_says_what_a_whole_one_is(text):
    assert "TARGET is module:attribute" in refusal(text)


def test_a_module_that_is_not_there_says_where_was_looked(project, workdir):
    assert refusal("nosuch.worker:W") == (
        f"there is no module 'nosuch' (needed by nosuch.worker); searched in {workdir} and the installed packages"
    )


def test_a_path_is_told_as_the_module_that_it_is(project):
    project("shop13/worker.py", WORKERS)
    assert refusal("shop13/worker.py:OrderWorker") == (
        "'shop13/worker.py:OrderWorker' is a path; write it as a module: shop13.worker:OrderWorker"
    )


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\nraise ValueError('boom\\nbang')\n", "importing {name} raised ValueError: boom bang ({path}:2)"),
        ("import nosuch\n", "importing {name} raised ModuleNotFoundError: No module named 'nosuch' ({path}:1)"),
        ("x = (\n", "importing {name} raised SyntaxError: '(' was never closed ({path}:1)"),
        ("import json\n\njson.loads('nope')\n", "importing {name} raised JSONDecodeError: Expecting value"),
        ("import sys\nsys.exit(3)\n", "importing {name} raised SystemExit: 3 ({path}:2)"),
    ],
)
def test_an_error_in_the_users_code_is_told_with_its_place(project, source, said, request):
    name = f"t14_{abs(hash(request.node.name))}"
    path = project(f"{name}.py", source)
    told = refusal(f"{name}:W")
    assert told.startswith(said.format(name=name, path=path))
    assert f"({path}:" in told


def test_a_constructor_that_raises_is_told_with_its_place(project):
    path = project(
        "t15.py",
        "from pythia import Worker\nclass W(Worker):\n    def __init__(self):\n        raise OSError('no disk')\n",
    )
    with pytest.raises(TargetError) as raised:
        make(load_target("t15:W"))
    assert str(raised.value) == f"making a W raised OSError: no disk ({path}:4)"


def test_a_configuration_that_cannot_be_used_stays_what_it_is(project, monkeypatch):
    project("t16.py", WORKERS)
    monkeypatch.setenv("PYTHIA_CONCURRENCY", "none")
    with pytest.raises(ConfigError, match="concurrency"):
        make(load_target("t16:OrderWorker"))
