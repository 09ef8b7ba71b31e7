"""A fuzzer that knows WAMP v1 and WebSocket: for the server, the Python client and the browser's client.

    python -m tests.fuzz server --seconds 60
    python -m tests.fuzz python --seconds 60
    python -m tests.fuzz javascript --seconds 60 --seed 7

What it sends is drawn from a seed and the number of the connection, so that `--seed S --only N` sends the bytes of
connection N again. `tests/system/test_fuzz.py` runs a few seconds of each.
"""
