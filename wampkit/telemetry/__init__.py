"""Telemetry of a running app: log lines and counters."""
