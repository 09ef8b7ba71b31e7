"""What a running app tells of itself: log lines and counters."""
