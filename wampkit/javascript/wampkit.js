// A WAMP v1 client, MIT licence; wampkit.d.ts explains it.

const [WELCOME, PREFIX, CALL, RESULT, ERROR, SUBSCRIBE, UNSUBSCRIBE, PUBLISH, EVENT] = Array(9).keys();

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

function connect(url, options = {}) {
  const { WebSocket = globalThis.WebSocket, reconnect = true, keepalive = 25_000, callTimeout } = options;
  const { openTimeout = 10_000, maxEvents = 10_000, keepPublishes = 0, restartTimeout = 30_000 } = options;
  const [first, longest] = options.backoff ?? [100, 30_000];
  if (!WebSocket) throw new TypeError("no WebSocket: give { WebSocket } of 'ws'");
  const prefixes = new Map(Object.entries(options.prefixes ?? {}));
  const groups = new Map(); // subscriptions, by topic; the server tells their uri
  const listeners = new Set();
  const kept = [];
  const early = []; // events before that
  let earlySize = 0;
  const gone = new AbortController();
  const opened = deferred();
  let changed = deferred();
  let link = {};
  let attempt = 0;
  let retry; // the timer of the next attempt
  let waits = true; // whether calls do
  let patience; // the timer of that

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
      if (isOpen()) link.send(PREFIX, name, uri);
    },
    call,
    publish,
    subscribe,
    close: () => finish(null),
  };

  const isOpen = () => client.state === "open";
  const receivers = (uri) => [...groups.values()].filter((group) => group.uri === uri);
  const resolve = (name) => name.replace(/^([^:]+):(?!\/\/)/, (start, prefix) => prefixes.get(prefix) ?? start);

  function call(procedure, ...args) {
    return ask(procedure, (uri) => link.call(uri, ...args));
  }

  async function ask(procedure, work) {
    const { uri = procedure, signal, timeout = callTimeout } = procedure;
    signal?.throwIfAborted();
    const given = deferred();
    const abort = () => given.reject(signal.reason);
    const late = () => given.reject(new DOMException(`${uri}: no answer within ${timeout} ms`, "TimeoutError"));
    const timer = timeout && setTimeout(late, timeout);
    signal?.addEventListener("abort", abort);
    answer(() => work(uri), given).then(given.resolve, given.reject);
    return given.promise.finally(() => {
      given.up = true;
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    });
  }

  async function answer(work, given) {
    while (!given.up) {
      if (isOpen()) {
        try {
          return await work();
        } catch (error) {
          if (error !== link.lost || !link.restarts) throw error;
        }
      } else if (waits) await changed.promise;
      else throw absence();
    }
  }

  function absence() {
    const { message = "no connection", code } = client.error ?? {};
    return new ConnectionLost(`the client is ${client.state}: ${message}`, code);
  }

  function publish(topic, event, rules = {}) {
    if (rules.confirm) return ask({ ...rules, uri: topic }, () => confirm(topic, event, rules));
    if (isOpen()) send(topic, event, rules);
    else if (client.state === "closed" || kept.length >= keepPublishes) throw absence();
    else kept.push(JSON.parse(JSON.stringify([topic, event, rules])));
  }

  async function confirm(topic, event, rules) {
    if (!isWampkit(link)) return send(topic, event, rules);
    await link.call("wampkit:publish", topic, event, ...receiversOf(rules));
    return true;
  }

  function send(topic, event, rules) {
    link.send(PUBLISH, topic, event, ...receiversOf(rules));
    return false; // nobody tells
  }

  function receiversOf({ excludeMe, exclude, eligible }) {
    // A list takes the place of `excludeMe`.
    const mine = excludeMe ? link.sessionId : [];
    const rest = exclude || eligible ? [[].concat(exclude ?? [], mine), eligible] : [excludeMe];
    return rest.filter((each) => each != null);
  }

  function subscribe(topic, listener) {
    if (client.state === "closed") throw absence();
    const key = resolve(topic);
    const group = groups.get(key) ?? { key, told: deferred(), members: new Set() };
    const stop = () => leave(group, member);
    const ready = group.told.promise;
    const member = listener ? { put: tell.bind(null, listener), end() {} } : queue(maxEvents, { topic, stop, ready });
    group.members.add(member);
    if (!groups.has(key)) {
      groups.set(key, group);
      if (isOpen()) restore(group);
    }
    return member.events ?? Object.assign(stop, { ready });
  }

  async function restore(group, used = link) {
    let uri;
    used.send(SUBSCRIBE, group.key); // in full, since the prefix may change
    if (isWampkit(used)) {
      const late = deferred();
      const timer = setTimeout(late.resolve, openTimeout);
      uri = await Promise.race([used.call(ASK, group.key), late.promise]).catch(() => {});
      clearTimeout(timer);
    }
    if (used.lost) return;
    if (uri === null) console.warn("wampkit: refused:", group.key);
    else if (!isText(uri)) uri = undefined;
    group.uri = uri ?? group.key; // the prefix may be the server's
    group.told.resolve(uri);
    earlySize = 0;
    for (const each of early.splice(0)) deliver(...each);
  }

  async function leave(group, member) {
    const { key, members } = group;
    const used = link;
    member.end();
    if (!members.delete(member) || members.size || !groups.delete(key) || !isOpen()) return;
    // The server may know two of them as one.
    for (const { told } of [group, ...groups.values()]) await told.promise;
    if (!receivers(group.uri).length) used.send(UNSUBSCRIBE, key);
  }

  function deliver(name, event, size) {
    const uri = resolve(name); // some servers do not
    const found = receivers(uri);
    for (const { members } of found) {
      for (const member of [...members]) if (members.has(member)) member.put(event, uri);
    }
    if (found.length || !receivers().length) return;
    early.push([name, event, size]);
    earlySize += size;
    while (early.length > 1000 || earlySize > 4e6) earlySize -= early.shift()[2];
  }

  async function run() {
    const why = "not open in time";
    const late = deferred();
    const timer = setTimeout(() => late.reject(why, link.end?.(why)), openTimeout);
    clearTimeout(retry);
    retry = null;
    try {
      const given = Promise.all([url, options.secret].map(fresh));
      const [target, secret] = await Promise.race([given, late.promise]).catch(lose);
      if (client.state === "closed") return;
      const { href } = new URL(target, globalThis.location);
      link = open(new WebSocket(href.replace(/^http/, "ws"), "wamp"), options, deliver, resolve);
      await link.welcomed.promise;
      if (options.authkey || options.anonymous) await logIn(link, secret, options);
      if (link.lost) throw link.lost;
      use(link);
    } catch (error) {
      link.end?.("the login failed");
      again(error);
    } finally {
      clearTimeout(timer);
    }
  }

  function use({ sessionId, serverIdent, permissions, heard }) {
    const pulse = keepalive && setInterval(() => Date.now() - link.heard >= keepalive && check(), keepalive / 2);
    link.onEnd = () => {
      clearInterval(pulse);
      if (Date.now() - heard > 1000) attempt = 0;
      again(link.lost, link.restarts);
    };
    Object.assign(client, { error: null, sessionId, serverIdent, permissions });
    for (const each of prefixes) link.send(PREFIX, ...each);
    for (const group of groups.values()) restore(group);
    for (const each of kept.splice(0)) send(...each);
    set("open");
  }

  function again(error, restarting) {
    if (isFinal(error)) return finish(error);
    // Browsers err about being offline: it is tried at times.
    const slow = globalThis.navigator?.onLine === false || (isHidden() && attempt);
    const bound = slow ? longest : Math.min(longest, first * 2 ** attempt++);
    retry = setTimeout(run, Math.random() * bound); // a crowd must not come back at once
    client.error = error;
    set("reconnecting", restarting);
  }

  function isFinal(error) {
    if (!reconnect || client.state === "closed") return true;
    if (error.uri) return !/#(too-many-\w+|busy|timeout|internal|generic)$/.test(error.uri); // a login
    if (error.code === 4401) return !options.authkey && typeof url !== "function"; // the session ended
    return error.code === 1008 || !(error instanceof ConnectionLost);
  }

  function look({ type }) {
    if (isHidden() && type !== "online") return;
    attempt = 0;
    if (isOpen()) check(type);
    else if (retry && type !== "offline") run();
  }

  // Browsers cannot ping, other servers cannot be asked.
  function check(type) {
    if (keepalive && isWampkit(link)) {
      const timer = setTimeout(link.end, keepalive * 0.4, "the server does not answer");
      const stop = () => clearTimeout(timer);
      link.call(ASK, "").then(stop, stop);
    } else if (type === "offline") link.end("the network is offline");
  }

  function finish(error) {
    if (client.state === "closed") return;
    client.error = error;
    set("closed");
    gone.abort();
    link.end?.("the client is closed", 1000);
    clearTimeout(retry);
    for (const { told, members } of groups.values()) {
      told.resolve();
      for (const member of members) member.end();
    }
    groups.clear();
  }

  function set(state, waiting) {
    if (state === client.state) return;
    client.state = state;
    clearTimeout(patience);
    patience = waiting && setTimeout(wake, restartTimeout);
    wake(waiting);
    if (isOpen()) opened.resolve(client);
    if (state === "closed") opened.reject(client.error ?? absence());
    for (const listener of listeners) tell(listener, state, client.error);
  }

  function wake(waiting = false) {
    waits = waiting;
    changed.resolve();
    changed = deferred();
  }

  for (const type of ["online", "offline", "visibilitychange"]) globalThis.addEventListener?.(type, look, gone);
  run();
  return client;
}

