"""Probes, metrics and admin routes, served by a thread and an event loop of their own."""
