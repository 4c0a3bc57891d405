"""Redis: consumer groups of streams, lists, and pub/sub; each behind the contract of ``pythia.broker``."""

from pythia.brokers.redis.settings import RedisSettings, mode_of

__all__ = ["RedisSettings", "mode_of"]