function open(socket, { welcome = true, maxMessageSize = 4_194_304 }, onEvent, resolve) {
  const calls = new Map();
  let count = 0;
  let welcomed = false;
  const begun = () => welcomed || !welcome;
  const link = { sessionId: "", serverIdent: "", permissions: null, welcomed: deferred(), send, call, end };

  function send(...message) {
    if (socket.readyState === 1) socket.send(JSON.stringify(message));
  }

  async function call(...procedure) {
    if (link.lost) throw link.lost;
    const id = `${count++}`;
    send(CALL, id, ...procedure);
    calls.set(id, deferred());
    return calls.get(id).promise;
  }

  function end(reason, code = 1006) {
    if (link.lost) return;
    link.lost = new ConnectionLost(reason, code);
    socket.onmessage = null;
    socket.close(1000);
    link.onEnd?.();
    for (const waiting of [link.welcomed, ...calls.values()]) waiting.reject(link.lost);
  }

  function take([type, id, value, description, details], size) {
    if (type === WELCOME && value === 1 && !welcomed) {
      welcomed = true;
      link.welcomed.resolve(Object.assign(link, { sessionId: id, serverIdent: text(description) }));
    } else if (type === EVENT && begun()) onEvent(id, value, size);
    else if ((type === RESULT || type === ERROR) && begun()) {
      const waiting = calls.get(id);
      calls.delete(id);
      if (type === RESULT) waiting?.resolve(value);
      else waiting?.reject(new CallError(resolve(text(value)), text(description), details));
    } else if (type !== PREFIX || !isText(value) || !begun()) leave("the server does not speak WAMP v1", 1002);
  }

  function leave(why, code) {
    socket.close(1000, why); // pages must not say another code
    end(why, code);
  }

  socket.onopen = () => {
    link.heard = Date.now();
    if (!welcome) link.welcomed.resolve();
  };
  socket.onmessage = ({ data }) => {
    link.heard = Date.now();
    if (data.length > maxMessageSize) leave(`the server sent over ${maxMessageSize} characters`, 1009);
    else if (data !== "" || welcome) take(parse(data), data.length);
  };
  // In Node 20 an error may be all.
  socket.onerror = socket.onclose = ({ code = 1006, reason }) => {
    const why = begun() && link.heard ? "the connection was lost" : "no server, or it refuses";
    link.restarts = code === 1012 && reason === RESTART;
    end(code === 1006 ? why : `the server closed the connection: ${reason || code}`, code);
  };
  return link;
}

