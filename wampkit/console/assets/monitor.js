// The view "Live": figures of each second, connections, topics, and the last errors.

import { html, useMemo, useState } from "./vendor/preact.js";
import { formatBytes, formatTime, usePolling } from "./components.js";
import { Plot } from "./plots.js";
import { matchPattern } from "./schema.js";

const POLL_INTERVAL = 2000; // milliseconds
const PAGE_SIZE = 50;

export function Monitor({ server }) {
  const { figures, about } = server;
  const last = figures.at(-1) ?? about;
  const data = useMemo(() => {
    const times = figures.map((each) => each.time);
    const line = (name) => figures.map((each) => each[name]);
    return {
      calls: [times, line("calls"), line("failures")],
      events: [times, line("publishes"), line("sent")],
      times: [times, line("p50"), line("p99")],
      connections: [times, line("connections")],
    };
  }, [figures]);
  return html`
    <article class="live">
      <h2>The server, now</h2>
      <dl class="tiles">
        <${Tile} name="connections" value=${last.connections} />
        <${Tile} name="topics" value=${last.topics} />
        <${Tile} name="calls a second" value=${last.calls ?? 0} />
        <${Tile} name="events sent a second" value=${last.sent ?? 0} />
        <${Tile} name="errors since the start" value=${last.failed} wrong=${last.failed > 0} />
      </dl>
      <div class="plots">
        <${Plot}
          title="Calls a second" data=${data.calls}
          lines=${[{ label: "calls", color: "accent" }, { label: "errors", color: "wrong" }]}
        />
        <${Plot}
          title="Time of a call" unit=" ms" data=${data.times}
          lines=${[{ label: "p50", color: "accent" }, { label: "p99", color: "second" }]}
        />
        <${Plot}
          title="Events a second" data=${data.events}
          lines=${[{ label: "published by clients", color: "second" }, { label: "sent", color: "accent" }]}
        />
        <${Plot} title="Connections" data=${data.connections} lines=${[{ label: "open", color: "accent" }]} />
      </div>
      <${FailureList} server=${server} newest=${last.failed} debug=${about.debug} />
      <${ConnectionList} server=${server} />
      <${TopicList} server=${server} />
      <${Counters} title="Since the start" counters=${last.counters} />
      <${Counters} title="Threads of def handlers" counters=${last.threads} />
    </article>
  `;
}

function Tile({ name, value, wrong }) {
  return html`<div><dt>${name}</dt><dd class=${wrong ? "wrong" : ""}>${value.toLocaleString("en")}</dd></div>`;
}

/** A list of which the server searches and sends one page. */
function PagedList({ server, title, load, search, children }) {
  const [text, setText] = useState("");
  const [offset, setOffset] = useState(0);
  const page = usePolling(() => load(text, offset), POLL_INTERVAL, [server.state, load, text, offset]);
  const last = page ? Math.max(0, Math.ceil(page.found / PAGE_SIZE) - 1) * PAGE_SIZE : 0;
  const move = (step) => setOffset(Math.min(Math.max(0, offset + step), last));
  return html`
    <section class="window" aria-label=${title}>
      <div class="bar">
        <h3>${title} ${page && html`<small>${formatCount(page)}</small>`}</h3>
        <input
          type="search" placeholder=${search} aria-label=${search} value=${text}
          onInput=${(event) => (setText(event.target.value), setOffset(0))}
        />
        ${page && page.found > PAGE_SIZE && html`
          <button type="button" class="small" disabled=${offset === 0} onClick=${() => move(-PAGE_SIZE)}>Back</button>
          <small>${offset + 1}–${Math.min(offset + PAGE_SIZE, page.found)}</small>
          <button type="button" class="small" disabled=${offset >= last} onClick=${() => move(PAGE_SIZE)}>On</button>
        `}
      </div>
      ${page && page.rows.length ? children(page.rows) : html`<p class="empty">${page ? "None." : "…"}</p>`}
    </section>
  `;
}

const formatCount = ({ found, total }) =>
  found === total ? total.toLocaleString("en") : `${found.toLocaleString("en")} of ${total.toLocaleString("en")}`;

