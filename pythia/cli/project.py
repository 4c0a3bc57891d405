"""The files of a new project, as templates of ``$name``, ``$package``, ``$worker``, ``$target``, ``$version``."""

from __future__ import annotations

from types import MappingProxyType

_WORKER = '''\
"""What happens to the messages of the queue "$name"."""

from __future__ import annotations

from pythia import Message, Reject, Worker


class $worker(Worker):
    """Greets whoever a message names."""

    queue = "$name"
    concurrency = 10

    async def process_message(self, message: Message) -> None:
        """Returning means done. An exception means: again later, and after the last attempt to the dead letters."""
        match message.body:
            case {"name": str(name)}:
                self.logger.info("hello", name=name)
            case _:
                raise Reject("it has no name")  # not worth another attempt: to the dead letters at once
'''

_TEST = '''\
"""Run with `python -m pytest` or `python -m unittest discover -s tests`: no broker, no waiting."""

from __future__ import annotations

import unittest

from pythia.utils.testing import WorkerHarness

from $package.worker import $worker


class ${worker}Test(unittest.IsolatedAsyncioTestCase):
    async def test_a_message_with_a_name_is_done(self) -> None:
        async with WorkerHarness($worker) as harness:
            message_id = await harness.publish({"name": "world"})
            outcome = await harness.outcome(message_id)
        self.assertEqual(outcome.kind, "ack")

    async def test_a_message_without_a_name_is_set_aside_with_the_reason(self) -> None:
        async with WorkerHarness($worker) as harness:
            message_id = await harness.publish({"nam": "world"})
            outcome = await harness.outcome(message_id)
        self.assertEqual((outcome.kind, outcome.reason), ("dead_letter", "it has no name"))


if __name__ == "__main__":
    unittest.main()
'''

_CONFIG = """\
# What is set here holds wherever this directory is the current one; `pythia config show --origin` prints what is in force.
# An environment variable wins over this file: PYTHIA_CONCURRENCY=50, PYTHIA_BROKER__URL=sqlite:////data/pythia.db

drain_timeout_seconds = 25      # SIGTERM to exit; keep it 5 s below the platform's grace

[broker]
url = "sqlite:///pythia.db"     # or amqp://host/vhost, redis://host/0; four slashes before an absolute path

[retry]
max_attempts = 16               # with the default delays they outlive an outage of four hours
"""

_PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "$name"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["pythia-worker>=$version"]

[tool.hatch.build.targets.wheel]
packages = ["$package"]

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["."]
"""

_README = """\
# $name

A worker of Pythia (`pip install pythia-worker`).

```
pip install -e .
pythia run $target
```

In another terminal, in this directory:

```
pythia publish $name '{"name": "world"}'
pythia queues
pythia publish $name '{"nam": "typo"}'
pythia dead show $name
python -m unittest discover -s tests
```

The worker is $package/worker.py, its settings are config/pythia.toml, and http://127.0.0.1:8080/metrics is for Prometheus.
"""

_DOCKERFILE = """\
FROM python:3.13-slim
WORKDIR /app
COPY pyproject.toml README.md ./
COPY $package ./$package
COPY config ./config
RUN pip install --no-cache-dir . \\
    && mkdir /data && chown 10001:10001 /data
USER 10001:10001
VOLUME /data
ENV PYTHIA_HTTP__HOST=0.0.0.0 PYTHIA_BROKER__URL=sqlite:////data/pythia.db PYTHONUNBUFFERED=1
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=10s CMD ["pythia", "health", "--live"]
ENTRYPOINT ["pythia", "run", "$target"]
"""

_DOCKERIGNORE = """\
.git
.venv
**/__pycache__
*.db*
"""

_GITIGNORE = """\
__pycache__/
*.py[cod]
.venv/
.pytest_cache/
*.egg-info/
dist/
pythia.db*
"""

FILES = MappingProxyType(
    {
        "$package/__init__.py": '"""$name."""\n',
        "$package/worker.py": _WORKER,
        "tests/test_worker.py": _TEST,
        "config/pythia.toml": _CONFIG,
        "pyproject.toml": _PROJECT,
        "README.md": _README,
        "Dockerfile": _DOCKERFILE,
        ".dockerignore": _DOCKERIGNORE,
        ".gitignore": _GITIGNORE,
    }
)