function queue(most, about) {
  const waiting = [];
  let changed = deferred();
  let ended = false;

  const events = {
    ...about,
    dropped: 0,
    async next() {
      while (!waiting.length && !ended) await changed.promise;
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
    if (waiting.push(event) > most) {
      waiting.shift();
      events.dropped++;
    }
    wake();
  }

  function end() {
    ended = true;
    wake();
  }

  function wake() {
    changed.resolve();
    changed = deferred();
  }

  return { events, put, end };
}

/** WAMP-CRA. */
async function logIn(link, secret, { authkey = null, authextra = null }) {
  const procedure = "http://api.wamp.ws/procedure#auth";
  const challenge = await link.call(procedure + "req", authkey, authextra);
  const signature = authkey && prove(challenge, secret).catch(giveUp);
  link.permissions = await link.call(procedure, await signature);
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
  // Web Crypto takes no empty key; zeros are the same.
  const imported = await importKey(key || "\0", { name: "HMAC", hash: "SHA-256" }, "sign");
  return base64(await crypto.subtle.sign("HMAC", imported, bytes(challenge)));
}

function importKey(text, algorithm, use) {
  if (!crypto.subtle) throw new Error("a login needs https or localhost");
  return crypto.subtle.importKey("raw", bytes(text), algorithm, false, [use]);
}

const ASK = "wampkit:subscription"; // whether it stands, which WAMP v1 does not tell
const RESTART = "the server restarts; what it left unanswered has not run";
const bytes = (text) => new TextEncoder().encode(text);
const base64 = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)));
const isHidden = () => globalThis.document?.hidden;
const isText = (value) => typeof value === "string";
const text = (value) => (isText(value) ? value : ""); // some servers send null
const isWampkit = (link) => link.sessionId.endsWith(".wampkit"); // which no app chooses, as it does the ident
const tell = async (listener, ...news) => listener(...news); // its errors are its own

const fresh = async (value) => (typeof value === "function" ? value() : value);
const lose = (error) => {
  throw new ConnectionLost(String(error));
};

function deferred() {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  made.promise.catch(() => {}); // nobody has to wait
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
