"""Sessions: a site that people log in to, and a socket that knows who they are and ends with their logout.

Run it:   python -m examples.login_site        then open http://127.0.0.1:8080/ and log in as ann (tea) or bob (coffee)
          REDIS_URL=redis://127.0.0.1 python -m examples.login_site        keeps the sessions in Redis
"""

import os
import secrets
from html import escape

from aiohttp import web
from aiohttp_session import AbstractStorage, Session, get_session, new_session, setup
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from cryptography.fernet import Fernet

from wampkit import App, Connection, KeyRing, Sessions

PASSWORDS = {"ann": "tea", "bob": "coffee"}  # yours are in a database, and hashed
COOKIE = {"max_age": 8 * 3600, "httponly": True, "samesite": "Lax"}  # and "secure": True behind https


def storage() -> AbstractStorage:
    """Where sessions are kept: in Redis if there is one, else encrypted in the cookie itself."""
    if "REDIS_URL" in os.environ:
        from aiohttp_session.redis_storage import RedisStorage
        from redis.asyncio import Redis

        return RedisStorage(Redis.from_url(os.environ["REDIS_URL"]), **COOKIE)
    # To replace the key: SESSION_KEYS="the-new-one the-old-one". Without any this is an example for one process, and a
    # restart logs everybody out: a server for others reads os.environ["SESSION_KEYS"], and does not start without it.
    keys = os.environ.get("SESSION_KEYS", "").split() or [Fernet.generate_key()]
    return EncryptedCookieStorage(KeyRing(*keys), **COOKIE)


STORAGE = storage()

wamp = App(
    prefixes={"site": "http://example.com/site#"},
    middlewares=[Sessions(STORAGE, id="sid", required=True)],
)


@wamp.rpc("site:whoami")
async def whoami(conn: Connection) -> str:
    return conn.user


@wamp.topic("site:chat")
async def chat(event: str, conn: Connection) -> dict[str, str]:
    """Nobody can speak in another's name: it comes from the session."""
    return {"from": conn.user, "text": event[:500]}


async def index(request: web.Request) -> web.Response:
    session = await get_session(request)
    session.setdefault("csrf", secrets.token_urlsafe())
    page = HOME.replace("{user}", escape(session["user"])) if "user" in session else LOGIN
    return web.Response(text=HEAD + page.replace("{csrf}", session["csrf"]), content_type="text/html")


async def login(request: web.Request) -> web.Response:
    form = await checked_form(request, await get_session(request))
    name = form.get("name", "")
    if not secrets.compare_digest(PASSWORDS.get(name, "").encode() or os.urandom(9), form.get("password", "").encode()):
        raise web.HTTPForbidden(text="this is not the password")
    # A new session, so that nobody can have prepared it; its `sid` is what the logout finds the sockets by.
    session = await new_session(request)
    session.update({"user": name, "sid": secrets.token_urlsafe(), "csrf": secrets.token_urlsafe()})
    raise web.HTTPSeeOther("/")


async def logout(request: web.Request) -> web.Response:
    session = await get_session(request)
    await checked_form(request, session)
    for connection in wamp.connections(session_id=session.get("sid", "")):
        connection.close(4401, "logged out")
    session.invalidate()
    raise web.HTTPSeeOther("/")


async def checked_form(request: web.Request, session: Session) -> dict[str, str]:
    """The form, if it comes from a page of ours: another site does not know the session's `csrf`."""
    form = {key: str(value) for key, value in (await request.post()).items()}
    if not secrets.compare_digest(session.get("csrf", "").encode() or os.urandom(9), form.get("csrf", "").encode()):
        raise web.HTTPForbidden(text="this form is out of date: go back and reload the page")
    return form


def site() -> web.Application:
    site = web.Application()
    setup(site, STORAGE)
    site.add_routes([web.get("/", index), web.post("/login", login), web.post("/logout", logout)])
    wamp.setup(site, path="/ws")
    return site


HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Login</title>
<link rel="icon" href="data:,">
<style>
  :root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
  body { max-width: 30rem; margin: 0 auto; padding: 1rem }
  input, button { font: inherit; padding: .3rem .6rem }
</style>
"""
LOGIN = """
<form action="/login" method="post">
  <input type="hidden" name="csrf" value="{csrf}">
  <input name="name" placeholder="Name" required>
  <input name="password" type="password" placeholder="Password" required>
  <button>Log in</button>
</form>
"""
HOME = """
<form action="/logout" method="post">
  <input type="hidden" name="csrf" value="{csrf}">{user} <button>Log out</button>
</form>
<p id="state">connecting …</p>
<form id="form"><input id="text" autocomplete="off" required> <button>Say</button></form>
<ol id="log"></ol>
<script type="module">
  import { connect } from "/ws/wampkit.js"

  const $ = id => document.getElementById(id)
  const client = connect("/ws")

  const tell = text => $("state").textContent = text
  client.on("state", (state, error) => {
    // A call that fails here was overtaken by the next state, which tells more.
    if (state === "open") client.call("site:whoami").then(name => tell(`connected as ${name}`), () => {})
    else tell(error?.code === 4401 ? "logged out: log in again" : `${state} …`)
  })
  client.subscribe("site:chat", event => {
    const line = document.createElement("li")
    line.textContent = `${event.from}: ${event.text}`
    $("log").append(line)
  })
  $("form").onsubmit = submitted => {
    submitted.preventDefault()
    client.publish("site:chat", $("text").value, { excludeMe: false })   // the sender receives it too
    $("text").value = ""
  }
</script>
"""

if __name__ == "__main__":
    web.run_app(site(), host="127.0.0.1", port=8080)
