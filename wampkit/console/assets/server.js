// The connection to the app: one client for the whole page, what the app says of itself, and the frames on the wire.

import { CallError, connect } from "./wampkit.js";

const MOST_FRAMES = 2000;
const MOST_FIGURES = 300;
const OWN = /^\[\d,"(wampkit:|[^"]*","wampkit:)/; // what the console itself sends and receives

const here = location.href.split("#")[0];
export const socketUrl = here.replace(/^http/, "ws");
export const moduleUrl = `${here.split("?")[0].replace(/\/$/, "")}/wampkit.js`;

/**
 * The app, as this page knows it. It dispatches "change" when any of its fields has changed.
 *
 * - `state`, `error`: those of the client.
 * - `about`: what the app is, or null before it was told.
 * - `routes`: what it serves.
 * - `refusal`: why it does not tell, if it does not: a CallError.
 * - `figures`: what happened in each of the last seconds.
 * - `frames`: what went over the wire, without what the console itself asks.
 */
export class Server extends EventTarget {
  state = "connecting";
  error = null;
  about = null;
  routes = [];
  refusal = null;
  figures = [];
  frames = [];
  login = null;
  #count = 0;
  #asked = new Set();
  #client;

  /** Connect, or connect anew: as whom, if the app wants a login. */
  open(login = null) {
    this.#client?.close();
    // Another user may be told less.
    Object.assign(this, { login, about: null, routes: [], refusal: null, figures: [] });
    const client = connect(socketUrl, {
      WebSocket: tapped((...frame) => this.#note(...frame)),
      backoff: [100, 5000],
      ...login,
    });
    this.#client = client;
    this.state = client.state;
    client.on("state", (state, error) => this.#turned(client, state, error));
    client.subscribe("wampkit:live", (figures) => this.#live(client, figures));
    this.#changed();
  }

  get sessionId() {
    return this.#client.sessionId;
  }

  /** Call a procedure: what came of it, the milliseconds it took, and the frames. */
  async call(procedure, args, signal) {
    const began = performance.now();
    const before = this.#count;
    const answer = this.#client.call({ uri: procedure, signal }, ...args);
    const sent = this.frames.findLast((frame) => frame.number > before && frame.out);
    const outcome = await answer.then((result) => ({ result }), (error) => ({ error }));
    const received = sent && this.frames.findLast((frame) => frame.number > sent.number && answers(frame, sent));
    // Between the frames, as the page may have been busy with itself before it came to the answer.
    const time = received ? received.at - sent.at : performance.now() - began;
    return { ...outcome, time, frames: [sent, received].filter(Boolean) };
  }

  /** Ask something of the console's own procedures. */
  ask(name, ...args) {
    return this.#client.call({ uri: `wampkit:${name}`, timeout: 10_000 }, ...args);
  }

  subscribe(topic, listener) {
    return this.#client.subscribe(topic, listener);
  }

  publish(topic, event, rules) {
    this.#client.publish(topic, event, rules);
  }

  async #turned(client, state, error) {
    if (client !== this.#client) return;
    Object.assign(this, { state, error });
    if (state === "open") await this.#learn(client);
    this.#changed();
  }

  /** Ask what the app is: at each connect, since it may have been changed. */
  async #learn(client) {
    try {
      const about = await this.ask("console");
      const routes = [];
      let total = Infinity;
      while (routes.length < total) {
        const page = await this.ask("routes", routes.length);
        routes.push(...page.rows);
        total = page.rows.length ? page.total : 0;
      }
      if (client !== this.#client) return;
      Object.assign(this, { about, routes, refusal: null, figures: about.figures });
    } catch (error) {
      if (client === this.#client && error instanceof CallError) this.refusal = error;
    }
  }

  #live(client, figures) {
    if (client !== this.#client) return;
    this.figures = [...this.figures, figures].slice(-MOST_FIGURES);
    this.#changed();
  }

  #note(out, text, at) {
    this.#count++;
    if (this.#isOwn(text)) return;
    this.frames.push({ number: this.#count, out, text, at });
    if (this.frames.length > MOST_FRAMES) this.frames.splice(0, MOST_FRAMES / 10);
  }

  /** Whether a frame is the console's own. Answers do not name their procedure, so the others' calls are remembered. */
  #isOwn(text) {
    const id = idOf(text);
    if (text.startsWith("[0,")) this.#asked.clear();
    if (OWN.test(text)) return true;
    if (text.startsWith("[2,")) this.#asked.add(id);
    return /^\[[34],/.test(text) && !this.#asked.delete(id);
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** The call id of a CALL or of its answer. */
const idOf = (text) => /^\[[234],"(\d+)"/.exec(text)?.[1];

const answers = (frame, sent) => !frame.out && idOf(frame.text) === idOf(sent.text);

/** A WebSocket that tells what passes through it. */
function tapped(note) {
  return class extends WebSocket {
    constructor(...args) {
      super(...args);
      this.addEventListener("message", ({ data, timeStamp }) => note(false, data, timeStamp));
    }

    send(data) {
      note(true, data, performance.now());
      super.send(data);
    }
  };
}
