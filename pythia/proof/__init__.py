"""Proof: what shows, to anyone who doubts it, that nothing is lost. Nothing that runs in production imports from here."""