function ConnectionList({ server }) {
  const [order, setOrder] = useState("");
  const [selected, setSelected] = useState(null);
  const load = useMemo(() => (search, offset) => server.callConsole("connections", search, order, offset, PAGE_SIZE), [server, order]);
  const column = (name, label, className = "") => html`
    <th scope="col" class=${className} aria-sort=${order === name ? "descending" : "none"}>
      <button type="button" onClick=${() => setOrder(order === name ? "" : name)}>${label}${order === name ? " ↓" : ""}</button>
    </th>
  `;
  return html`
    <${PagedList} server=${server} title="Connections" load=${load} search="Address, user, session id">
      ${(rows) => html`
        <div class="scroll" tabindex="0">
          <table>
            <thead>
              <tr>
                <th scope="col">Session</th>
                ${column("address", "Address")}${column("user", "User")}
                ${column("subscriptions", "Topics", "number")}${column("queued", "Queued", "number")}
              </tr>
            </thead>
            <tbody>
              ${rows.map(
                (row) => html`
                  <tr key=${row.id}>
                    <td>
                      <button type="button" class="link" aria-expanded=${String(selected === row.id)} title=${row.id}
                        onClick=${() => setSelected(selected === row.id ? null : row.id)}><code>${row.id.slice(0, 8)}</code></button>
                      ${row.id === server.sessionId && html` <small>this page</small>`}
                    </td>
                    <td>${row.address ?? "unix socket"}</td>
                    <td>${row.user ?? html`<span class="dim">nobody</span>`}${row.roles.length > 0 && html` <small>${row.roles.join(", ")}</small>`}</td>
                    <td class="number">${row.subscriptions}</td>
                    <td class="number">${formatBytes(row.queued)}${row.dropped > 0 && html` <small class="wrong">${row.dropped} dropped</small>`}</td>
                  </tr>
                  ${selected === row.id && html`<tr key=${`${row.id}+`}><td colspan="5"><${ConnectionDetails} server=${server} id=${row.id} /></td></tr>`}
                `,
              )}
            </tbody>
          </table>
        </div>
      `}
    <//>
  `;
}

function ConnectionDetails({ server, id }) {
  const found = usePolling(() => server.callConsole("connection", id), POLL_INTERVAL, [id]);
  if (!found) return html`<p class="empty">…</p>`;
  return html`
    <div class="more">
      <p>Session id <code>${found.id}</code></p>
      ${found.topics.length > 0 && html`<ul class="topics">${found.topics.map((topic) => html`<li key=${topic}><code>${topic}</code></li>`)}</ul>`}
      ${found.subscriptions > found.topics.length && html`<p>and ${found.subscriptions - found.topics.length} more topics</p>`}
      ${found.subscriptions === 0 && html`<p class="empty">It is subscribed to nothing.</p>`}
    </div>
  `;
}

function TopicList({ server }) {
  const load = useMemo(() => (search, offset) => server.callConsole("topics", search, offset, PAGE_SIZE), [server]);
  return html`
    <${PagedList} server=${server} title="Topics with subscribers" load=${load} search="URI">
      ${(rows) => html`
        <div class="scroll" tabindex="0">
          <table>
            <thead><tr><th scope="col">Topic</th><th scope="col" class="number">Subscribers</th></tr></thead>
            <tbody>
              ${rows.map((row) => html`<tr key=${row.uri}><td><${TopicLink} server=${server} uri=${row.uri} /></td><td class="number">${row.subscribers.toLocaleString("en")}</td></tr>`)}
            </tbody>
          </table>
        </div>
      `}
    <//>
  `;
}

/** A link to the view of a topic. */
function TopicLink({ server, uri }) {
  for (const route of server.routes) {
    const variables = route.kind === "topic" && matchPattern(route.uri, uri);
    if (variables) {
      const query = new URLSearchParams(variables).toString();
      return html`<a href=${`#/topic/${encodeURIComponent(route.declared)}${query && `?${query}`}`}><code>${uri}</code></a>`;
    }
  }
  return html`<code>${uri}</code>`;
}

function FailureList({ server, newest, debug }) {
  const found = usePolling(() => server.callConsole("failures"), POLL_INTERVAL, [newest, server.state]);
  if (!found?.length) return null;
  return html`
    <section class="failures" aria-label="Errors">
      <h3>Errors <small>the last ${found.length}</small></h3>
      ${!debug && html`<p class="text">Without <code>--debug</code> unexpected errors are named here, and told in the log alone.</p>`}
      <ol>
        ${found.map((each) => html`<li key=${each.number}><${Failure} server=${server} failure=${each} /></li>`)}
      </ol>
    </section>
  `;
}

function Failure({ server, failure }) {
  const [trace, setTrace] = useState(null);
  const { time, message, uri, error, description, user, number } = failure;
  const line = html`<span>
    <time>${formatTime(time * 1000)}</time>
    <span class="kind">${message}</span>
    <code>${uri}</code>
    <span class="wrong">${description || error}</span>
    ${user !== null && html`<small>by ${user}</small>`}
  </span>`;
  if (!failure.traceback) return html`<p class="failure" title=${error}>${line}</p>`;
  const open = async (event) => {
    if (!event.target.open || trace) return;
    setTrace(await server.callConsole("failure", number).then((found) => found.traceback, (problem) => problem.message));
  };
  return html`
    <details class="failure" onToggle=${open}>
      <summary>${line}</summary>
      <pre tabindex="0">${trace ?? "…"}</pre>
    </details>
  `;
}

function Counters({ title, counters }) {
  return html`
    <section aria-label=${title}>
      <h3>${title}</h3>
      <dl class="facts columns">
        ${Object.entries(counters).map(
          ([name, value]) => html`<div key=${name}><dt>${name.replaceAll("_", " ")}</dt><dd>${value.toLocaleString("en")}</dd></div>`,
        )}
      </dl>
    </section>
  `;
}
