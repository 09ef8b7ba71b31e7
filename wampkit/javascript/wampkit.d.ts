/**
 * A client for any WAMP v1 server, in browsers, Node, Deno and Bun. All times are in milliseconds.
 *
 * ```js
 * const client = connect("wss://example.com/ws", { prefixes: { calc: "http://example.com/calc#" } });
 * await client.call("calc:add", 2, 3);
 * for await (const event of client.subscribe("chat:lobby")) console.log(event);
 * ```
 */

/** A plain `<script>` has all of this in the global `wampkit`. */
export as namespace wampkit;

/**
 * - `connecting`: the first attempt is in progress; calls wait for it.
 * - `open`: calls and publishes are sent.
 * - `reconnecting`: there is no connection; another attempt follows. `client.error` is the cause.
 * - `closed`: final. `client.error` is the cause, or null after `close()`.
 */
export type State = "connecting" | "open" | "reconnecting" | "closed";

/** A value, or a function, sync or async, that returns a new one for each attempt to connect. */
export type Fresh<T> = T | (() => T | Promise<T>);

/** The part of a WebSocket class that is used; the runtime's and that of the package `ws` have it. */
export type WebSocketConstructor = new (url: string, protocol: string) => {
  readonly readyState: number;
  send(data: string): void;
  close(code?: number): void;
};

export interface Options {
  /** Prefixes and their URIs, sent as PREFIX on each connection. */
  prefixes?: Readonly<Record<string, string>>;

  /** Whether to connect again after the connection is lost or an attempt fails. Default: true. */
  reconnect?: boolean;

  /**
   * Upper bounds of the delay before another attempt: of the first delay, and of all. Each delay is random between 0 and
   * a bound that doubles with each attempt. Default: [100, 30_000].
   */
  backoff?: readonly [first: number, longest: number];

  /** Timeout of an attempt to connect, from the function for the URL to the login. Default: 10,000. */
  openTimeout?: number;

  /** Timeout of calls without one of their own; 0 means none. Default: 0. */
  callTimeout?: number;

  /**
   * How long calls wait while a wampkit server restarts. Calls that it left unanswered have not run; they wait too, and
   * are sent again. Default: 30,000.
   */
  restartTimeout?: number;

  /**
   * Time without a message after which a wampkit server must answer a call; it is called too when the network or the page
   * comes back. Without an answer within 0.4 of this time the connection is closed. 0 turns it off. Default: 25,000.
   */
  keepalive?: number;

  /** Events of an iterated subscription that wait to be fetched; beyond that the oldest is dropped. Default: 10,000. */
  maxEvents?: number;

  /**
   * Characters that a message may have; a larger one closes the connection, since parsing it may take a second, and a
   * hundred times its size in memory. Default: 4 Mi.
   */
  maxMessageSize?: number;

  /** Publishes that are kept while there is no connection, then sent; beyond that `publish` throws. Default: 0. */
  keepPublishes?: number;

  /** The key (user name) of a WAMP-CRA login, made on each connection before anything else is sent. */
  authkey?: string;

  /** The secret or password of the authkey. It is never sent. */
  secret?: Fresh<string>;

  /** Further data for the server, sent with the authkey. */
  authextra?: Readonly<Record<string, unknown>>;

  /** Whether to log in as anonymous, where the server requires a login of everyone. */
  anonymous?: boolean;

  /**
   * Whether the server begins with WELCOME. False is for servers that do not, such as the client of League of Legends: the
   * connection is open at once, has no session id, and empty messages are ignored. Default: true.
   */
  welcome?: boolean;

  /** The WebSocket class to use. Default: the runtime's. Node below 22 has none: give that of the package `ws`. */
  WebSocket?: WebSocketConstructor;
}

/**
 * Create a client, which begins to connect at once.
 *
 * @param url The URL of the socket: ws:// or wss://, or in a browser a path such as "/ws". A function returns a new one for
 * each attempt, with a ticket for example; if it fails, the next attempt calls it again.
 */
export function connect(url: Fresh<string | URL>, options?: Options): Client;

export type StateListener = (state: State, error: Error | null) => void;

export interface Client {
  readonly state: State;

  /**
   * Why there is no connection: a `ConnectionLost`, with code 1002 if the server does not speak WAMP v1; or the `CallError`
   * of a refused login, with "" as its `uri` if this client ended the login.
   */
  readonly error: Error | null;

  /** Resolves to this client when it is first open; rejects if it is closed before. */
  readonly opened: Promise<Client>;

  /** The session id of the current connection, or of the last one; "" before the first. */
  readonly sessionId: string;

  /** The name and version that the server gives in WELCOME. */
  readonly serverIdent: string;

  /** What this client may do, as the server said at the login; null without one. */
  readonly permissions: Permissions | null;

  /** Call a listener at each change of state. Returns a function that removes it. */
  on(name: "state", listener: StateListener): () => void;

