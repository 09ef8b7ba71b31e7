"""Extensions of WAMP v1 by a wampkit server, and how its clients recognise it; other clients do not notice them."""

from __future__ import annotations

__all__ = ["PUBLISH", "RESERVED", "RESTART", "SESSION_ID_SUFFIX", "SUBSCRIPTION"]

SESSION_ID_SUFFIX = ".wampkit"
"""The end of each session id of a wampkit server: its clients may then call the procedures below.

A client cannot find out by calling one: applications on Ratchet close the connection of a client that calls. In
WELCOME the session id is the only part that no app chooses and no client interprets.
"""

RESTART = "the server restarts; what it left unanswered has not run"
"""The reason of the close frame, with code 1012, after which clients may repeat their unanswered calls."""

RESERVED = "wampkit:"
"""The beginning of the URIs that belong to wampkit; an app cannot declare them."""

SUBSCRIPTION = "wampkit:subscription"
"""`[2, id, SUBSCRIPTION, topic]` is answered with the full URI of the caller's subscription, or null if it has none.

The answer comes after the SUBSCRIBE messages before it have been decided.
"""

PUBLISH = "wampkit:publish"
"""`[2, id, PUBLISH, topic, event, ...]`, with the elements of a PUBLISH, publishes and is answered with null.

The answer is an error where the PUBLISH was refused or its handler failed.
"""
