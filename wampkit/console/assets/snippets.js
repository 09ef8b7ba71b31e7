// Code for a call, a subscription or a publish: for a terminal, in Python, and in JavaScript.

/** Quote a text for a POSIX shell. */
const shellQuote = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

/** A JSON value as Python. */
function pythonLiteral(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(pythonLiteral).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([key, each]) => `${JSON.stringify(key)}: ${pythonLiteral(each)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}

const pythonScript = (url, login) => {
  const options = login ? `, authkey=${pythonLiteral(login.authkey)}, secret="..."` : "";
  return (body) => `import asyncio

from wampkit import connect


async def main() -> None:
    async with connect(${pythonLiteral(url)}${options}) as client:
        ${body}


asyncio.run(main())`;
};

const javascriptModule = (module, url, login) => {
  const options = login ? `, { authkey: ${JSON.stringify(login.authkey)}, secret: "..." }` : "";
  return (body) => `import { connect } from ${JSON.stringify(module)};

const client = connect(${JSON.stringify(url)}${options});
${body}`;
};

const command = (login, ...words) =>
  ["wampkit", words[0], ...(login ? ["--authkey", shellQuote(login.authkey)] : []), ...words.slice(1)].join(" ");

/** The code of a call, by the name of its tab. */
export function callSnippets({ url, module, login }, procedure, args) {
  const list = (render) => [render(procedure), ...args.map(render)].join(", ");
  const words = args.map((each) => shellQuote(JSON.stringify(each)));
  return {
    Terminal: command(login, "call", shellQuote(url), shellQuote(procedure), ...words),
    Python: pythonScript(url, login)(`print(await client.call(${list(pythonLiteral)}))`),
    JavaScript: javascriptModule(module, url, login)(`console.log(await client.call(${list(JSON.stringify)}));`),
  };
}

export function subscribeSnippets({ url, module, login }, topic) {
  const loop = `async with client.subscribe(${pythonLiteral(topic)}) as events:
            async for event in events:
                print(event)`;
  return {
    Terminal: command(login, "subscribe", shellQuote(url), shellQuote(topic)),
    Python: pythonScript(url, login)(loop),
    JavaScript: javascriptModule(module, url, login)(
      `for await (const event of client.subscribe(${JSON.stringify(topic)})) console.log(event);`,
    ),
  };
}

export function publishSnippets({ url, module, login }, topic, event) {
  return {
    Terminal: command(login, "publish", shellQuote(url), shellQuote(topic), shellQuote(JSON.stringify(event))),
    Python: pythonScript(url, login)(`await client.publish(${pythonLiteral(topic)}, ${pythonLiteral(event)})`),
    JavaScript: javascriptModule(module, url, login)(
      `await client.opened;\nclient.publish(${JSON.stringify(topic)}, ${JSON.stringify(event)});`,
    ),
  };
}
