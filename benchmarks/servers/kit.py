"""The wampkit app that is measured: one typed procedure, relayed topics, everything at its default."""

from wampkit import App

from . import listening

app = App(prefixes={"calc": "http://example.com/calc#"})


@app.rpc("calc:add")
async def add(x: float, y: float) -> float:
    return x + y


app.topic("topic{number}", relay=True)

if __name__ == "__main__":
    listening.main(listening.aiohttp_site, app.web_app())
