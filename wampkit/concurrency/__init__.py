"""Running functions: in threads, at once without a task, in the background."""
