"""The machinery that runs the documentation: it does what a page says, and says so when a page is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance import pages
from tests.acceptance.pages import PageError, Reader, blocks

SERVER = """
import http.server, os, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()
signal.signal(signal.SIGTERM, lambda *_: (print("stopped"), os._exit(int(sys.argv[1]))))
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str], Path]:
    """Do a page, given by its text; gives the folder that it was done in."""

    def read(text: str) -> Path:
        with Reader(tmp_path, commands={"demo", "test"}, project="pythia-worker", extras={"fast", "otel"}) as reader:
            for block in blocks(text, "page.md"):
                reader.do(block)
        return tmp_path / "page"

    return read


def fenced(language: str, text: str, mark: str = "") -> str:
    return f"{mark and f'<!-- test: {mark} -->'}\n```{language}\n{text.strip()}\n```\n"


def test_python_blocks_share_their_names_and_the_folder(read):
    folder = read(fenced("python", "x = 20") + "prose\n" + fenced("python", "open('x', 'w').write(str(x + 1))"))
    assert (folder / "x").read_text() == "21"


def test_a_server_that_everybody_may_have_stands_for_the_tests_own_and_without_one_the_block_is_left_out(tmp_path):
    page = fenced("bash", "echo redis://localhost/0?mode=list > redis") + fenced(
        "bash", "echo amqp://guest:guest@localhost/ > rabbit"
    )
    found = {"redis": "redis://127.0.0.1:7777/0"}
    with Reader(tmp_path, commands=(), project="pythia-worker", extras=(), servers=found) as reader:
        for block in blocks(page, "page.md"):
            reader.do(block)
    assert (tmp_path / "page" / "redis").read_text() == "redis://127.0.0.1:7777/0?mode=list\n"
    assert not (tmp_path / "page" / "rabbit").exists()


def test_a_failing_python_block_is_named_by_page_and_line_with_what_it_printed(read):
    with pytest.raises(PageError, match=r"(?s)^page\.md:3 .*line 4.*ZeroDivisionError.*before it failed"):
        read(fenced("python", "print('before it failed')\n1 / 0"))


@pytest.mark.parametrize(("code", "wrong"), [("0", False), ("None", False), ("3", True), ("'no'", True)])
def test_a_python_block_may_exit_with_success_only(read, code: str, wrong: bool):
    page = fenced("python", f"raise SystemExit({code})")
    if wrong:
        with pytest.raises(PageError, match="SystemExit"):
            read(page)
    else:
        read(page)


def test_a_python_block_that_ends_the_process_is_noticed(read):
    with pytest.raises(PageError, match="ended the Python process"):
        read(fenced("python", "import os; os._exit(0)"))


def test_a_python_block_that_never_ends_is_noticed(read, monkeypatch):
    monkeypatch.setattr(pages, "BLOCK_SECONDS", 0.5)
    with pytest.raises(PageError, match="still running after"):
        read(fenced("python", "import threading; threading.Event().wait()"))


def test_a_file_is_written_and_can_be_imported_and_run(read):
    read(
        fenced("python", "ANSWER = 42", "file shop/worker.py")
        + fenced("python", "from shop.worker import ANSWER; assert ANSWER == 42")
        + fenced("bash", "python -c 'from shop.worker import ANSWER; assert ANSWER == 42'")
    )


def test_a_file_that_is_not_what_its_language_says_is_refused(read):
    with pytest.raises(PageError, match=r"page\.md:3 \(python, file\): invalid syntax"):
        read(fenced("python", "def", "file a.py"))
    with pytest.raises(PageError, match=r"page\.md:3 \(toml, file\)"):
        blocks_done = blocks(fenced("toml", "= 1", "file a.toml"), "page.md")
        pages.parse(blocks_done[0])


def test_a_file_outside_the_folder_is_refused(read):
    with pytest.raises(PageError, match="outside"):
        read(fenced("text", "x", "file ../x"))


def test_a_shell_keeps_its_folder_and_its_variables_from_block_to_block(read):
    folder = read(fenced("bash", "mkdir shop && cd shop\nNAME='a b'") + fenced("sh", 'printf "$NAME" > name'))
    assert (folder / "shop" / "name").read_text() == "a b"


def test_a_shell_stops_at_the_first_failure_and_shows_its_output(read, tmp_path):
    with pytest.raises(PageError, match=r"(?s)page\.md:3 .*ended with 1, not 0.*said so"):
        read(fenced("bash", "echo said so\nfalse | true\ntouch not-here"))
    assert not (tmp_path / "page" / "not-here").exists()


def test_an_exit_code_that_the_page_announces_is_demanded(read):
    read(fenced("bash", "exit 3", "run exit 3"))


def test_another_exit_code_than_the_page_announces_is_refused(read):
    with pytest.raises(PageError, match="ended with 0, not 3"):
        read(fenced("bash", "true", "run exit 3"))


def test_a_shell_block_that_never_ends_is_noticed(read, monkeypatch):
    monkeypatch.setattr(pages, "BLOCK_SECONDS", 0.5)
    with pytest.raises(PageError, match="marked `serve`"):
        read(fenced("bash", "python -c 'import threading; threading.Event().wait()'"))


def test_of_a_console_block_what_was_typed_is_run(read):
    folder = read(fenced("console", "$ touch one \\\n>   two\nrm: sample output\n$ touch three"))
    assert sorted(path.name for path in folder.iterdir()) == ["one", "three", "two"]


