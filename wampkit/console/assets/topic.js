// One topic: subscribe to it, see its events as they come, publish to it.

import { html, useEffect, useMemo, useRef, useState } from "./vendor/preact.js";
import { Field, showFirstError, Variables } from "./fields.js";
import { About, clock, Frames, Snippets, useEvent } from "./parts.js";
import { filled, read } from "./schema.js";
import { publishSnippets, subscribeSnippets } from "./snippets.js";

const MOST_EVENTS = 500;

/** A subscription with its events, which goes on while another view is looked at. It dispatches "change". */
class Watch extends EventTarget {
  events = [];
  count = 0;
  refused = false;

  constructor(server, uri) {
    super();
    this.uri = uri;
    this.stop = server.subscribe(uri, (event, topic) => this.#add({ event, topic }));
    this.stop.ready.then((full) => this.#decided(full));
  }

  clear() {
    this.events = [];
    this.#changed();
  }

  #decided(full) {
    this.refused = full === null;
    this.#changed();
  }

  #add(entry) {
    this.events.push({ ...entry, number: ++this.count, at: Date.now() });
    if (this.events.length > MOST_EVENTS) this.events.splice(0, MOST_EVENTS / 10);
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** The watches of the page, by the declared URI, and what was entered there. */
const kept = new Map();

export function forgetWatches() {
  for (const { watches } of kept.values()) for (const watch of watches) watch.stop();
  kept.clear();
}

export function Topic({ route, server, places, start }) {
  const memory = useMemo(() => {
    if (!kept.has(route.uri)) kept.set(route.uri, { watches: [], variables: {}, entered: undefined });
    return kept.get(route.uri);
  }, [route.uri]);
  const form = useRef(null);
  const [, render] = useState(0);
  const [errors, setErrors] = useState({});
  const change = (changes) => {
    Object.assign(memory, changes);
    render((count) => count + 1);
  };
  useEffect(() => {
    if (Object.keys(start).length) change({ variables: { ...memory.variables, ...start } });
  }, [JSON.stringify(start)]);

  const target = filled(route.declared, memory.variables);
  const uri = target.uri;
  const watch = memory.watches.find((each) => each.uri === uri);
  const subscribe = (event) => {
    event.preventDefault();
    setErrors(target.errors ?? {});
    if (!uri) return showFirstError(form.current);
    change({ watches: [...memory.watches, new Watch(server, uri)] });
  };
  const end = (which) => {
    which.stop();
    change({ watches: memory.watches.filter((each) => each !== which) });
  };

  return html`
    <article>
      <${About} route=${route} />
      <form ref=${form} onSubmit=${subscribe} noValidate>
        <${Variables}
          route=${route} entered=${memory.variables} errors=${errors}
          onEnter=${(variables) => change({ variables })}
        />
        <div class="bar">
          ${watch // each a button of its own, or the click on one would go on as the submit of the other
            ? html`<button key="end" type="button" onClick=${() => end(watch)}>Unsubscribe</button>`
            : html`<button key="begin" class="main" disabled=${server.state === "closed"}>Subscribe</button>`}
          ${memory.watches.filter((each) => each !== watch).map(
            (each) => html`<small key=${each.uri}>also <code>${each.uri}</code>
              <button type="button" class="small" onClick=${() => end(each)}>End</button></small>`,
          )}
        </div>
      </form>
      ${watch && html`<${Log} key=${watch.uri} watch=${watch} server=${server} />`}
      ${route.publish !== "server only" &&
      html`<${Publish} route=${route} uri=${uri} server=${server} places=${places} memory=${memory} change=${change} />`}
      <${Snippets} snippets=${subscribeSnippets(places, uri ?? route.declared)} />
    </article>
  `;
}

function Log({ watch, server }) {
  const [paused, pause] = useState(null);
  useEvent(watch, "change");
  useEvent(server, "change");
  const events = paused ?? watch.events;
  const state = watch.refused
    ? "the server refused this subscription"
    : server.state === "open"
      ? `${watch.count} ${watch.count === 1 ? "event" : "events"}${events.length < watch.count ? `, the last ${events.length} are here` : ""}`
      : "waiting for the connection; the subscription is put back then";
  const names = `"${watch.uri}"`;
  const topics = new Set(events.map((each) => JSON.stringify(each.topic)));
  const frames = server.frames.filter(
    ({ text }) => /^\[[5678],/.test(text) && [names, ...topics].some((name) => text.startsWith(name, 3)),
  );
  return html`
    <section class="log" aria-label="Events">
      <div class="bar">
        <strong><code>${watch.uri}</code></strong>
        <small aria-live="polite" class=${watch.refused ? "wrong" : ""}>${state}</small>
        <button type="button" class="small" aria-pressed=${String(Boolean(paused))} onClick=${() => pause(paused ? null : [...events])}>
          ${paused ? "Go on" : "Pause"}
        </button>
        <button type="button" class="small" onClick=${() => watch.clear()}>Clear</button>
      </div>
      <ol class="events" tabindex="0">
        ${events.length === 0 && !watch.refused && html`<li class="empty">Nothing yet: events appear here as they come.</li>`}
        ${[...events].reverse().map(
          ({ number, at, event }) => html`<li key=${number}>
            <time>${clock(at)}</time><code>${JSON.stringify(event)}</code>
          </li>`,
        )}
      </ol>
      <${Frames} frames=${frames.slice(-100)} />
    </section>
  `;
}

function Publish({ route, uri, server, places, memory, change }) {
  const form = useRef(null);
  const [errors, setErrors] = useState({});
  const [said, say] = useState("");
  const [parameter] = route.parameters;
  const schema = parameter?.schema ?? {};
  const result = read(memory.entered, schema, route.definitions, true, "event");
  const publish = (event) => {
    event.preventDefault();
    const problems = result.errors ?? (uri ? {} : { event: "fill in the topic above first" });
    setErrors(problems);
    if (Object.keys(problems).length) return showFirstError(form.current);
    try {
      server.publish(uri, result.value, { excludeMe: memory.leaveOut ?? false });
      say(`published to ${uri} at ${clock(Date.now())}; WAMP v1 does not tell who received it`);
    } catch (error) {
      say(error.message);
    }
  };
  return html`
    <form ref=${form} class="publish" onSubmit=${publish} noValidate>
      <h3>Publish</h3>
      <${Field}
        path="event" name="event" schema=${schema} definitions=${route.definitions} required
        entered=${memory.entered} errors=${Object.keys(errors).length ? { ...errors, ...result.errors } : {}}
        onEnter=${(entered) => change({ entered })}
      />
      <label class="check">
        <input
          type="checkbox" checked=${memory.leaveOut ?? false}
          onChange=${(event) => change({ leaveOut: event.target.checked })}
        />
        leave out this page
      </label>
      <div class="bar">
        <button class="main" disabled=${server.state !== "open"}>Publish</button>
        <small aria-live="polite">${said}</small>
      </div>
      ${!result.errors && uri && html`<${Snippets} snippets=${publishSnippets(places, uri, result.value)} />`}
    </form>
  `;
}
