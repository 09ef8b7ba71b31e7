/**
 * A client for any WAMP v1 server, in browsers, Node, Deno and Bun. All times are in milliseconds.
 *
 * ```js
 * const client = connect("wss://example.com/ws", { prefixes: { calc: "http://example.com/calc#" } });
 * await client.call("calc:add", 2, 3);
 * for await (const event of client.subscribe("chat:lobby")) console.log(event);
 * ```
 */

/** In a plain `<script>` all of this is in the global `wampkit`. */
export as namespace wampkit;

/**
 * - `connecting`: the first attempt is under way; calls wait for it.
 * - `open`: calls and publishes go out.
 * - `reconnecting`: there is no connection, and another attempt will come. `client.error` tells why.
 * - `closed`: for good. `client.error` tells why, and is null after `close()`.
 */
export type State = "connecting" | "open" | "reconnecting" | "closed";

/** A value, or a function, async too, that gives a fresh one for each attempt to connect. */
export type Fresh<T> = T | (() => T | Promise<T>);

/** As much of a WebSocket's constructor as is needed: that of the runtime, or of the package `ws`. */
export type WebSocketConstructor = new (url: string, protocol: string) => {
  readonly readyState: number;
  send(data: string): void;
  close(code?: number): void;
};

export interface Options {
  /** Prefix to URI, sent as PREFIX on each connection. */
  prefixes?: Readonly<Record<string, string>>;

  /** Whether a connection that is lost, or cannot be made, is made again. Default: true. */
  reconnect?: boolean;

  /**
   * The longest first delay before another attempt, and the longest of all. A delay is drawn between 0 and a bound that
   * doubles with each attempt. Default: [100, 30_000].
   */
  backoff?: readonly [first: number, longest: number];

  /** How long an attempt may take, from the function that gives the URL to the login. Default: 10,000. */
  openTimeout?: number;

  /** How long a call may take that does not say otherwise; 0 is for ever. Default: 0. */
  callTimeout?: number;

  /**
   * How long calls wait for a wampkit server that restarts, those that it left unanswered too, which have not run.
   * Default: 30,000.
   */
  restartTimeout?: number;

  /**
   * After so long without a message, and whenever the network or the page comes back, a wampkit server is asked whether it
   * is there, and given up if nothing comes in 0.4 of that. 0 turns it off. Default: 25,000.
   */
  keepalive?: number;

  /** How many events of one iterated subscription wait; beyond that the oldest is dropped. Default: 10,000. */
  maxEvents?: number;

  /**
   * Characters of the largest message taken; a larger one ends the connection, since it may cost a second and a hundred
   * times its size. Default: 4 Mi.
   */
  maxMessageSize?: number;

  /** How many publishes are kept while there is no connection; beyond that, and by default, `publish` throws. Default: 0. */
  keepPublishes?: number;

  /** As whom to log in by WAMP-CRA on each connection, before anything else is sent. */
  authkey?: string;

  /** The secret or password of the authkey. It is never sent. */
  secret?: Fresh<string>;

  /** What the server is told besides the authkey. */
  authextra?: Readonly<Record<string, unknown>>;

  /** Whether to log in as nobody, where the server wants a login even so. */
  anonymous?: boolean;

  /**
   * Whether the server begins with WELCOME. False is for those that do not, such as the client of League of Legends: the
   * connection is open at once, has no session id, and empty messages count as signs of life. Default: true.
   */
  welcome?: boolean;

  /** The WebSocket to use. Default: the runtime's. Node below 22 has none: take that of the package `ws`. */
  WebSocket?: WebSocketConstructor;
}

/**
 * A client, which begins to connect at once.
 *
 * @param url Where the socket is: ws:// or wss://, or in a browser a path such as "/ws". A function gives a fresh one for
 * each attempt, with a ticket for example; if it fails, the next attempt asks it again.
 */
export function connect(url: Fresh<string | URL>, options?: Options): Client;

export type StateListener = (state: State, error: Error | null) => void;

export interface Client {
  readonly state: State;

  /**
   * Why there is no connection: a `ConnectionLost`, with code 1002 where the server does not speak WAMP v1; or the
   * `CallError` of a refused login, whose `uri` is "" where it was given up here.
   */
  readonly error: Error | null;

  /** Settled once: with this client when it is first open, or rejected when it is closed before. */
  readonly opened: Promise<Client>;

  /** The session id of the present connection, or of the last one; "" before the first. */
  readonly sessionId: string;

  /** What the server calls itself. */
  readonly serverIdent: string;

  /** What the server said at the login that is permitted, else null. */
  readonly permissions: Permissions | null;

  /** Be told of each change of state from now on. Returns a function that ends it. */
  on(name: "state", listener: StateListener): () => void;

