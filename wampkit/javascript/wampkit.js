// A WAMP v1 client, MIT licence; wampkit.d.ts documents it.

const [WELCOME, PREFIX, CALL, CALLRESULT, CALLERROR, SUBSCRIBE, UNSUBSCRIBE, PUBLISH, EVENT] = Array(9).keys();
const SUBSCRIPTION = "wampkit:subscription"; // a subscription's URI, null if refused
const RESTART = "the server restarts; what it left unanswered has not run";

class CallError extends Error {
  name = "CallError";
  constructor(uri, description, details = null) {
    super(uri ? `${uri}: ${description}` : description);
    Object.assign(this, { uri, description, details });
  }
}

class ConnectionLost extends Error {
  name = "ConnectionLost";
  constructor(reason, code = null) {
    super(reason);
    this.code = code;
  }
}

// ---- Connection: one WebSocket, never repaired

function openConnection(socket, options, resolve, onEvent) {
  const { welcome = true, maxMessageSize = 4_194_304, keepalive = 25_000 } = options;
  const calls = new Map();
  let callCount = 0;
  let isWelcomed = false;
  let lastHeard;
  let keepaliveTimer;
  const isOpen = () => isWelcomed || !welcome;
  const opened = deferred();
  const connection = {
    opened,
    sessionId: "",
    serverIdent: "",
    permissions: null,
    send,
    call,
    publish,
    startKeepalive,
    check,
    close,
  };

  function send(...message) {
    if (socket.readyState === 1) socket.send(JSON.stringify(message));
  }

  async function call(...procedure) {
    if (connection.lost) throw connection.lost;
    const id = `${callCount++}`;
    send(CALL, id, ...procedure);
    calls.set(id, deferred());
    return calls.get(id).promise;
  }

  function publish(topic, event, { excludeMe, exclude, eligible, confirm }) {
    // On the wire a list replaces `excludeMe`.
    const mine = excludeMe ? connection.sessionId : [];
    const receivers = exclude || eligible ? [[].concat(exclude ?? [], mine), eligible] : [excludeMe];
    const message = [topic, event, ...receivers.filter((each) => each != null)];
    if (confirm && connection.isWampkit) return call("wampkit:publish", ...message).then(() => true);
    send(PUBLISH, ...message);
    return false;
  }

  function startKeepalive() {
    keepaliveTimer = keepalive && setInterval(() => Date.now() - lastHeard >= keepalive && check(), keepalive / 2);
  }

  // A call, since browsers cannot ping.
  function check(isOffline) {
    if (keepalive && connection.isWampkit) {
      const timer = setTimeout(close, keepalive * 0.4, "the server does not answer");
      const stop = () => clearTimeout(timer);
      call(SUBSCRIPTION, "").then(stop, stop);
    } else if (isOffline) close("the network is offline");
  }

  function close(reason, code = 1006, told) {
    if (connection.lost) return;
    connection.lost = new ConnectionLost(reason, code);
    clearInterval(keepaliveTimer);
    socket.onmessage = null;
    socket.close(1000, told); // a page may not send the code itself
    connection.onLost?.();
    for (const waiting of [opened, ...calls.values()]) waiting.reject(connection.lost);
  }

  function refuse(reason = "the server does not speak WAMP v1", code = 1002) {
    close(reason, code, reason);
  }

  function receive([type, id, value, description, details], size) {
    if (type === WELCOME && value === 1 && !isWelcomed) {
      isWelcomed = true;
      connection.isWampkit = id.endsWith(".wampkit"); // unlike the ident, no app chooses it
      opened.resolve(Object.assign(connection, { sessionId: id, serverIdent: text(description) }));
    } else if (!isOpen()) refuse();
    else if (type === EVENT) onEvent(id, value, size);
    else if (type === CALLRESULT || type === CALLERROR) {
      const answer = calls.get(id);
      calls.delete(id);
      if (type === CALLRESULT) answer?.resolve(value);
      else answer?.reject(new CallError(resolve(text(value)), text(description), details));
    } else if (type !== PREFIX || !isText(value)) refuse();
  }

  socket.onopen = () => {
    lastHeard = Date.now();
    if (!welcome) opened.resolve();
  };
  socket.onmessage = ({ data }) => {
    lastHeard = Date.now();
    if (data.length > maxMessageSize) refuse(`the server sent over ${maxMessageSize} characters`, 1009);
    else if (data !== "" || welcome) receive(parse(data), data.length);
  };
  // Node 20 may report an error only.
  socket.onerror = socket.onclose = ({ code = 1006, reason }) => {
    const why = isOpen() && lastHeard ? "the connection was lost" : "no server, or it refuses";
    connection.isRestarting = code === 1012 && reason === RESTART;
    close(code === 1006 ? why : `the server closed the connection: ${reason || code}`, code);
  };
  return connection;
}

