"""How a worker is seen from outside: logs, metrics, probes, and a watch on its event loop."""
