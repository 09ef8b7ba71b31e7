// One procedure: what it is, a form that calls it, and what came of it.

import { html, useMemo, useRef, useState } from "./vendor/preact.js";
import { Field, showFirstError, Variables } from "./fields.js";
import { About, clock, Copy, duration, Frames, pretty, Problem, Snippets } from "./parts.js";
import { filled, readArguments } from "./schema.js";
import { callSnippets } from "./snippets.js";

const MOST_ANSWERS = 20;
const STOPPED = Object.assign(new Error("WAMP v1 cannot take a call back: the procedure runs on"), { name: "Not waited for" });

/** What was entered and answered, by procedure: it outlives a look at another one. */
const kept = new Map();

export function Procedure({ route, server, places }) {
  const form = useRef(null);
  const [view, setView] = useState(() => kept.get(route.uri) ?? { variables: {}, entered: {}, answers: [] });
  const [errors, setErrors] = useState({});
  const [running, setRunning] = useState(null);
  const change = (changes) =>
    setView((now) => {
      const next = { ...now, ...changes(now) };
      kept.set(route.uri, next);
      return next;
    });

  const { args, uri, problems } = useMemo(() => {
    const target = filled(route.declared, view.variables);
    const given = readArguments(view.entered, route);
    return { uri: target.uri, args: given.args, problems: { ...target.errors, ...given.errors } };
  }, [route, view]);

  const call = async (event) => {
    event?.preventDefault();
    setErrors(problems);
    if (!args || !uri) return showFirstError(form.current);
    const abort = new AbortController();
    setRunning(abort);
    const answer = await server.call(uri, args, abort.signal);
    setRunning(null);
    change(({ answers }) => ({ answers: [{ ...answer, uri, args, at: Date.now() }, ...answers].slice(0, MOST_ANSWERS) }));
  };
  const keys = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) call(event);
  };
  const shown = Object.keys(errors).length ? problems : {};

  return html`
    <article>
      <${About} route=${route} />
      <form ref=${form} onSubmit=${call} onKeyDown=${keys} noValidate>
        <${Variables}
          route=${route} entered=${view.variables} errors=${shown} onEnter=${(variables) => change(() => ({ variables }))}
        />
        ${route.parameters.map(
          (each) => html`<${Field}
            key=${each.name} path=${each.name} ...${each} fallback=${each.default} definitions=${route.definitions}
            entered=${view.entered[each.name]} errors=${shown}
            onEnter=${(text) => change(({ entered }) => ({ entered: { ...entered, [each.name]: text } }))}
          />`,
        )}
        <div class="bar">
          <button class="main" disabled=${running || server.state !== "open"}>Call</button>
          ${running && html`<button type="button" onClick=${() => running.abort(STOPPED)}>Stop waiting</button>`}
          <small>${server.state === "open" ? "Ctrl + Enter calls too" : "there is no connection"}</small>
        </div>
      </form>
      <div aria-live="polite" class="answers">
        ${running && html`<p class="waiting">waiting for the answer …</p>`}
        ${view.answers.map((each) => html`<${Answer} key=${each.at} answer=${each} />`)}
      </div>
      <${Snippets} snippets=${callSnippets(places, uri ?? route.declared, args ?? [])} />
    </article>
  `;
}

function Answer({ answer }) {
  const { result, error, time, frames, args, at } = answer;
  return html`
    <section class=${error ? "answer failed" : "answer"}>
      <div class="bar">
        <strong>${error ? error.name : "Result"}</strong>
        <small>(${args.map((each) => JSON.stringify(each)).join(", ")}) · ${duration(time)} · ${clock(at)}</small>
        ${!error && html`<${Copy} text=${pretty(result)} />`}
      </div>
      ${error ? html`<${Problem} error=${error} />` : html`<pre tabindex="0">${pretty(result)}</pre>`}
      <${Frames} frames=${frames} />
    </section>
  `;
}