// ---- Subscriptions: kept over connections, in one group for each topic

function createSubscriptions(resolve, maxEvents, timeout) {
  const groups = new Map(); // by topic URI
  const early = []; // events of groups not yet confirmed
  let earlySize = 0;
  let connection = { lost: true };

  const groupsOf = (uri) => [...groups.values()].filter((group) => group.uri === uri);

  function add(topic, listener) {
    const key = resolve(topic);
    const group = groups.get(key) ?? { key, confirmed: deferred(), members: new Set() };
    const stop = () => remove(group, member);
    const ready = group.confirmed.promise;
    const member = listener
      ? { put: notify.bind(null, listener), end() {} }
      : createIterator(maxEvents, { topic, stop, ready });
    group.members.add(member);
    if (!groups.has(key)) {
      groups.set(key, group);
      if (!connection.lost) subscribe(group);
    }
    return member.events ?? Object.assign(stop, { ready });
  }

  function restore(opened) {
    connection = opened;
    for (const group of groups.values()) subscribe(group);
  }

  async function subscribe(group) {
    const used = connection;
    let uri;
    used.send(SUBSCRIBE, group.key); // no CURIE: its prefix may change
    if (used.isWampkit) {
      uri = await withTimeout({ timeout }, () => used.call(SUBSCRIPTION, group.key)).catch(() => {});
    }
    if (used.lost) return;
    if (uri === null) console.warn("wampkit: refused:", group.key);
    else if (!isText(uri)) uri = undefined;
    group.uri = uri ?? group.key; // the prefix may be the server's
    group.confirmed.resolve(uri);
    earlySize = 0;
    for (const each of early.splice(0)) deliver(...each);
  }

  async function remove(group, member) {
    const used = connection;
    member.end();
    if (!group.members.delete(member) || group.members.size || !groups.delete(group.key) || used.lost) return;
    // Two groups may be one topic to the server.
    for (const { confirmed } of [group, ...groups.values()]) await confirmed.promise;
    if (!groupsOf(group.uri).length) used.send(UNSUBSCRIBE, group.key);
  }

  function deliver(topic, event, size) {
    const uri = resolve(topic); // some servers send CURIEs
    const found = groupsOf(uri);
    for (const { members } of found) {
      for (const member of [...members]) if (members.has(member)) member.put(event, uri);
    }
    if (found.length || !groupsOf(undefined).length) return;
    early.push([topic, event, size]);
    earlySize += size;
    while (early.length > 1000 || earlySize > 4e6) earlySize -= early.shift()[2];
  }

  function end() {
    for (const { confirmed, members } of groups.values()) {
      confirmed.resolve();
      for (const member of members) member.end();
    }
    groups.clear();
  }

  return { add, restore, deliver, end };
}

function createIterator(maxEvents, properties) {
  const waiting = [];
  let changed = deferred();
  let isEnded = false;

  const events = {
    ...properties,
    dropped: 0,
    async next() {
      while (!waiting.length && !isEnded) await changed.promise;
      return { done: !waiting.length, value: waiting.shift() };
    },
    return() {
      waiting.length = 0;
      events.stop();
      return events.next();
    },
    [Symbol.asyncIterator]: () => events,
  };

  function put(event) {
    if (waiting.push(event) > maxEvents) {
      waiting.shift();
      events.dropped++;
    }
    wake();
  }

  function end() {
    isEnded = true;
    wake();
  }

  function wake() {
    changed.resolve();
    changed = deferred();
  }

  return { events, put, end };
}

// ---- Client: connects, retries, tells its state

