"""For tests of an app: the types of the pytest fixtures, a real server, and what a test does to a client.

from wampkit.testing import drop, no_event
"""

from .server import Connect, ExpectedError, Rpc, WampServer, drop, no_event

__all__ = ["Connect", "ExpectedError", "Rpc", "WampServer", "drop", "no_event"]
