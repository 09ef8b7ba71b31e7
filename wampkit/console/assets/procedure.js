// The view of a procedure: its description, a form to call it, and the answers.

import { html, useMemo, useRef, useState } from "./vendor/preact.js";
import { Field, focusFirstError, VariableFields } from "./form.js";
import { CopyButton, ErrorMessage, formatDuration, formatTime, Frames, prettyJson, RouteHeader, Snippets } from "./components.js";
import { expandPattern, parseArguments } from "./schema.js";
import { callSnippets } from "./snippets.js";

const MAX_ANSWERS = 20;
const STOPPED = Object.assign(new Error("WAMP v1 cannot take a call back: the procedure runs on"), { name: "Not waited for" });

/** What was entered and answered, by procedure, kept while other views are shown. */
const views = new Map();

export function Procedure({ route, server, target }) {
  const form = useRef(null);
  const [view, setView] = useState(() => views.get(route.uri) ?? { variables: {}, entered: {}, answers: [] });
  const [errors, setErrors] = useState({});
  const [running, setRunning] = useState(null);
  const change = (changes) =>
    setView((now) => {
      const next = { ...now, ...changes(now) };
      views.set(route.uri, next);
      return next;
    });

  const { args, uri, problems } = useMemo(() => {
    const expanded = expandPattern(route.declared, view.variables);
    const parsed = parseArguments(view.entered, route);
    return { uri: expanded.uri, args: parsed.args, problems: { ...expanded.errors, ...parsed.errors } };
  }, [route, view]);

  const call = async (event) => {
    event?.preventDefault();
    setErrors(problems);
    if (!args || !uri) return focusFirstError(form.current);
    const abort = new AbortController();
    setRunning(abort);
    const answer = await server.call(uri, args, abort.signal);
    setRunning(null);
    change(({ answers }) => ({ answers: [{ ...answer, uri, args, at: Date.now() }, ...answers].slice(0, MAX_ANSWERS) }));
  };
  const onKeyDown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) call(event);
  };
  const shown = Object.keys(errors).length ? problems : {};

  return html`
    <article>
      <${RouteHeader} route=${route} />
      <form ref=${form} onSubmit=${call} onKeyDown=${onKeyDown} noValidate>
        <${VariableFields}
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
      <${Snippets} snippets=${callSnippets(target, uri ?? route.declared, args ?? [])} />
    </article>
  `;
}

function Answer({ answer }) {
  const { result, error, time, frames, args, at } = answer;
  return html`
    <section class=${error ? "answer failed" : "answer"}>
      <div class="bar">
        <strong>${error ? error.name : "Result"}</strong>
        <small>(${args.map((each) => JSON.stringify(each)).join(", ")}) · ${formatDuration(time)} · ${formatTime(at)}</small>
        ${!error && html`<${CopyButton} text=${prettyJson(result)} />`}
      </div>
      ${error ? html`<${ErrorMessage} error=${error} />` : html`<pre tabindex="0">${prettyJson(result)}</pre>`}
      <${Frames} frames=${frames} />
    </section>
  `;
}
