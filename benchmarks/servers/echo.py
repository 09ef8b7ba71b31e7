"""No WAMP at all: aiohttp sends back each text as it came, which is the ground that everything else stands on."""

from aiohttp import WSMsgType, web

from . import listening


async def echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    async for received in socket:
        if received.type is WSMsgType.TEXT:
            await socket.send_str(received.data)
    return socket


if __name__ == "__main__":
    application = web.Application()
    application.router.add_get("/", echo)
    listening.main(listening.aiohttp_site, application)
