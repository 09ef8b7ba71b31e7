// Components, hooks and formats that several views use.

import { html, useEffect, useState } from "./vendor/preact.js";

/** Render again when a target dispatches an event, at most once an animation frame. */
export function useEvent(target, name) {
  const [, render] = useState(0);
  useEffect(() => {
    let scheduled = 0;
    const schedule = () => {
      scheduled ||= requestAnimationFrame(() => {
        scheduled = 0;
        render((count) => count + 1);
      });
    };
    target.addEventListener(name, schedule);
    return () => {
      target.removeEventListener(name, schedule);
      cancelAnimationFrame(scheduled);
    };
  }, [target, name]);
}

/** The result of an async function, called again at an interval in milliseconds while the page is visible. */
export function usePolling(load, milliseconds, inputs) {
  const [answer, setAnswer] = useState(null);
  useEffect(() => {
    let stopped = false;
    let timer;
    const poll = async () => {
      if (!document.hidden) {
        const found = await load().catch(() => null); // a lost connection is shown above
        if (stopped) return;
        if (found) setAnswer(found);
      }
      timer = setTimeout(poll, milliseconds);
    };
    poll();
    return () => {
      stopped = true;
      clearTimeout(timer);
    };
  }, inputs);
  return answer;
}

export const prettyJson = (value) => JSON.stringify(value, null, 2) ?? "undefined";

export const formatTime = (milliseconds) => new Date(milliseconds).toLocaleTimeString([], { hour12: false });

export function formatBytes(count) {
  if (count < 1000) return `${count} B`;
  return count < 1e6 ? `${(count / 1e3).toFixed(1)} kB` : `${(count / 1e6).toFixed(1)} MB`;
}

export function formatDuration(milliseconds) {
  if (milliseconds < 10) return `${milliseconds.toFixed(2)} ms`;
  return milliseconds < 1000 ? `${milliseconds.toFixed(0)} ms` : `${(milliseconds / 1000).toFixed(2)} s`;
}

export function CopyButton({ text, label = "Copy" }) {
  const [shown, setShown] = useState(label);
  const copy = async () => {
    const outcome = await copyToClipboard(text).then(() => "Copied", () => "Not allowed");
    setShown(outcome);
    setTimeout(setShown, 1500, label);
  };
  return html`<button type="button" class="small" onClick=${copy} aria-live="polite">${shown}</button>`;
}

// Pages have a clipboard on https and localhost only; elsewhere a selection is copied.
async function copyToClipboard(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("not allowed");
}

// A browser may refuse to store anything.
function loadSetting(name) {
  try {
    return localStorage.getItem(`wampkit-${name}`);
  } catch {
    return null;
  }
}

function saveSetting(name, value) {
  try {
    localStorage.setItem(`wampkit-${name}`, value);
  } catch {}
}

/** The same code in several languages, in tabs. */
export function Snippets({ snippets }) {
  const names = Object.keys(snippets);
  const [selected, setSelected] = useState(() => loadSetting("snippet") ?? names[0]);
  const name = names.includes(selected) ? selected : names[0];
  const select = (each) => {
    saveSetting("snippet", each);
    setSelected(each);
  };
  const onKeyDown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    select(names[(names.indexOf(name) + step + names.length) % names.length]);
    event.currentTarget.querySelector(`[aria-selected="true"]`)?.focus();
  };
  return html`
    <section class="snippets" aria-label="As code">
      <div class="bar">
        <div role="tablist" onKeyDown=${onKeyDown}>
          ${names.map(
            (each) => html`<button
              type="button" role="tab" key=${each} aria-selected=${String(each === name)}
              tabindex=${each === name ? 0 : -1} onClick=${() => select(each)}
            >${each}</button>`,
          )}
        </div>
        <${CopyButton} text=${snippets[name]} />
      </div>
      <pre tabindex="0" role="tabpanel">${snippets[name]}</pre>
    </section>
  `;
}

/** WebSocket frames, folded. */
export function Frames({ frames }) {
  if (!frames.length) return null;
  return html`
    <details class="frames">
      <summary>On the wire (${frames.length})</summary>
      <ol>
        ${frames.map(
          (frame) => html`<li key=${frame.number} class=${frame.out ? "out" : "in"}>
            <span aria-label=${frame.out ? "sent" : "received"}>${frame.out ? "→" : "←"}</span>
            <code>${frame.text}</code>
          </li>`,
        )}
      </ol>
    </details>
  `;
}

/** An error, of the server or of this page. */
export function ErrorMessage({ error }) {
  return html`
    <div class="problem" role="alert">
      <strong>${error.description || error.message || String(error)}</strong>
      ${error.uri && html`<code>${error.uri}</code>`}
      ${error.details != null && html`<pre tabindex="0">${prettyJson(error.details)}</pre>`}
    </div>
  `;
}

/** The description of a route: names, docstring, middlewares, permissions. */
export function RouteHeader({ route }) {
  const { declared, uri, documentation, middlewares, requires, timeout } = route;
  return html`
    <header class="about">
      <p class="kind">${route.kind}${route.publish ? ` · ${PUBLISH[route.publish]}` : ""}</p>
      <h2>${declared}</h2>
      ${route.signature && html`<code class="signature">${route.signature}</code>`}
      ${documentation && html`<p class="text">${documentation}</p>`}
      <dl class="facts">
        ${uri !== declared && html`<div><dt>URI</dt><dd><code>${uri}</code></dd></div>`}
        ${timeout != null && html`<div><dt>Time limit</dt><dd>${timeout} s</dd></div>`}
        ${middlewares.length > 0 && html`<div><dt>Passes</dt><dd>${middlewares.join(" → ")}</dd></div>`}
        ${Object.entries(requires).map(
          ([kind, rules]) => html`<div key=${kind}><dt>To ${kind}</dt><dd>${rules.join(" and ")}</dd></div>`,
        )}
      </dl>
    </header>
  `;
}

const PUBLISH = {
  handler: "clients publish through a handler",
  relay: "clients publish to each other",
  "server only": "only the server publishes",
};
