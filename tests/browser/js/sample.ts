// Every part of the client's declarations, used as an app would; `tsc --strict` must find nothing wrong.
import { CallError, ConnectionLost, connect, deriveKey, sign } from "wampkit";
import type { Client, Confirmed, Fresh, Options, Permissions, Procedure, Receivers, State, StateListener, Stop, Subscription, WebSocketConstructor } from "wampkit";

declare class PackageWebSocket {
  constructor(address: string | URL, protocols?: string | string[], options?: object);
  readonly readyState: 0 | 1 | 2 | 3;
  send(data: string | Uint8Array): void;
  close(code?: number, reason?: string): void;
  terminate(): void;
}

interface Message {
  from: string;
  text: string;
}

const url: Fresh<string | URL> = async () => new URL("wss://example.com/ws");
const own: WebSocketConstructor = WebSocket;
const options: Options = {
  prefixes: { calc: "http://example.com/calc#" } as const,
  reconnect: true,
  backoff: [100, 30_000],
  openTimeout: 10_000,
  callTimeout: 5_000,
  restartTimeout: 30_000,
  keepalive: 0,
  maxEvents: 10,
  keepPublishes: 10,
  maxMessageSize: 1_000_000,
  welcome: false,
  authkey: "alice",
  secret: () => "s3cr3t",
  authextra: { app: "sample" },
  anonymous: false,
  WebSocket: PackageWebSocket,
};

const client: Client = connect(url, options);
connect("/ws");
connect(new URL("ws://localhost/ws"), { WebSocket: own, secret: async () => "s3cr3t" });

async function calls(): Promise<number> {
  const opened: Client = await client.opened;
  const sum = await opened.call<number>("calc:add", 2, 3);
  const anything = await client.call("calc:anything");
  const bounded: Procedure = { uri: "calc:add", timeout: 1_000, signal: new AbortController().signal };
  try {
    return sum + anything + (await client.call<number>(bounded, sum, ...[1, 2]));
  } catch (error) {
    if (error instanceof CallError) console.error(error.uri, error.description, error.details?.code);
    else if (error instanceof ConnectionLost) console.error(error.message, error.code?.toFixed());
    return NaN;
  }
}

async function events(): Promise<void> {
  const stop: Stop = client.subscribe<Message>("chat:lobby", ({ from, text }, uri) => console.log(uri.length, from, text));
  const decided: string | null | undefined = await stop.ready;
  stop();
  client.subscribe("chat:lobby", () => {});
  const subscription: Subscription<Message> = client.subscribe<Message>("chat:lobby");
  for await (const { text } of subscription) if (text.trim() === decided) break;
  const next: IteratorResult<Message, undefined> = await subscription.next();
  if (!next.done) console.log(next.value.from);
  for await (const event of client.subscribe("chat:any")) console.log(event.whatever);
  console.log(subscription.topic, subscription.dropped + 1, await subscription.ready);
  subscription.stop();
  await subscription.return();
}

function publishes(): void {
  const rules: Receivers = { excludeMe: true, exclude: ["a"], eligible: [client.sessionId] as readonly string[] };
  client.publish("chat:lobby", { from: "me", text: "hello" }, rules);
  client.publish("chat:lobby", null);
}

async function confirmed(): Promise<boolean> {
  const rules: Confirmed = { confirm: true, timeout: 1_000, signal: new AbortController().signal, exclude: ["a"] };
  return (await client.publish("chat:lobby", null, rules)) && client.publish("chat:lobby", null, { confirm: true });
}

function states(): void {
  const listener: StateListener = (state, error) => console.log(state.length, error?.message);
  const off: () => void = client.on("state", listener);
  off();
  const state: State = client.state;
  if (state === "connecting" || state === "open" || state === "reconnecting" || state === "closed") client.prefix("x", "http://x/");
  const permissions: Permissions | null = client.permissions;
  console.log(permissions?.rpc[0]?.call, permissions?.pubsub[0]?.prefix, client.error?.message, client.serverIdent);
  client.close();
}

const key: Promise<string> = deriveKey("p4ss", { salt: "s", iterations: "1000", keylen: 32 });
export const signature: Promise<string> = deriveKey("p4ss", null).then(async () => sign("challenge", await key));
export { calls, confirmed, events, publishes, states };
