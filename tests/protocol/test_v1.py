"""The session's rules, on two protocols joined by hand."""

import json
from typing import Any

import pytest

from wampkit.errors import ProtocolError
from wampkit.protocol.messages import (
    Call,
    CallFailed,
    CallResult,
    Event,
    Prefix,
    Publish,
    Subscribe,
    Unsubscribe,
    encode,
)
from wampkit.protocol.v1 import WampV1


@pytest.fixture
def pair() -> tuple[WampV1, WampV1]:
    """A server and a client that has been welcomed."""
    server, client = WampV1("server", prefixes={"app": "http://app/"}, ident="test"), WampV1("client")
    client.receive(server.welcome())
    return server, client


def test_welcome_makes_the_session(pair: tuple[WampV1, WampV1]) -> None:
    """Both sides know the session id, and the client the server's name."""
    server, client = pair
    assert client.session_id == server.session_id != ""
    assert client.server_ident == "test"
    assert json.loads(server.welcome()) == [0, server.session_id, 1, "test"]


def test_session_ids_cannot_be_guessed() -> None:
    """Ids are 32 random characters, never the same, and what tells clients that the server is wampkit."""
    ids = {WampV1("server", ident="my shop").session_id for _ in range(10_000)}
    assert len({each[:32] for each in ids}) == 10_000
    assert {each[32:] for each in ids} == {".wampkit"}


def test_a_call_and_its_answers(pair: tuple[WampV1, WampV1]) -> None:
    """CALL goes one way, CALLRESULT and CALLERROR the other."""
    server, client = pair
    assert server.receive(client.call("c", "app:add", 1, [2])) == Call("c", "http://app/add", [1, [2]])
    assert client.receive(server.result("c", None)) == CallResult("c", None)
    assert client.receive(server.error("c", "u", "d")) == CallFailed("c", "u", "d")
    assert client.receive(server.error("c", "u", "d", 1)) == CallFailed("c", "u", "d", 1)


def test_topics(pair: tuple[WampV1, WampV1]) -> None:
    """SUBSCRIBE, UNSUBSCRIBE and PUBLISH arrive with their URI resolved."""
    server, client = pair
    assert server.receive(client.subscribe("app:t")) == Subscribe("http://app/t")
    assert server.receive(client.unsubscribe("t")) == Unsubscribe("t")
    sent = encode(Publish("app:t", {"a": 1}, None, ["x"], []))
    assert server.receive(sent) == Publish("http://app/t", {"a": 1}, None, ["x"], [])
    assert client.receive(b'[8,"http://app/t",1]') == Event("http://app/t", 1)


def test_prefixes_belong_to_their_connection(pair: tuple[WampV1, WampV1]) -> None:
    """PREFIX overrides the app's prefix for one client; another connection keeps the app's."""
    server, client = pair
    defaults = {"app": "http://app/"}
    other = WampV1("server", prefixes=defaults)
    assert server.receive(client.prefix("app", "http://mine/")) == Prefix("app", "http://mine/")
    assert client.resolve("app:x") == server.resolve("app:x") == "http://mine/x"
    assert other.resolve("app:x") == "http://app/x"
    assert defaults == {"app": "http://app/"}
    server.receive(client.prefix("app", "http://again/"))
    assert dict(server.prefixes) == {"app": "http://again/"}


SERVERS_MESSAGES: list[list[Any]] = [[0, "s", 1, "x"], [3, "c", 1], [4, "c", "u", "d"], [8, "t", 1]]
CLIENTS_MESSAGES: list[list[Any]] = [[2, "c", "u"], [5, "t"], [6, "t"], [7, "t", 1]]


@pytest.mark.parametrize("message", SERVERS_MESSAGES, ids=str)
def test_a_client_does_not_send_a_servers_messages(pair: tuple[WampV1, WampV1], message: list[Any]) -> None:
    """What only servers send is a protocol error of a client, named as the protocol names it."""
    with pytest.raises(ProtocolError, match="a client does not send (WELCOME|CALLRESULT|CALLERROR|EVENT)") as refused:
        pair[0].receive(json.dumps(message))
    assert refused.value.code == 1002


@pytest.mark.parametrize("message", CLIENTS_MESSAGES, ids=str)
def test_a_server_does_not_send_a_clients_messages(pair: tuple[WampV1, WampV1], message: list[Any]) -> None:
    """What only clients send is a protocol error of a server."""
    with pytest.raises(ProtocolError, match="a server does not send"):
        pair[1].receive(json.dumps(message))


def test_a_servers_prefix_is_taken_and_means_nothing(pair: tuple[WampV1, WampV1]) -> None:
    """Ratchet and BabDev can send PREFIX; it must have its form, and no name is resolved by it."""
    _, client = pair
    client.receive('[1,"p","http://theirs/"]')
    assert client.resolve("p:x") == "p:x"
    with pytest.raises(ProtocolError, match="expected PREFIX"):
        client.receive('[1,"p",2]')
    with pytest.raises(ProtocolError, match="does not send PREFIX"):
        WampV1("client").receive('[1,"p","u"]')


def test_welcome_comes_first_and_once(pair: tuple[WampV1, WampV1]) -> None:
    """A client takes nothing before WELCOME and no second one."""
    with pytest.raises(ProtocolError, match="first message of a server is WELCOME"):
        WampV1("client").receive('[8,"t",1]')
    with pytest.raises(ProtocolError, match="WELCOME once"):
        pair[1].receive('[0,"other",1,"x"]')


def test_a_refused_message_changes_nothing(pair: tuple[WampV1, WampV1]) -> None:
    """After a protocol error the state is as it was before."""
    server, client = pair
    for text in ('[1,"app",5]', '[0,"s",1,"x"]', "nonsense", '[1,"app"]'):
        with pytest.raises(ProtocolError):
            server.receive(text)
    assert server.resolve("app:x") == "http://app/x"
    assert client.session_id == server.session_id
