"""The Python client: a connection that recovers, calls, and subscriptions that are put back."""
