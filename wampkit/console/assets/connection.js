// The connection to the server: one client for the whole page, the description of the app, and the frames on the wire.

import { CallError, connect } from "./wampkit.js";

const MAX_FRAMES = 2000;
const MAX_FIGURES = 300;
const CONSOLE_MESSAGE = /^\[\d,"(wampkit:|[^"]*","wampkit:)/; // of the console's own procedures and topic

const pageUrl = location.href.split("#")[0];
export const socketUrl = pageUrl.replace(/^http/, "ws");
export const moduleUrl = `${pageUrl.split("?")[0].replace(/\/$/, "")}/wampkit.js`;

/**
 * The server, as far as this page knows it. Dispatches "change" when any of its fields has changed.
 *
 * - `state`, `error`: the client's.
 * - `about`: the app's name, version, prefixes and options; null until the server has sent them.
 * - `routes`: its procedures and topics.
 * - `refusal`: the CallError with which the server refused to describe the app, or null.
 * - `figures`: counts and times of each of the last seconds.
 * - `frames`: the frames sent and received, without those of the console's own calls.
 * - `login`: the authkey and secret of the login, or null.
 */
export class ServerConnection extends EventTarget {
  state = "connecting";
  error = null;
  about = null;
  routes = [];
  refusal = null;
  figures = [];
  frames = [];
  login = null;
  #frameCount = 0;
  #calls = new Set();
  #client;

  /** Connect, or replace the connection by a new one, with a login if the app requires it. */
  open(login = null) {
    this.#client?.close();
    // Another user may see less.
    Object.assign(this, { login, about: null, routes: [], refusal: null, figures: [] });
    const client = connect(socketUrl, {
      WebSocket: recordingWebSocket((...frame) => this.#record(...frame)),
      backoff: [100, 5000],
      ...login,
    });
    this.#client = client;
    this.state = client.state;
    client.on("state", (state, error) => this.#onState(client, state, error));
    client.subscribe("wampkit:live", (figures) => this.#onFigures(client, figures));
    this.#changed();
  }

  get sessionId() {
    return this.#client.sessionId;
  }

  /** Call a procedure. Returns `{result}` or `{error}`, with its time in milliseconds and its frames. */
  async call(procedure, args, signal) {
    const start = performance.now();
    const before = this.#frameCount;
    const answer = this.#client.call({ uri: procedure, signal }, ...args);
    const sent = this.frames.findLast((frame) => frame.number > before && frame.out);
    const outcome = await answer.then((result) => ({ result }), (error) => ({ error }));
    const received = sent && this.frames.findLast((frame) => frame.number > sent.number && isAnswer(frame, sent));
    // Measured between the frames, as the page may handle the answer late.
    const time = received ? received.at - sent.at : performance.now() - start;
    return { ...outcome, time, frames: [sent, received].filter(Boolean) };
  }

  /** Call one of the console's own procedures. */
  callConsole(name, ...args) {
    return this.#client.call({ uri: `wampkit:${name}`, timeout: 10_000 }, ...args);
  }

  subscribe(topic, listener) {
    return this.#client.subscribe(topic, listener);
  }

  publish(topic, event, rules) {
    this.#client.publish(topic, event, rules);
  }

  async #onState(client, state, error) {
    if (client !== this.#client) return;
    Object.assign(this, { state, error });
    if (state === "open") await this.#load(client);
    this.#changed();
  }

  /** Load the description of the app, on each connection, since it may have changed. */
  async #load(client) {
    try {
      const about = await this.callConsole("console");
      const routes = [];
      let total = Infinity;
      while (routes.length < total) {
        const page = await this.callConsole("routes", routes.length);
        routes.push(...page.rows);
        total = page.rows.length ? page.total : 0;
      }
      if (client !== this.#client) return;
      Object.assign(this, { about, routes, refusal: null, figures: about.figures });
    } catch (error) {
      if (client === this.#client && error instanceof CallError) this.refusal = error;
    }
  }

  #onFigures(client, figures) {
    if (client !== this.#client) return;
    this.figures = [...this.figures, figures].slice(-MAX_FIGURES);
    this.#changed();
  }

  #record(out, text, at) {
    this.#frameCount++;
    if (this.#isConsole(text)) return;
    this.frames.push({ number: this.#frameCount, out, text, at });
    if (this.frames.length > MAX_FRAMES) this.frames.splice(0, MAX_FRAMES / 10);
  }

  /** Whether a frame belongs to the console itself. Answers do not name their procedure, so the ids of other calls are kept. */
  #isConsole(text) {
    const id = callIdOf(text);
    if (text.startsWith("[0,")) this.#calls.clear();
    if (CONSOLE_MESSAGE.test(text)) return true;
    if (text.startsWith("[2,")) this.#calls.add(id);
    return /^\[[34],/.test(text) && !this.#calls.delete(id);
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** The call id of a CALL or of its answer. */
const callIdOf = (text) => /^\[[234],"(\d+)"/.exec(text)?.[1];

const isAnswer = (frame, sent) => !frame.out && callIdOf(frame.text) === callIdOf(sent.text);

/** A WebSocket class that passes each text sent and received to a function. */
function recordingWebSocket(record) {
  return class extends WebSocket {
    constructor(...args) {
      super(...args);
      this.addEventListener("message", ({ data, timeStamp }) => record(false, data, timeStamp));
    }

    send(data) {
      record(true, data, performance.now());
      super.send(data);
    }
  };
}
