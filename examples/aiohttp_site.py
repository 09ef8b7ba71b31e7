"""Mounting: an aiohttp site that has WAMP v1 on one of its paths, and publishes from its ordinary views.

Run it:   python -m examples.aiohttp_site
Try it:   wampkit subscribe ws://127.0.0.1:8080/live orders:new
          curl -d 'item=tea' http://127.0.0.1:8080/orders
"""

from itertools import count

from aiohttp import web

from wampkit import App

wamp = App(prefixes={"orders": "http://example.com/orders#"})
wamp.topic("orders:new")  # clients may subscribe; only the server publishes

numbers = count(1)


@wamp.rpc("orders:watchers")
async def watchers() -> int:
    """How many clients are connected."""
    return len(wamp.connections)


async def index(request: web.Request) -> web.Response:
    return web.Response(text="POST /orders; the socket is at /live\n")


async def order(request: web.Request) -> web.Response:
    form = await request.post()
    placed = {"number": next(numbers), "item": str(form.get("item", ""))}
    await wamp.publish("orders:new", placed)
    return web.json_response(placed, status=201)


def site() -> web.Application:
    site = web.Application()
    site.add_routes([web.get("/", index), web.post("/orders", order)])
    wamp.setup(site, path="/live")
    return site


if __name__ == "__main__":
    web.run_app(site(), host="127.0.0.1", port=8080)
