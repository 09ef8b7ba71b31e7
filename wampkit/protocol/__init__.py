"""WAMP v1 and WebSocket frames without I/O; server and client share it."""
