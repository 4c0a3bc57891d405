"""What the command line says to the configuration: its flags are a layer of the whole process."""

from __future__ import annotations

from argparse import Namespace

from pythia import config
from pythia.config import WorkerConfig

# dotted key: (attribute of the parsed arguments, how the flag is written)
_FLAGS = {
    "broker.url": ("broker_url", "--broker-url"),
    "queues": ("consume", "--queue"),
    "concurrency": ("concurrency", "--concurrency"),
    "processes": ("processes", "--processes"),
    "worker_name": ("worker_name", "--name"),
    "log.level": ("log_level", "--log-level"),
    "log.format": ("log_format", "--log-format"),
    "http.host": ("host", "--host"),
    "http.port": ("port", "--port"),
    "http.enabled": ("http", "--no-http"),
}


class SharedConfig(WorkerConfig):
    """What a command without a worker reads: it cannot know the keys that a worker's own ``config_class`` adds."""

    pythia_shares_sources = True


def apply(args: Namespace) -> None:
    """Make the flags among ``args``, and the file of ``--config``, part of every configuration that is built from now on."""
    config.set_config_file(args.config)
    flags = {key: value for key, (name, _) in _FLAGS.items() if (value := getattr(args, name, None)) is not None}
    config.set_process_flags(flags, {key: flag for key, (_, flag) in _FLAGS.items()})


def read(args: Namespace) -> WorkerConfig:
    """The configuration in force for a command without a worker.

    Raises:
        ConfigError: a setting that cannot be used.
    """
    apply(args)
    return SharedConfig()
