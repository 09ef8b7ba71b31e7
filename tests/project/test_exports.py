"""The public names."""

import inspect

from aiohttp_session import SimpleCookieStorage

import wampkit

from ..support.tables import rows

KEY = "k" * 43 + "="

FACES = [
    (wampkit.AllowAddresses("10.0.0.1"), "allow connect describe disallow lifespan"),
    (wampkit.AllowHosts("example.com"), "connect describe"),
    (wampkit.AllowOrigins("https://example.com"), "any connect describe"),
    (
        wampkit.App(),
        "add_rpc background broker close_timeout compression connections console counters cra debug drain "
        "empty_eligible error_handler error_uris every exclude_publisher expand explain_refusals goodbye ident include "
        "javascript keepalive lifespan limits malformed middlewares on_connect on_disconnect on_error on_shutdown "
        "on_startup prefixes publish recheck report require_subprotocol requires rpc running setup start stop threads "
        "tickets to_user topic topics trusted_proxies web_app",
    ),
    (wampkit.App().topic("news"), "on_subscribe on_unsubscribe require"),
    (wampkit.BlockAddresses(), "block connect describe lifespan unblock"),
    (wampkit.Call, "args connection id name replace route uri variables"),
    (
        wampkit.Cra(lambda authkey, extra: None),
        "anonymous attempts challenge_ttl decoy_key derives failures_per_minute hide_unknown_keys lookup salted "
        "timeout",
    ),
    (wampkit.Credentials("secret"), "derived iterations keylen permissions roles salt secret user"),
    (wampkit.Depends(len), "function"),
    (wampkit.KeyRing(KEY), "rotate"),
    (wampkit.MemoryBroker(), "close publish start subscribe unsubscribe"),
    (wampkit.NotFound("no such room"), "description details kind uri"),
    (wampkit.Permissions(), "as_json may_call may_publish may_subscribe pubsub rpc"),
    (wampkit.ProcedurePermission("http://example.com/add"), "call uri"),
    (wampkit.Publication("topic", b"1"), "eligible event exclude topic"),
    (wampkit.Publish, "connection eligible event exclude exclude_me name replace route uri variables"),
    (wampkit.Refused("no"), "why"),
    (wampkit.requires("admin"), "check"),
    (wampkit.Router(), "add_rpc include rpc topic"),
    (wampkit.Session, "created expires id refresh save"),
    (wampkit.Sessions(SimpleCookieStorage(max_age=60), plain=True), "connect describe lifespan"),
    (wampkit.Subscribe, "connection name replace route uri variables"),
    (wampkit.Tickets(KEY), "connect describe issue lifespan"),
    (wampkit.Topic, "publish subscribers uri"),
    (wampkit.TopicPermission(uri="http://example.com/chat"), "prefix pub sub uri"),
    (wampkit.Topics, ""),
    (wampkit.TrustedProxies("10.0.0.1"), "header trusts"),
    (wampkit.Unsubscribe, "connection name replace route uri variables"),
    (wampkit.WampError("http://example.com/error"), "description details kind uri"),
]
"""What an editor offers of each object that a user holds, beyond what its bases from elsewhere have."""

NAMES = [
    name
    for name in wampkit.__all__
    if inspect.isclass(getattr(wampkit, name)) or inspect.isfunction(getattr(wampkit, name))
]


def test_all_names_exist_once() -> None:
    """`__all__` is what `from wampkit import *` gives."""
    assert len(set(wampkit.__all__)) == len(wampkit.__all__)
    assert [name for name in wampkit.__all__ if not hasattr(wampkit, name)] == []


@rows("name", NAMES)
def test_public_things_say_what_they_are_for(name: str) -> None:
    """Each public class and function, and each public method of a class, has a docstring."""
    thing = getattr(wampkit, name)
    assert inspect.getdoc(thing)
    if inspect.isclass(thing):
        for attribute, value in vars(thing).items():
            if not attribute.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                assert inspect.getdoc(value) or inspect.getdoc(getattr(thing, attribute)), f"{name}.{attribute}"


@rows(("thing", "names"), FACES)
def test_users_are_shown_what_is_for_them(thing: object, names: str) -> None:
    """The public attributes of an object are those that a user needs, so that no other may be relied upon."""
    bases = inspect.getmro(thing if inspect.isclass(thing) else type(thing))
    foreign = {name for base in bases if not base.__module__.startswith("wampkit") for name in dir(base)}
    shown = {name for name in dir(thing) if not name.startswith("_")} - foreign
    assert shown == set(names.split())


def test_the_version_is_the_changelogs() -> None:
    """The package's version is the newest one in the changelog."""
    from pathlib import Path

    changelog = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()
    newest = next(line for line in changelog.splitlines() if line.startswith("## [") and "Unreleased" not in line)
    assert newest.startswith(f"## [{wampkit.__version__}]")
