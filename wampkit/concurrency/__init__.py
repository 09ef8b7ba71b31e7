"""How functions run: in threads, at once without a task, in the background."""
