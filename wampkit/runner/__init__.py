"""Processes: what `wampkit run` means."""
