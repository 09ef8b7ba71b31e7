// The page: its location, its views, and the list of procedures and topics.

import { html, render, useEffect, useMemo, useRef, useState } from "./vendor/preact.js";
import { Monitor } from "./monitor.js";
import { ErrorMessage, useEvent } from "./components.js";
import { Procedure } from "./procedure.js";
import { moduleUrl, ServerConnection, socketUrl } from "./connection.js";
import { endSubscriptions, Topic } from "./topic.js";

const server = new ServerConnection();

// ---- location: #/procedure/calc:add, #/topic/chat:{room}, #/live, and #/ for the list

const linkTo = ({ kind, declared }) => `#/${kind}/${encodeURIComponent(declared)}`;

function readLocation() {
  const [path, query = ""] = location.hash.split("?");
  const [, view = "", name = ""] = path.split("/");
  const variables = Object.fromEntries(new URLSearchParams(query));
  try {
    return { view, name: decodeURIComponent(name), variables };
  } catch {
    return { view, name: "", variables };
  }
}

function useLocation() {
  const [place, setPlace] = useState(readLocation);
  useEffect(() => {
    const update = () => setPlace(readLocation());
    addEventListener("hashchange", update);
    return () => removeEventListener("hashchange", update);
  }, []);
  return place;
}

// ---- the page

function Console() {
  useEvent(server, "change");
  const place = useLocation();
  const main = useRef(null);
  const { about, routes, state } = server;
  // A login is needed if the server refused to describe the app, or refused the last login.
  const refusal = server.refusal ?? (state === "closed" && server.login ? server.error : null);
  const route = routes.find(({ kind, declared }) => kind === place.view && declared === place.name);
  useEffect(() => {
    document.title = `${route?.declared ?? (place.view === "live" ? "Live" : "Console")} – ${about?.ident ?? "wampkit"}`;
    main.current?.scrollTo(0, 0);
  }, [place.view, place.name, about?.ident, Boolean(route)]);
  return html`
    <a class="skip" href="#main" onClick=${(event) => (event.preventDefault(), main.current.focus())}>To the content</a>
    <${Header} />
    <div class=${place.view ? "columns one" : "columns"}>
      <${RouteList} routes=${routes} place=${place} />
      <main id="main" ref=${main} tabindex="-1">
        ${refusal ? html`<${Login} refusal=${refusal} />` : state !== "open" && html`<${ConnectionNotice} />`}
        ${about && !refusal && html`<${View} place=${place} route=${route} />`}
      </main>
    </div>
  `;
}

function View({ place, route }) {
  if (place.view === "live") return html`<${Monitor} server=${server} />`;
  if (!place.view) return html`<${Overview} />`;
  if (!route) return html`<p class="empty">There is no ${place.view} <code>${place.name}</code> here any more.</p>`;
  const target = { url: socketUrl.split("?")[0], module: server.about.javascript ? moduleUrl : "wampkit", login: server.login };
  const RouteView = route.kind === "topic" ? Topic : Procedure;
  return html`<${RouteView} key=${linkTo(route)} route=${route} server=${server} target=${target} initial=${place.variables} />`;
}

const STATES = { connecting: "connecting …", open: "connected", reconnecting: "reconnecting …", closed: "not connected" };

function Header() {
  const { about, state, login } = server;
  return html`
    <header class="top">
      <a class="home" href="#/">${about?.ident ?? "wampkit"}<small> console</small></a>
      <span class=${`state ${state}`} role="status">${STATES[state]}${login && state === "open" ? ` as ${login.authkey}` : ""}</span>
      <nav>
        ${about?.login && html`<button type="button" class="small" onClick=${() => logOut()}>${login ? "Log out" : "Log in"}</button>`}
        <a class="back" href="#/">All</a>
        <a href="#/live" aria-current=${location.hash === "#/live" ? "page" : undefined}>Live</a>
      </nav>
    </header>
  `;
}

function logOut() {
  server.refusal = { description: "", message: "Log in to see more" };
  if (server.login) connect(null);
  else server.dispatchEvent(new Event("change"));
}

function connect(login) {
  endSubscriptions();
  server.open(login);
}

function ConnectionNotice() {
  const { state, error } = server;
  if (state === "connecting") return html`<p class="notice">Connecting to <code>${socketUrl.split("?")[0]}</code> …</p>`;
  const why = error ? ` ${error.message}.` : "";
  if (state === "reconnecting") return html`<p class="notice" role="status">The connection is gone:${why} It is being made again.</p>`;
  return html`
    <div class="notice" role="alert">
      <p>There is no connection:${why}</p>
      <button type="button" onClick=${() => connect(null)}>Connect again</button>
    </div>
  `;
}

