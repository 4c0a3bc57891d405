"""RabbitMQ, spoken to through aio-pika: quorum queues, manual acks, confirmed and mandatory publishes, delays in the broker."""

from pythia.brokers.rabbitmq.broker import RabbitBroker
from pythia.brokers.rabbitmq.settings import RabbitSettings

__all__ = ["RabbitBroker", "RabbitSettings"]