function connect(url, options = {}) {
  const { WebSocket = globalThis.WebSocket, reconnect = true, callTimeout, maxEvents = 10_000 } = options;
  const { openTimeout = 10_000, keepPublishes = 0, restartTimeout = 30_000 } = options;
  const [first, longest] = options.backoff ?? [100, 30_000];
  if (!WebSocket) throw new TypeError("no WebSocket: give { WebSocket } of 'ws'");
  const prefixes = new Map(Object.entries(options.prefixes ?? {}));
  const resolve = (name) => name.replace(/^([^:]+):(?!\/\/)/, (start, prefix) => prefixes.get(prefix) ?? start);
  const subscriptions = createSubscriptions(resolve, maxEvents, openTimeout);
  const kept = [];
  const listeners = new Set();
  const ended = new AbortController();
  const opened = deferred();
  let changed = deferred();
  let connection;
  let attempts = 0;
  let retryTimer;
  let restartTimer; // runs while calls wait

  const client = {
    state: "connecting",
    error: null,
    sessionId: "",
    serverIdent: "",
    permissions: null,
    opened: opened.promise,
    on(_, listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    prefix(name, uri) {
      prefixes.set(name, uri);
      if (isOpen()) connection.send(PREFIX, name, uri);
    },
    call: (procedure, ...args) => request(procedure, (uri) => connection.call(uri, ...args)),
    publish,
    subscribe(topic, listener) {
      if (client.state === "closed") throw notOpen();
      return subscriptions.add(topic, listener);
    },
    close: () => finish(null),
  };

  const isOpen = () => client.state === "open";

  function notOpen() {
    const { message = "no connection", code } = client.error ?? {};
    return new ConnectionLost(`the client is ${client.state}: ${message}`, code);
  }

  async function request(procedure, send) {
    const { uri = procedure, signal, timeout = callTimeout } = procedure;
    return withTimeout({ uri, signal, timeout }, async (answer) => {
      while (!answer.isSettled) {
        if (isOpen()) {
          try {
            return await send(uri);
          } catch (error) {
            if (error !== connection.lost || !connection.isRestarting) throw error;
          }
        } else if (restartTimer || client.state === "connecting") await changed.promise;
        else throw notOpen();
      }
    });
  }

  function publish(topic, event, rules = {}) {
    if (rules.confirm) return request({ ...rules, uri: topic }, () => connection.publish(topic, event, rules));
    if (isOpen()) connection.publish(topic, event, rules);
    else if (client.state === "closed" || kept.length >= keepPublishes) throw notOpen();
    else kept.push(JSON.parse(JSON.stringify([topic, event, rules])));
  }

  async function attempt() {
    const expired = deferred();
    const expire = (reason) => {
      expired.reject(reason);
      connection?.close(reason);
    };
    const timer = setTimeout(expire, openTimeout, "not open in time");
    clearTimeout(retryTimer);
    retryTimer = null;
    try {
      const values = Promise.all([fresh(url), fresh(options.secret)]);
      const [target, secret] = await Promise.race([values, expired.promise]).catch((error) => {
        throw new ConnectionLost(String(error));
      });
      if (client.state === "closed") return;
      const { href } = new URL(target, globalThis.location);
      const socket = new WebSocket(href.replace(/^http/, "ws"), "wamp");
      connection = openConnection(socket, options, resolve, subscriptions.deliver);
      await connection.opened.promise;
      if (options.authkey || options.anonymous) await logIn(connection, secret, options);
      if (connection.lost) throw connection.lost;
      onConnected(connection);
    } catch (error) {
      connection?.close("the login failed");
      retry(error);
    } finally {
      clearTimeout(timer);
    }
  }

  function onConnected({ sessionId, serverIdent, permissions }) {
    const since = Date.now();
    connection.onLost = () => {
      if (Date.now() - since > 1000) attempts = 0;
      retry(connection.lost, connection.isRestarting);
    };
    connection.startKeepalive();
    Object.assign(client, { error: null, sessionId, serverIdent, permissions });
    for (const each of prefixes) connection.send(PREFIX, ...each);
    subscriptions.restore(connection);
    for (const each of kept.splice(0)) connection.publish(...each);
    setState("open");
  }

  function retry(error, isRestarting) {
    if (isFinal(error)) return finish(error);
    const isSlow = globalThis.navigator?.onLine === false || (isHidden() && attempts); // onLine may be wrong
    const bound = isSlow ? longest : Math.min(longest, first * 2 ** attempts++);
    retryTimer = setTimeout(attempt, Math.random() * bound); // spreads many clients
    client.error = error;
    setState("reconnecting", isRestarting);
  }

  function isFinal(error) {
    if (!reconnect || client.state === "closed") return true;
    if (error.uri) return !/#(too-many-\w+|busy|timeout|internal|generic)$/.test(error.uri); // a refused login
    if (error.code === 4401) return !options.authkey && typeof url !== "function"; // the web session ended
    return error.code === 1008 || !(error instanceof ConnectionLost);
  }

  function onPageEvent({ type }) {
    if (isHidden() && type !== "online") return;
    attempts = 0;
    const isOffline = type === "offline";
    if (isOpen()) connection.check(isOffline);
    else if (retryTimer && !isOffline) attempt();
  }

  function finish(error) {
    if (client.state === "closed") return;
    client.error = error;
    setState("closed");
    ended.abort();
    connection?.close("the client is closed", 1000);
    clearTimeout(retryTimer);
    subscriptions.end();
  }

  function setState(state, isRestarting) {
    if (state === client.state) return;
    client.state = state;
    waitForRestart(isRestarting);
    if (isOpen()) opened.resolve(client);
    if (state === "closed") opened.reject(client.error ?? notOpen());
    for (const listener of listeners) notify(listener, state, client.error);
  }

  function waitForRestart(isRestarting) {
    clearTimeout(restartTimer);
    restartTimer = isRestarting && setTimeout(waitForRestart, restartTimeout);
    changed.resolve();
    changed = deferred();
  }

  for (const type of ["online", "offline", "visibilitychange"]) globalThis.addEventListener?.(type, onPageEvent, ended);
  attempt();
  return client;
}

// ---- Login by WAMP-CRA

async function logIn(connection, secret, { authkey = null, authextra = null }) {
  const procedure = "http://api.wamp.ws/procedure#auth";
  const challenge = await connection.call(procedure + "req", authkey, authextra);
  const signature = authkey && prove(challenge, secret).catch(giveUp);
  connection.permissions = await connection.call(procedure, await signature);
}

async function prove(challenge, secret) {
  if (!isText(challenge)) throw new Error("the challenge is no text");
  return sign(challenge, await deriveKey(secret, JSON.parse(challenge).authextra));
}

function giveUp({ message }) {
  throw new CallError("", `the login was given up: ${message}`);
}

async function deriveKey(secret, authextra) {
  const { salt, iterations = 10_000, keylen = 32 } = authextra ?? {};
  if (!salt) return secret;
  if (iterations * Math.max(keylen, 32) > 64e6) throw new Error("too much hashing");
  const key = await importKey(secret, "PBKDF2", "deriveBits");
  const algorithm = { name: "PBKDF2", hash: "SHA-256", salt: bytes(salt), iterations: +iterations };
  return base64(await crypto.subtle.deriveBits(algorithm, key, keylen * 8));
}

async function sign(challenge, key) {
  // Web Crypto takes no empty key; zeros equal it.
  const imported = await importKey(key || "\0", { name: "HMAC", hash: "SHA-256" }, "sign");
  return base64(await crypto.subtle.sign("HMAC", imported, bytes(challenge)));
}

function importKey(text, algorithm, use) {
  if (!crypto.subtle) throw new Error("a login needs https or localhost");
  return crypto.subtle.importKey("raw", bytes(text), algorithm, false, [use]);
}

async function withTimeout({ uri, signal, timeout }, work) {
  signal?.throwIfAborted();
  const answer = deferred();
  const abort = () => answer.reject(signal.reason);
  const expire = () => answer.reject(new DOMException(`${uri}: no answer within ${timeout} ms`, "TimeoutError"));
  const timer = timeout && setTimeout(expire, timeout);
  signal?.addEventListener("abort", abort);
  work(answer).then(answer.resolve, answer.reject);
  return answer.promise.finally(() => {
    answer.isSettled = true;
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  });
}

const bytes = (text) => new TextEncoder().encode(text);
const base64 = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)));
const isHidden = () => globalThis.document?.hidden;
const isText = (value) => typeof value === "string";
const text = (value) => (isText(value) ? value : ""); // some servers send null
const notify = async (listener, ...values) => listener(...values); // one that throws stops no other
const fresh = async (value) => (typeof value === "function" ? value() : value);

function deferred() {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  made.promise.catch(() => {}); // it need not be awaited
  return made;
}

function parse(data) {
  try {
    const message = JSON.parse(data);
    if (Array.isArray(message) && message.length > 2 && isText(message[1])) return message; // each has three or more
  } catch {}
  return [];
}

export { CallError, ConnectionLost, connect, deriveKey, sign };
