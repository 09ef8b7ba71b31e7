// What the scripts of the tests begin with: the client on the WebSocket that is tried, and lines of JSON to and from the test.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import * as wampkit from "../../../wampkit/javascript/wampkit.js";

export { default as assert } from "node:assert/strict";
export const { CallError, ConnectionLost, deriveKey, sign } = wampkit;
export const url = process.argv[1];

const WebSocket = process.env.PACKAGE_WS ? createRequire(import.meta.url)("ws") : globalThis.WebSocket;
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const clients = [];

/** A client, which is closed with the script. */
export function connect(target = url, options = {}) {
  const client = wampkit.connect(target, { WebSocket, backoff: [5, 20], ...options });
  clients.push(client);
  return client;
}

/** Tell the test. */
export function say(...news) {
  process.stdout.write(`${JSON.stringify(news.length > 1 ? news : (news[0] ?? null))}\n`);
}

/** What the test tells next. */
export async function told() {
  return JSON.parse((await lines.next()).value);
}

/** Tell the test, and wait for its answer. */
export async function ask(...news) {
  say(...news);
  return told();
}

/** Wait for a state of the client. */
export async function until(client, state) {
  await new Promise((resolve) => {
    if (client.state === state) resolve();
    client.on("state", (now) => now === state && resolve());
  });
  return client;
}

/** How a promise ends that must fail. */
export async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    const { name, message, uri, description, details, code } = error;
    return name === "CallError" ? { name, uri, description, details } : { name, message, code: code ?? null };
  }
  throw new Error("it did not fail");
}

/** The next events of an iterated subscription. */
export async function take(subscription, count) {
  const events = [];
  while (events.length < count) events.push((await subscription.next()).value);
  return events;
}

/** Close what is open; after that nothing may keep the process alive. */
export function finish() {
  for (const client of clients) client.close();
  process.stdin.destroy();
}
