"""What the pytest fixtures are made of, for tests and tools of your own: a real server, its event loop, and checks.

from wampkit.testing import WampServer, no_event
"""

from .server import Connect, ExpectedError, LoopThread, Rpc, TestLoop, WampServer, describe, drop, no_event

__all__ = ["Connect", "ExpectedError", "LoopThread", "Rpc", "TestLoop", "WampServer", "describe", "drop", "no_event"]
