"""The wampkit app that is measured: one typed procedure, relayed topics, everything at its default."""

from wampkit import App

app = App(prefixes={"calc": "http://example.com/calc#"})


@app.rpc("calc:add")
async def add(x: float, y: float) -> float:
    return x + y


app.topic("topic{number}", relay=True)
