"""The options of an app as attributes: they take effect until it starts."""

from __future__ import annotations

import dataclasses

import pytest
from aiohttp import web

from wampkit import App, Limits, requires

from .support.wire import ERROR, serve


async def test_options_take_effect_until_the_start() -> None:
    """What is set before the start counts as if it had been given to `App`, and can be set again after the stop."""
    app = App()
    app.limits = dataclasses.replace(app.limits, subscriptions=1)
    app.prefixes = {"t": "http://example.com/t#"}
    app.requires = [requires()]
    app.ident = "mine"
    app.rpc("t:x")(lambda: 1)
    async with serve(app) as server:
        peer = await server.peer()
        assert peer.welcome[3] == "mine"
        assert (await peer.call("http://example.com/t#x"))[0] == ERROR  # this needs a login
        with pytest.raises(AttributeError, match="while the app runs"):
            app.limits = Limits()
        with pytest.raises(TypeError):
            app.prefixes["u"] = "http://example.com/u#"  # type: ignore[index]
    app.limits = Limits()
    assert app.limits == Limits()


async def test_several_rules_are_an_apps_and_its_consoles() -> None:
    """`App(requires=[...])` and `console=[...]` ask for all of the rules, and refuse as each of them does."""
    app = App(requires=[requires(), requires("admin")], console=[requires("admin"), requires("root")])
    app.rpc("x")(lambda: 1)
    async with serve(app) as server:
        peer = await server.peer()
        assert (await peer.call("x"))[3] == "this needs a login"
        assert (await peer.call("wampkit:console"))[3] == "this needs the role 'admin'"


async def test_an_app_that_runs_twice_says_where() -> None:
    """An app in two aiohttp applications that run at once is refused with the path at which it runs."""
    app = App()
    first, second = web.Application(), web.Application()
    app.setup(first, "/first")
    await app.start()
    try:
        with pytest.raises(RuntimeError, match=r"running already at '/first'.*another App"):
            await app.start()
        app.setup(second, "/first")
    finally:
        await app.stop()
