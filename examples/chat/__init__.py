"""A chat with a page: see `server.py`."""
