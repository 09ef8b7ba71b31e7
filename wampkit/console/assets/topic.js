// The view of a topic: its description, forms to subscribe and publish, and its events.

import { html, useEffect, useMemo, useRef, useState } from "./vendor/preact.js";
import { Field, focusFirstError, VariableFields } from "./form.js";
import { formatTime, Frames, RouteHeader, Snippets, useEvent } from "./components.js";
import { expandPattern, parseInput } from "./schema.js";
import { publishSnippets, subscribeSnippets } from "./snippets.js";

const MAX_EVENTS = 500;

/** A subscription with its events, kept while other views are shown. Dispatches "change". */
class Subscription extends EventTarget {
  events = [];
  count = 0;
  refused = false;

  constructor(server, uri) {
    super();
    this.uri = uri;
    this.stop = server.subscribe(uri, (event, topic) => this.#add({ event, topic }));
    this.stop.ready.then((full) => this.#onReady(full));
  }

  clear() {
    this.events = [];
    this.#changed();
  }

  #onReady(full) {
    this.refused = full === null;
    this.#changed();
  }

  #add(entry) {
    this.events.push({ ...entry, number: ++this.count, at: Date.now() });
    if (this.events.length > MAX_EVENTS) this.events.splice(0, MAX_EVENTS / 10);
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** The subscriptions, and what was entered, by the URI or pattern of the route. */
const views = new Map();

export function endSubscriptions() {
  for (const { subscriptions } of views.values()) for (const subscription of subscriptions) subscription.stop();
  views.clear();
}

export function Topic({ route, server, target, initial }) {
  const view = useMemo(() => {
    if (!views.has(route.uri)) views.set(route.uri, { subscriptions: [], variables: {}, entered: undefined });
    return views.get(route.uri);
  }, [route.uri]);
  const form = useRef(null);
  const [, render] = useState(0);
  const [errors, setErrors] = useState({});
  const change = (changes) => {
    Object.assign(view, changes);
    render((count) => count + 1);
  };
  useEffect(() => {
    if (Object.keys(initial).length) change({ variables: { ...view.variables, ...initial } });
  }, [JSON.stringify(initial)]);

  const { uri, errors: problems } = expandPattern(route.declared, view.variables);
  const subscription = view.subscriptions.find((each) => each.uri === uri);
  const subscribe = (event) => {
    event.preventDefault();
    setErrors(problems ?? {});
    if (!uri) return focusFirstError(form.current);
    change({ subscriptions: [...view.subscriptions, new Subscription(server, uri)] });
  };
  const end = (ended) => {
    ended.stop();
    change({ subscriptions: view.subscriptions.filter((each) => each !== ended) });
  };

  return html`
    <article>
      <${RouteHeader} route=${route} />
      <form ref=${form} onSubmit=${subscribe} noValidate>
        <${VariableFields}
          route=${route} entered=${view.variables} errors=${errors}
          onEnter=${(variables) => change({ variables })}
        />
        <div class="bar">
          ${subscription // each a button of its own, or the click on one would go on as the submit of the other
            ? html`<button key="end" type="button" onClick=${() => end(subscription)}>Unsubscribe</button>`
            : html`<button key="begin" class="main" disabled=${server.state === "closed"}>Subscribe</button>`}
          ${view.subscriptions.filter((each) => each !== subscription).map(
            (each) => html`<small key=${each.uri}>also <code>${each.uri}</code>
              <button type="button" class="small" onClick=${() => end(each)}>End</button></small>`,
          )}
        </div>
      </form>
      ${subscription && html`<${EventLog} key=${subscription.uri} subscription=${subscription} server=${server} />`}
      ${route.publish !== "server only" &&
      html`<${Publish} route=${route} uri=${uri} server=${server} target=${target} view=${view} change=${change} />`}
      <${Snippets} snippets=${subscribeSnippets(target, uri ?? route.declared)} />
    </article>
  `;
}

function EventLog({ subscription, server }) {
  const [paused, setPaused] = useState(null);
  useEvent(subscription, "change");
  useEvent(server, "change");
  const events = paused ?? subscription.events;
  const state = subscription.refused
    ? "the server refused this subscription"
    : server.state === "open"
      ? `${subscription.count} ${subscription.count === 1 ? "event" : "events"}${events.length < subscription.count ? `, the last ${events.length} are here` : ""}`
      : "waiting for the connection; the subscription is put back then";
  const names = `"${subscription.uri}"`;
  const topics = new Set(events.map((each) => JSON.stringify(each.topic)));
  const frames = server.frames.filter(
    ({ text }) => /^\[[5678],/.test(text) && [names, ...topics].some((name) => text.startsWith(name, 3)),
  );
  return html`
    <section class="log" aria-label="Events">
      <div class="bar">
        <strong><code>${subscription.uri}</code></strong>
        <small aria-live="polite" class=${subscription.refused ? "wrong" : ""}>${state}</small>
        <button type="button" class="small" aria-pressed=${String(Boolean(paused))} onClick=${() => setPaused(paused ? null : [...events])}>
          ${paused ? "Go on" : "Pause"}
        </button>
        <button type="button" class="small" onClick=${() => subscription.clear()}>Clear</button>
      </div>
      <ol class="events" tabindex="0">
        ${events.length === 0 && !subscription.refused && html`<li class="empty">Nothing yet: events appear here as they come.</li>`}
        ${[...events].reverse().map(
          ({ number, at, event }) => html`<li key=${number}>
            <time>${formatTime(at)}</time><code>${JSON.stringify(event)}</code>
          </li>`,
        )}
      </ol>
      <${Frames} frames=${frames.slice(-100)} />
    </section>
  `;
}

function Publish({ route, uri, server, target, view, change }) {
  const form = useRef(null);
  const [errors, setErrors] = useState({});
  const [status, setStatus] = useState("");
  const [parameter] = route.parameters;
  const schema = parameter?.schema ?? {};
  const result = parseInput(view.entered, schema, route.definitions, true, "event");
  const publish = (event) => {
    event.preventDefault();
    const problems = result.errors ?? (uri ? {} : { event: "fill in the topic above first" });
    setErrors(problems);
    if (Object.keys(problems).length) return focusFirstError(form.current);
    try {
      server.publish(uri, result.value, { excludeMe: view.leaveOut ?? false });
      setStatus(`published to ${uri} at ${formatTime(Date.now())}; WAMP v1 does not tell who received it`);
    } catch (error) {
      setStatus(error.message);
    }
  };
  return html`
    <form ref=${form} class="publish" onSubmit=${publish} noValidate>
      <h3>Publish</h3>
      <${Field}
        path="event" name="event" schema=${schema} definitions=${route.definitions} required
        entered=${view.entered} errors=${Object.keys(errors).length ? { ...errors, ...result.errors } : {}}
        onEnter=${(entered) => change({ entered })}
      />
      <label class="check">
        <input
          type="checkbox" checked=${view.leaveOut ?? false}
          onChange=${(event) => change({ leaveOut: event.target.checked })}
        />
        leave out this page
      </label>
      <div class="bar">
        <button class="main" disabled=${server.state !== "open"}>Publish</button>
        <small aria-live="polite">${status}</small>
      </div>
      ${!result.errors && uri && html`<${Snippets} snippets=${publishSnippets(target, uri, result.value)} />`}
    </form>
  `;
}
