// The same call, subscription or publish for a terminal, in Python and in JavaScript.

/** A text that a POSIX shell reads as one word. */
const shell = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

function python(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([key, each]) => `${JSON.stringify(key)}: ${python(each)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}

const script = (url, login) => {
  const options = login ? `, authkey=${python(login.authkey)}, secret="..."` : "";
  return (body) => `import asyncio

from wampkit import connect


async def main() -> None:
    async with connect(${python(url)}${options}) as client:
        ${body}


asyncio.run(main())`;
};

const page = (module, url, login) => {
  const options = login ? `, { authkey: ${JSON.stringify(login.authkey)}, secret: "..." }` : "";
  return (body) => `import { connect } from ${JSON.stringify(module)};

const client = connect(${JSON.stringify(url)}${options});
${body}`;
};

const command = (login, ...words) =>
  ["wampkit", words[0], ...(login ? ["--authkey", shell(login.authkey)] : []), ...words.slice(1)].join(" ");

/** Each form of a call, by the name of its tab. */
export function callSnippets({ url, module, login }, procedure, args) {
  const list = (render) => [render(procedure), ...args.map(render)].join(", ");
  const words = args.map((each) => shell(JSON.stringify(each)));
  return {
    Terminal: command(login, "call", shell(url), shell(procedure), ...words),
    Python: script(url, login)(`print(await client.call(${list(python)}))`),
    JavaScript: page(module, url, login)(`console.log(await client.call(${list(JSON.stringify)}));`),
  };
}

export function subscribeSnippets({ url, module, login }, topic) {
  const loop = `async with client.subscribe(${python(topic)}) as events:
            async for event in events:
                print(event)`;
  return {
    Terminal: command(login, "subscribe", shell(url), shell(topic)),
    Python: script(url, login)(loop),
    JavaScript: page(module, url, login)(
      `for await (const event of client.subscribe(${JSON.stringify(topic)})) console.log(event);`,
    ),
  };
}

export function publishSnippets({ url, module, login }, topic, event) {
  return {
    Terminal: command(login, "publish", shell(url), shell(topic), shell(JSON.stringify(event))),
    Python: script(url, login)(`await client.publish(${python(topic)}, ${python(event)})`),
    JavaScript: page(module, url, login)(
      `await client.opened;\nclient.publish(${JSON.stringify(topic)}, ${JSON.stringify(event)});`,
    ),
  };
}