function Login({ refusal }) {
  const submit = (event) => {
    event.preventDefault();
    const { authkey, secret } = Object.fromEntries(new FormData(event.target));
    connect({ authkey, secret });
  };
  return html`
    <form class="login" onSubmit=${submit}>
      <h2>Log in</h2>
      <p class="text">The server tells only whom it knows. What you enter stays in this page; the secret is never sent.</p>
      ${refusal.uri && html`<${ErrorMessage} error=${refusal} />`}
      <div class="field"><label for="authkey">Auth key</label><input id="authkey" name="authkey" required autocomplete="username" /></div>
      <div class="field"><label for="secret">Secret</label><input id="secret" name="secret" type="password" autocomplete="current-password" /></div>
      <div class="bar"><button class="main">Log in</button></div>
    </form>
  `;
}

const plural = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

function Overview() {
  const { about, routes } = server;
  const procedures = routes.filter(({ kind }) => kind === "procedure").length;
  const prefixes = Object.entries(about.prefixes);
  return html`
    <article class="welcome">
      <h2>${about.ident}</h2>
      <p class="text">This is a WAMP v1 server. Choose a procedure to call it, or a topic to watch it and publish to it.</p>
      <dl class="facts">
        <div><dt>Address</dt><dd><code>${socketUrl.split("?")[0]}</code></dd></div>
        <div><dt>Serves</dt><dd>${plural(procedures, "procedure")}, ${plural(routes.length - procedures, "topic")}</dd></div>
        ${prefixes.map(([name, uri]) => html`<div key=${name}><dt>${name}:</dt><dd><code>${uri}</code></dd></div>`)}
        <div><dt>wampkit</dt><dd>${about.version}${about.debug ? ", in debug" : ""}</dd></div>
      </dl>
      <p class="text"><a href="#/live">See the server live</a>: connections, topics, calls and errors as they happen.</p>
    </article>
  `;
}

// ---- the list

function RouteList({ routes, place }) {
  const [search, setSearch] = useState("");
  const field = useRef(null);
  const list = useRef(null);
  useEffect(() => {
    const focusSearch = (event) => {
      const typing = event.target.closest?.("input, textarea, select");
      if (event.key !== "/" || typing || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      field.current.focus();
    };
    addEventListener("keydown", focusSearch);
    return () => removeEventListener("keydown", focusSearch);
  }, []);
  const found = useMemo(() => {
    const words = search.toLowerCase().split(/\s+/).filter(Boolean);
    return routes.filter(({ declared, uri, doc }) => {
      const text = `${declared} ${uri} ${doc}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
  }, [routes, search]);
  // Thousands of links need not be compared each second, when new figures come.
  const groups = useMemo(() => {
    const rows = (wantedKind) => found.filter(({ kind }) => kind === wantedKind);
    return html`
      <${RouteGroup} title="Procedures" rows=${rows("procedure")} place=${place} />
      <${RouteGroup} title="Topics" rows=${rows("topic")} place=${place} />
    `;
  }, [found, place]);
  const onKeyDown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const links = [...list.current.querySelectorAll("a")];
    if (event.key === "Enter" && event.target === field.current) links[0]?.click();
    if (!step || !links.length) return;
    event.preventDefault();
    const next = links.indexOf(document.activeElement) + step;
    (links[next] ?? (next < 0 ? field.current : links.at(-1))).focus();
  };
  return html`
    <aside ref=${list} onKeyDown=${onKeyDown} aria-label="Procedures and topics">
      <input
        ref=${field} type="search" placeholder="Search  /" aria-label="Search procedures and topics" value=${search}
        onInput=${(event) => setSearch(event.target.value)}
      />
      ${groups}
      ${search && !found.length && html`<p class="empty">Nothing matches “${search}”.</p>`}
    </aside>
  `;
}

function RouteGroup({ title, rows, place }) {
  if (!rows.length) return null;
  return html`
    <section aria-label=${title}>
      <h2>${title} <small>${rows.length}</small></h2>
      <ul>
        ${rows.map(
          (route) => html`<li key=${route.uri}>
            <a href=${linkTo(route)} aria-current=${place.view === route.kind && place.name === route.declared ? "page" : undefined}>
              <b>${route.declared}</b>${route.doc && html`<small>${route.doc}</small>`}
            </a>
          </li>`,
        )}
      </ul>
    </section>
  `;
}

server.open();
render(html`<${Console} />`, document.getElementById("console"));