def test_settings_of_the_tests_do_not_reach_a_page(read):
    read(
        fenced("bash", 'test -z "$PYTHIA_QUEUE"')
        + fenced("python", "import os; assert 'PYTHIA_QUEUE' not in os.environ")
    )


def test_getting_the_project_is_checked_and_not_done(read):
    folder = read(
        fenced(
            "bash", "git clone https://example.org/pythia.git && cd pythia\n./dev demo   # to its table\n./dev test -x"
        )
        + fenced("bash", "git clone https://example.org/pythia\ncd pythia\npip install 'pythia-worker[fast,otel]'")
        + fenced("bash", "touch here")
    )
    assert [path.name for path in folder.iterdir()] == ["here"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("./dev launch", "no command 'launch'"),
        ("pip install pythia", "'pythia' is not pythia-worker"),
        ("python -m pip install 'pythia-worker[everything]'", "with extras out of: fast, otel"),
    ],
)
def test_a_command_that_the_project_does_not_have_is_refused(read, line: str, why: str):
    with pytest.raises(PageError, match=why):
        read(fenced("bash", line))


def test_a_server_is_waited_for_used_and_stopped(read):
    folder = read(
        fenced("python", SERVER, "file server.py")
        + fenced("bash", "mkdir sub && cd sub && CODE=0 python -u ../server.py 0", "serve")
        + fenced("bash", "touch beside-it")
    )
    assert (folder / "beside-it").exists()


def test_a_server_that_ends_badly_when_stopped_is_noticed(read):
    with pytest.raises(PageError, match=r"(?s)ended with 3 on SIGTERM.*stopped"):
        read(fenced("python", SERVER, "file server.py") + fenced("bash", "python -u server.py 3", "serve"))


def test_a_server_that_never_becomes_ready_is_noticed(read):
    with pytest.raises(PageError, match=r"(?s)ended with 7 before it was ready.*no luck"):
        read(fenced("bash", "sh -c 'echo no luck; exit 7'", "serve"))


def test_a_server_that_prints_is_ready_when_it_has(read):
    read(
        fenced("python", SERVER, "file server.py")
        + fenced("bash", "python -u server.py 0", "serve prints listening on http")
    )


def test_a_server_that_does_not_stop_is_ended_and_noticed(read, monkeypatch):
    monkeypatch.setattr(pages, "STOP_SECONDS", 0.3)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); signal.pause()"
    with pytest.raises(PageError, match="did not end within"):
        read(fenced("python", deaf, "file deaf.py") + fenced("bash", "python -u deaf.py", "serve prints ready"))


def test_an_error_on_the_page_is_shown_rather_than_the_end_of_its_servers(read):
    with pytest.raises(PageError, match="ZeroDivisionError"):
        read(
            fenced("python", SERVER, "file server.py")
            + fenced("bash", "python -u server.py 3", "serve")
            + fenced("python", "1 / 0")
        )


def test_json_is_json_unless_it_is_sample_output(read):
    read(fenced("json", '{"a": 1}') + fenced("json", '{"a": …}', "output"))
    with pytest.raises(PageError, match=r"page\.md:3 \(json, run\)"):
        pages.parse(blocks(fenced("json", "{"), "page.md")[0])


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (fenced("", "x"), "needs a language"),
        (fenced("ini", "x"), "an? ini block is one of: file"),
        (fenced("python", "x", "skip"), "one of: run, file"),
        (fenced("python", "x", "output"), "one of: run, file"),
        (fenced("bash", "x", "output"), "one of: run, serve, file"),
        (fenced("python", "x", "file"), "needs the name"),
        (fenced("python", "x", "run exit 3"), "takes nothing but"),
        (fenced("bash", "x", "run exit soon"), "takes nothing but"),
        (fenced("bash", "x", "serve soon"), "takes nothing but"),
    ],
)
def test_a_block_that_would_go_unchecked_is_refused(block: str, why: str):
    with pytest.raises(PageError, match=why):
        blocks(block, "page.md")


def test_fences_are_found_as_markdown_has_them():
    page = "1. list\n\n   ```python\n   if 1:\n       x = 1\n\n   ```\n\n````text\n```\n````\n~~~json\n{}\n~~~\n"
    found = [(block.language, block.line, block.text) for block in blocks(page, "page.md")]
    assert found == [("python", 4, "if 1:\n    x = 1\n\n"), ("text", 10, "```\n"), ("json", 13, "{}\n")]


def test_configuration_is_what_the_worker_takes(read):
    read(fenced("toml", 'queue = "orders"\nconcurrency = 3'))


def test_configuration_that_the_worker_refuses_is_refused(read):
    with pytest.raises(PageError, match=r"(?s)page\.md:3 \(toml, run\).*concurency"):
        read(fenced("toml", "concurency = 3"))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("docker compose exec worker pythia publish orders '{}'", None),
        ("docker build -t nothing-that-is-built .", None),
        ("kubectl apply -k config/kubernetes", None),
        ("kubectl apply -k config/kubernetties", "there is no config/kubernetties"),
        ("docker compose exec wroker pythia health", "no service 'wroker'"),
        ("docker compose exec worker pythia heal", "no command 'heal'"),
    ],
)
def test_what_commands_a_machine_is_checked_and_not_carried_out(read, line, why):
    if why is None:
        read(fenced("bash", line))
    else:
        with pytest.raises(PageError, match=why):
            read(fenced("bash", line))
