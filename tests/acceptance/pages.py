"""Documentation that runs: the fenced blocks of a page, done as a reader would do them, in order, in one empty folder.

What happens to a block is said by its language and, where that is not enough, by an HTML comment on the line above it,
``<!-- test: KIND -->``:

    python          run; all blocks of a page share their names. With ``file NAME``: written to NAME instead
    bash sh console run by bash, stopping at the first failure; folder and variables are kept from block to block. Of a
                    ``console`` block the lines after ``$`` are run, the others are sample output
    toml            read by ``WorkerConfig.load``. With ``file NAME``: written to NAME instead
    json            must be JSON. With ``output``: sample output, which may be abridged
    text mermaid    left alone
    any other       only as ``file NAME``

    run exit N      shell: the block's last command ends with N
    serve           shell: the last line runs until it is stopped. It is ready once /readyz answers 200 at the address that
                    it prints; at the end of the page it gets SIGTERM and must end with 0
    serve prints T  the same, ready once it prints T

What a page writes for a server that everybody may have (``SERVERS``) stands for the tests' own; a block that names a server
that there is none of here is left out.

Lines of ``git clone`` and the ``cd`` into the clone, ``./dev COMMAND`` and ``pip install`` are checked, not carried out:
the clone is where the tests run, ``dev`` must have the command, and what is installed must be this project, with extras
that it has. So are lines of what commands a machine (``OPERATORS``): the files of ours that they name must be there, and so
must the service of docker-compose.yml and the command of Pythia's in it.
"""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import NoReturn, Self

import yaml

SHELLS = {"bash", "sh", "console"}
KINDS = {
    "python": ("run", "file"),
    "bash": ("run", "serve", "file"),
    "sh": ("run", "serve", "file"),
    "console": ("run", "serve"),
    "toml": ("run", "file"),
    "json": ("run", "output", "file"),
    "text": ("output", "file"),
    "mermaid": ("output",),
}
SERVERS = {"amqp://guest:guest@localhost/": "rabbitmq", "redis://localhost/0": "redis"}
OPERATORS = {"docker", "kubectl", "systemctl", "journalctl"}
PLACES = ("config/", "docs/", "tests/")
ROOT = Path(__file__).resolve().parents[2]
BLOCK_SECONDS, READY_SECONDS, STOP_SECONDS = 120, 30, 40

_FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<language>[^\s`]*)")
_MARK = re.compile(r"\s*<!--\s*test:\s*(?P<kind>\S+)\s*(?P<argument>.*?)\s*-->\s*")
_EXIT = re.compile(r"exit (\d+)")
_ADDRESS = re.compile(r"(?:127\.0\.0\.1|0\.0\.0\.0|localhost):(\d+)")


class PageError(AssertionError):
    """A page says something that is not so; the text begins with where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block. ``line`` is where its text begins, counted from 1."""

    page: str
    line: int
    language: str
    kind: str
    argument: str
    text: str

    def fail(self, why: str) -> NoReturn:
        raise PageError(f"{self.page}:{self.line} ({self.language or 'no language'}, {self.kind}): {why}")


def blocks(text: str, page: str) -> list[Block]:
    """Every fenced block of a page, in order."""
    found, lines, mark = [], text.splitlines(), ("", "")
    numbers = iter(range(len(lines)))
    for number in numbers:
        if not (fence := _FENCE.match(lines[number])):
            marked = _MARK.fullmatch(lines[number])
            mark = (marked["kind"], marked["argument"]) if marked else ("", "")
            continue
        inside = list(_until(fence, lines, numbers))
        language = fence["language"].lower()
        kind = mark[0] or KINDS.get(language, ("run",))[0]
        block = Block(
            page=page, line=number + 2, language=language, kind=kind, argument=mark[1], text="\n".join(inside) + "\n"
        )
        check_kind(block)
        found.append(block)
        mark = ("", "")
    return found


def _until(fence: re.Match[str], lines: list[str], numbers: Iterator[int]) -> Iterator[str]:
    """The lines up to the closing fence, without the indentation of the opening one."""
    indent = len(fence["indent"])
    for number in numbers:
        line = lines[number]
        if line.strip().startswith(fence["fence"]) and not line.strip().strip(fence["fence"][0]):
            return
        yield line[indent:] if not line[:indent].strip() else line


def check_kind(block: Block) -> None:
    """Refuse what would go unchecked."""
    if not block.language:
        block.fail("a fence needs a language; sample output is `text`")
    allowed = KINDS.get(block.language, ("file",))
    if block.kind not in allowed:
        block.fail(f"a {block.language} block is one of: {', '.join(allowed)}")
    if block.kind == "file" and not block.argument:
        block.fail("`file` needs the name of the file")
    if block.kind == "run" and block.argument and not (block.language in SHELLS and _EXIT.fullmatch(block.argument)):
        block.fail("`run` takes nothing but, in a shell, `exit N`")
    if block.kind == "serve" and not re.fullmatch(r"(prints\s+\S.*)?", block.argument):
        block.fail("`serve` takes nothing but `prints TEXT`")


_PYTHON = """
import json, os, sys, traceback, types
ours, requests, replies = sys.modules["__main__"], open(int(sys.argv[1])), open(int(sys.argv[2]), "w")
sys.path.insert(0, os.getcwd())
page = sys.modules["__main__"] = types.ModuleType("__main__")
for request in requests:
    block, error = json.loads(request), None
    sys.argv = [block["page"]]
    try:
        exec(compile("\\n" * (block["line"] - 1) + block["text"], block["page"], "exec"), page.__dict__)
    except SystemExit as end:
        error = f"SystemExit({end.code!r})" if end.code else None
    except BaseException:
        error = traceback.format_exc()
    sys.stdout.flush()
    print(json.dumps(error), file=replies, flush=True)
"""


class Python:
    """One Python process that runs the blocks of a page one after another, in one namespace."""

    def __init__(self, folder: Path, env: dict[str, str], log: Path) -> None:
        theirs_in, self._requests = os.pipe()
        self._replies, theirs_out = os.pipe()
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PYTHON, str(theirs_in), str(theirs_out)],
                cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                pass_fds=(theirs_in, theirs_out), start_new_session=True,
            )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)

    def run(self, block: Block, source: str | None = None) -> None:
        """Run the block, or ``source`` in its place; raises PageError with the traceback and what was printed."""
        request = {"page": block.page, "line": block.line, "text": block.text if source is None else source}
        printed = self._log.stat().st_size
        os.write(self._requests, json.dumps(request).encode() + b"\n")
        error = self._answer(block)
        if error is not None:
            block.fail(f"{error}\n{self._log.read_bytes()[printed:].decode(errors='replace')}")

    def _answer(self, block: Block) -> str | None:
        reply = b""
        while not reply.endswith(b"\n"):
            if not select.select([self._replies], [], [], BLOCK_SECONDS)[0]:
                block.fail(
                    f"still running after {BLOCK_SECONDS} s; what runs until it is stopped goes into a file "
                    f"(`file NAME`) that a `serve` block starts\n{self._log.read_text(errors='replace')}"
                )
            if not (part := os.read(self._replies, 65536)):
                block.fail(f"ended the Python process\n{self._log.read_text(errors='replace')}")
            reply += part
        return json.loads(reply)

    def close(self) -> None:
        """End the process, at once if it does not end by itself."""
        os.close(self._requests)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            kill(self._process)
        os.close(self._replies)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A command of the page that runs until the page ends."""

    block: Block
    process: subprocess.Popen[bytes]
    log: Path

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not self._ready():
            if self.process.poll() is not None:
                self.block.fail(f"ended with {self.process.returncode} before it was ready\n{self.output()}")
            if time.monotonic() > deadline:
                self.block.fail(f"not ready after {READY_SECONDS} s\n{self.output()}")
            time.sleep(0.05)

    def _ready(self) -> bool:
        if self.block.argument:
            return self.block.argument.removeprefix("prints").strip() in self.output()
        return any(answers(f"http://127.0.0.1:{port}/readyz") for port in set(_ADDRESS.findall(self.output())))

    def stop(self) -> str | None:
        """SIGTERM, and what is wrong with how it ended."""
        if self.process.poll() is not None:
            return f"ended by itself with {self.process.returncode}\n{self.output()}"
        self.process.terminate()
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            kill(self.process)
            return f"did not end within {STOP_SECONDS} s of SIGTERM\n{self.output()}"
        return f"ended with {code} on SIGTERM\n{self.output()}" if code else None


class Reader:
    """Does what a page says. Leaving the context stops what the page started; how that ended is part of the check.

    ``commands`` are those of ``./dev``, ``extras`` those of the project ``project``; ``servers`` has the URL of each server that
    there is, by its name.
    """

    def __init__(
        self,
        folder: Path,
        *,
        commands: Collection[str],
        project: str,
        extras: Collection[str],
        servers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._folder, self._behind = folder / "page", folder / "behind"
        self._folder.mkdir()
        self._behind.mkdir()
        self._commands, self._project, self._extras, self._urls = commands, project, extras, servers
        self._state = self._behind / "state.sh"
        self._state.write_text(f"cd {shlex.quote(str(self._folder))}\n")
        self._env = {
            **os.environ,
            "HOME": str(self._behind),
            "NO_COLOR": "1",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            "PYTHONUNBUFFERED": "1",
        }
        self._python: Python | None = None
        self._servers: list[Server] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        wrong = [(server.block, why) for server in reversed(self._servers) if (why := server.stop())]
        if self._python:
            self._python.close()
        if wrong and error is None:
            block, why = wrong[0]
            block.fail(why)

    def do(self, block: Block) -> None:
        """Carry out one block; raises PageError when it does not do what the page says."""
        for url, server in SERVERS.items():
            if url in block.text:
                if server not in self._urls:
                    return
                block = replace(block, text=block.text.replace(url, self._urls[server]))
        match block.language, block.kind:
            case _, "file":
                self._write(block)
            case "python", _:
                self.python.run(block)
            case (("bash" | "sh" | "console"), "serve"):
                self._serve(block)
            case (("bash" | "sh" | "console"), _):
                self._shell(block)
            case "toml", _:
                self._configure(block)
            case "json", "run":
                parse(block)

    @property
    def python(self) -> Python:
        if self._python is None:
            self._python = Python(self._folder, self._env, self._behind / "python.log")
        return self._python

    def _write(self, block: Block) -> None:
        path = (self._folder / block.argument).resolve()
        if not path.is_relative_to(self._folder.resolve()):
            block.fail("the file lies outside the page's folder")
        parse(block)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)

    def _configure(self, block: Block) -> None:
        parse(block)
        path = self._behind / f"line-{block.line}.toml"
        path.write_text(block.text)
        self.python.run(block, f"from pythia.config import WorkerConfig; WorkerConfig.load({str(path)!r})")

    def _shell(self, block: Block) -> None:
        expected = int(said[1]) if (said := _EXIT.fullmatch(block.argument)) else 0
        keep = f"{{ export -p; printf 'cd %q\\n' \"$PWD\"; }} > {shlex.quote(str(self._state))}"
        script = self._script(block, "\n".join(self.commands_of(block)), f"trap {shlex.quote(keep)} EXIT")
        with subprocess.Popen(
            ["bash", str(script)], env=self._env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                output, _ = process.communicate(timeout=BLOCK_SECONDS)
            except subprocess.TimeoutExpired:
                kill(process)
                block.fail(f"still running after {BLOCK_SECONDS} s; what runs until it is stopped is marked `serve`")
        if process.returncode != expected:
            block.fail(f"ended with {process.returncode}, not {expected}\n{output.decode(errors='replace')}")

    def _serve(self, block: Block) -> None:
        *before, last = [line for line in self.commands_of(block) if line.strip()] or [""]
        first, found, command = last.rpartition("&&")
        # `exec`, so that SIGTERM reaches the command and not a shell around it.
        script = self._script(block, "\n".join([*before, f"{first}{found} exec env {command}"]))
        log = self._behind / f"line-{block.line}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", str(script)], env=self._env, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        server = Server(block=block, process=process, log=log)
        self._servers.append(server)
        server.wait_until_ready()

    def _script(self, block: Block, commands: str, before: str = "") -> Path:
        path = self._behind / f"line-{block.line}.sh"
        path.write_text(f". {shlex.quote(str(self._state))}\n{before}\nset -a -e -o pipefail\n{commands}\n")
        return path

    def commands_of(self, block: Block) -> list[str]:
        """The command lines of a block, a continued one joined, without those that are checked here instead."""
        text = prompted(block.text) if block.language == "console" else block.text
        kept, clone = [], None
        for line in re.sub(r"\\\n\s*", "", text).splitlines():
            words = words_of(line)
            if words[:2] == ["git", "clone"]:
                clone = Path(words[2]).name.removesuffix(".git") if words[3:4] in ([], ["&&"]) else words[3]
            elif words[:1] == ["./dev"]:
                self._check_dev(block, words)
            elif "install" in words[:4] and "pip" in words[:3]:
                self._check_install(block, words[words.index("install") + 1 :])
            elif words and words[0] in OPERATORS:
                check_operator(block, words)
            elif words != ["cd", clone]:
                kept.append(line)
        return kept

    def _check_dev(self, block: Block, words: list[str]) -> None:
        if words[1:2] and words[1] not in {*self._commands, "--help"}:
            block.fail(f"./dev has no command {words[1]!r}; it has: {', '.join(sorted(self._commands))}")

    def _check_install(self, block: Block, words: list[str]) -> None:
        for word in words:
            name, _, extras = word.removesuffix("]").partition("[")
            unknown = {extra for extra in extras.split(",") if extra} - set(self._extras)
            if name not in {self._project, "."} or unknown:
                block.fail(f"{word!r} is not {self._project} with extras out of: {', '.join(sorted(self._extras))}")


def check_operator(block: Block, words: list[str]) -> None:
    """Refuse a line for an operator that names a file, a service or a command that there is not."""
    if missing := [word for word in words if word.startswith(PLACES) and not (ROOT / word).exists()]:
        block.fail(f"there is no {missing[0]}")
    if words[:3] != ["docker", "compose", "exec"]:
        return
    service, program, command, *_ = [*words[3:], "", ""]
    if service not in yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]:
        block.fail(f"docker-compose.yml has no service {service!r}")
    if program == "pythia" and not (ROOT / "pythia" / "cli" / f"{command}.py").exists():
        block.fail(f"pythia has no command {command!r}")


def prompted(text: str) -> str:
    """What was typed in a console session: the lines after ``$``, and those that continue them."""
    typed, goes_on = [], False
    for line in text.splitlines():
        if line.startswith("$ ") or goes_on:
            typed.append(line.removeprefix("$ ").removeprefix("> "))
            goes_on = line.endswith("\\")
    return "\n".join(typed) + "\n"


def words_of(line: str) -> list[str]:
    """The line's words as a shell splits them, comments left out; none when it is part of something longer."""
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return []


def parse(block: Block) -> None:
    """Whether the text is what its language says."""
    try:
        match block.language:
            case "python":
                compile("\n" * (block.line - 1) + block.text, block.page, "exec")
            case "toml":
                tomllib.loads(block.text)
            case "json":
                json.loads(block.text)
    except (SyntaxError, ValueError) as error:
        block.fail(str(error))


def answers(url: str) -> bool:
    """Whether the URL gives 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and whatever it started, now."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