  /**
   * Call a procedure.
   *
   * @param procedure A URI or CURIE; or an object with it and the timeout or signal of this call.
   * @param args Arguments: all that JSON can represent.
   * @throws {CallError} The server answered with an error.
   * @throws {ConnectionLost} There is no connection, or it was lost during the call, which may have run.
   * @throws {DOMException} `TimeoutError`: no answer within the timeout; the server may still run the call. After an abort,
   * the reason of the signal.
   */
  call<Result = any>(procedure: string | Procedure, ...args: readonly unknown[]): Promise<Result>;

  /**
   * Receive the events of a topic, now and after each reconnect, until the returned function is called.
   *
   * @param topic A URI or CURIE.
   * @param listener Called with each event and the full URI of its topic.
   */
  subscribe<Event = any>(topic: string, listener: (event: Event, uri: string) => void): Stop;

  /** Receive the events of a topic by iteration: `for await (const event of client.subscribe(topic))`. */
  subscribe<Event = any>(topic: string): Subscription<Event>;

  /**
   * Publish an event, and wait until a wampkit server has accepted it. To other servers, which cannot confirm it, the event
   * is only sent. `timeout` and `signal` end the wait, as with a call.
   *
   * @returns Whether the server has confirmed it; false if it cannot. The app may still drop an accepted event.
   * @throws As `call`; a `CallError` if the server refused the event.
   */
  publish(topic: string, event: unknown, rules: Confirmed): Promise<boolean>;

  /**
   * Publish an event. WAMP v1 tells neither whether the server accepted it nor whether a client received it.
   *
   * @throws {ConnectionLost} There is no connection, and `keepPublishes` does not let it wait.
   */
  publish(topic: string, event: unknown, rules?: Receivers): void;

  /** Define a prefix: CURIEs that begin with `name:` stand for URIs that begin with `uri`. Sent on each connection. */
  prefix(name: string, uri: string): void;

  /** Close the client, finally: calls in flight are rejected, subscriptions end. */
  close(): void;
}

/** A call with its own timeout or signal: `client.call({ uri: "calc:add", timeout: 5000 }, 2, 3)`. */
export interface Procedure {
  uri: string;
  timeout?: number;
  signal?: AbortSignal;
}

/** Which subscribers receive an event, by session id. */
export interface Receivers {
  /** Whether this client is excluded; by default the server decides. */
  excludeMe?: boolean;
  /** The sessions that do not receive it. */
  exclude?: readonly string[];
  /** The only sessions that receive it; this client only if it is one of them. */
  eligible?: readonly string[];
}

/** The options of a confirmed publish. */
export interface Confirmed extends Receivers {
  confirm: true;
  timeout?: number;
  signal?: AbortSignal;
}

/** A function that ends a subscription. */
export interface Stop {
  (): void;

  /**
   * Resolves when the server has first answered: to the topic's full URI, or to null if the subscription was refused. To
   * undefined with servers other than wampkit (WAMP v1 itself has no such answer), if no answer comes within `openTimeout`,
   * and when the client is closed.
   */
  readonly ready: Promise<string | null | undefined>;
}

/** The events of a topic. Leaving the loop ends the subscription, and so does closing the client. */
export interface Subscription<Event = any> extends AsyncIterableIterator<Event> {
  readonly topic: string;

  /** See `Stop`. */
  readonly ready: Promise<string | null | undefined>;

  /** Number of events dropped because more than `maxEvents` waited. */
  readonly dropped: number;

  next(): Promise<IteratorResult<Event, undefined>>;

  /** End the subscription; events that have arrived can still be fetched. */
  stop(): void;

  /** End the subscription and discard the events that have arrived, as leaving a loop does. */
  return(): Promise<IteratorResult<Event, undefined>>;

  [Symbol.asyncIterator](): Subscription<Event>;
}

export interface Permissions {
  rpc: { uri: string; call: boolean }[];
  pubsub: { uri: string; prefix: boolean; pub: boolean; sub: boolean }[];
}

/** The server answered a call with CALLERROR. */
export class CallError extends Error {
  /** The error URI, in full even if the server sent a CURIE with a prefix of this client. */
  readonly uri: string;
  /** The server's message, possibly empty. */
  readonly description: string;
  /** Further data from the server, or null. */
  readonly details: any;
}

/** There is no connection, or it was lost. */
export class ConnectionLost extends Error {
  /** The WebSocket close code; 1006 if there was no closing handshake, null before any connection. */
  readonly code: number | null;
}

/** Derive the WAMP-CRA key of a secret by the `authextra` of a challenge; without a salt it is the secret itself. */
export function deriveKey(
  secret: string,
  authextra?: { salt?: string; iterations?: number | string; keylen?: number | string } | null,
): Promise<string>;

/** Sign a WAMP-CRA challenge. */
export function sign(challenge: string, key: string): Promise<string>;