  /**
   * Call a procedure.
   *
   * @param procedure A URI or CURIE; or an object with that and what this call needs.
   * @param args Whatever JSON can carry.
   * @throws {CallError} The server answered with an error.
   * @throws {ConnectionLost} There is no connection, or it was lost meanwhile: the call may have run.
   * @throws {DOMException} `TimeoutError`: no answer came in time, the call may run on. Or the reason of the signal.
   */
  call<Result = any>(procedure: string | Procedure, ...args: readonly unknown[]): Promise<Result>;

  /**
   * Receive the events of a topic, now and after each reconnect, until the returned function is called.
   *
   * @param topic A URI or CURIE.
   * @param listener Called with each event, and with the full URI of its topic.
   */
  subscribe<Event = any>(topic: string, listener: (event: Event, uri: string) => void): Stop;

  /** Receive the events of a topic by iteration: `for await (const event of client.subscribe(topic))`. */
  subscribe<Event = any>(topic: string): Subscription<Event>;

  /**
   * Publish an event, and wait until a wampkit server has taken it. Other servers cannot be asked: they are sent it all the
   * same. As with a call, `timeout` and `signal` give up the waiting.
   *
   * @returns Whether the server has confirmed it; false where it cannot tell. The app may have dropped what it confirms.
   * @throws As `call`: a `CallError` says why it was refused.
   */
  publish(topic: string, event: unknown, rules: Confirmed): Promise<boolean>;

  /**
   * Publish an event. WAMP v1 tells neither whether it was taken nor whether anybody received it.
   *
   * @throws {ConnectionLost} There is no connection, and it was not kept.
   */
  publish(topic: string, event: unknown, rules?: Receivers): void;

  /** Let `name:` stand for `uri`, now and after each reconnect. */
  prefix(name: string, uri: string): void;

  /** Close for good: calls under way are rejected, subscriptions end. */
  close(): void;
}

/** A call with its own bounds: `client.call({ uri: "calc:add", timeout: 5000 }, 2, 3)`. */
export interface Procedure {
  uri: string;
  timeout?: number;
  signal?: AbortSignal;
}

/** Who receives an event, of those who have subscribed; ids are session ids. */
export interface Receivers {
  /** Whether this client is left out; without it the server decides. */
  excludeMe?: boolean;
  /** Who does not receive it. */
  exclude?: readonly string[];
  /** Who alone receives it; this client too if it is named. */
  eligible?: readonly string[];
}

/** A publish whose fate is told. */
export interface Confirmed extends Receivers {
  confirm: true;
  timeout?: number;
  signal?: AbortSignal;
}

/** Ends a subscription. */
export interface Stop {
  (): void;

  /**
   * Settled when the server has first decided: the topic's full URI, or null if it is refused. WAMP v1 itself has no such
   * answer: with servers other than wampkit's, where none comes within `openTimeout`, and at the end of the client, it is
   * undefined.
   */
  readonly ready: Promise<string | null | undefined>;
}

/** The events of a topic. Leaving the loop ends the subscription, and so does the end of the client. */
export interface Subscription<Event = any> extends AsyncIterableIterator<Event> {
  readonly topic: string;

  /** As in `Stop`. */
  readonly ready: Promise<string | null | undefined>;

  /** How many events were dropped because they were not fetched. */
  readonly dropped: number;

  next(): Promise<IteratorResult<Event, undefined>>;

  /** End it; what has come already can be fetched still. */
  stop(): void;

  /** End it and forget what has come; leaving a loop does that. */
  return(): Promise<IteratorResult<Event, undefined>>;

  [Symbol.asyncIterator](): Subscription<Event>;
}

export interface Permissions {
  rpc: { uri: string; call: boolean }[];
  pubsub: { uri: string; prefix: boolean; pub: boolean; sub: boolean }[];
}

/** The server answered a call with CALLERROR. */
export class CallError extends Error {
  /** The error URI, in full if the server shortened it with this client's own prefixes. */
  readonly uri: string;
  /** The server's sentence, maybe empty. */
  readonly description: string;
  /** Whatever the server added, or null. */
  readonly details: any;
}

/** There is no connection, or it was lost. */
export class ConnectionLost extends Error {
  /** The WebSocket close code; 1006 where the wire was cut, null before any connection. */
  readonly code: number | null;
}

/** The key of WAMP-CRA for a password, by the `authextra` of a challenge: the secret itself where there is no salt. */
export function deriveKey(
  secret: string,
  authextra?: { salt?: string; iterations?: number | string; keylen?: number | string } | null,
): Promise<string>;

/** The signature of a WAMP-CRA challenge. */
export function sign(challenge: string, key: string): Promise<string>;
