"""The network that breaks when a test says so is the one of ``pythia verify``."""

from __future__ import annotations

from pythia.proof.proxy import Proxy, Way

__all__ = ["Proxy", "Way"]
