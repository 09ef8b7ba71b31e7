// What several views are made of.

import { html, useEffect, useState } from "./vendor/preact.js";

/** Render again whenever a target dispatches an event; at most once a frame. */
export function useEvent(target, name) {
  const [, render] = useState(0);
  useEffect(() => {
    let waiting = 0;
    const note = () => {
      waiting ||= requestAnimationFrame(() => {
        waiting = 0;
        render((count) => count + 1);
      });
    };
    target.addEventListener(name, note);
    return () => {
      target.removeEventListener(name, note);
      cancelAnimationFrame(waiting);
    };
  }, [target, name]);
}

/** What an async function gives, asked again every so many milliseconds while the page is looked at. */
export function usePolled(ask, milliseconds, inputs) {
  const [answer, setAnswer] = useState(null);
  useEffect(() => {
    let over = false;
    let timer;
    const poll = async () => {
      if (!document.hidden) {
        const found = await ask().catch(() => null); // the state above tells of a lost connection
        if (over) return;
        if (found) setAnswer(found);
      }
      timer = setTimeout(poll, milliseconds);
    };
    poll();
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, inputs);
  return answer;
}

export const pretty = (value) => JSON.stringify(value, null, 2) ?? "undefined";

export const clock = (milliseconds) => new Date(milliseconds).toLocaleTimeString([], { hour12: false });

export function bytes(count) {
  if (count < 1000) return `${count} B`;
  return count < 1e6 ? `${(count / 1e3).toFixed(1)} kB` : `${(count / 1e6).toFixed(1)} MB`;
}

export function duration(milliseconds) {
  if (milliseconds < 10) return `${milliseconds.toFixed(2)} ms`;
  return milliseconds < 1000 ? `${milliseconds.toFixed(0)} ms` : `${(milliseconds / 1000).toFixed(2)} s`;
}

export function Copy({ text, label = "Copy" }) {
  const [done, setDone] = useState("");
  const copy = async () => {
    const said = await copied(text).then(() => "Copied", () => "Not allowed");
    setDone(said);
    setTimeout(setDone, 1500, "");
  };
  return html`<button type="button" class="small" onClick=${copy} aria-live="polite">${done || label}</button>`;
}

/** The clipboard of pages is for https and localhost; elsewhere the old way. */
async function copied(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("not allowed");
}

// A browser may refuse to remember anything.
function remembered(name) {
  try {
    return localStorage.getItem(`wampkit-${name}`);
  } catch {
    return null;
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(`wampkit-${name}`, value);
  } catch {}
}

/** The same thing in several languages, one at a time. */
export function Snippets({ snippets }) {
  const names = Object.keys(snippets);
  const [chosen, choose] = useState(() => remembered("snippet") ?? names[0]);
  const name = names.includes(chosen) ? chosen : names[0];
  const turn = (each) => {
    remember("snippet", each);
    choose(each);
  };
  const steer = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    turn(names[(names.indexOf(name) + step + names.length) % names.length]);
    event.currentTarget.querySelector(`[aria-selected="true"]`)?.focus();
  };
  return html`
    <section class="snippets" aria-label="As code">
      <div class="bar">
        <div role="tablist" onKeyDown=${steer}>
          ${names.map(
            (each) => html`<button
              type="button" role="tab" key=${each} aria-selected=${String(each === name)}
              tabindex=${each === name ? 0 : -1} onClick=${() => turn(each)}
            >${each}</button>`,
          )}
        </div>
        <${Copy} text=${snippets[name]} />
      </div>
      <pre tabindex="0" role="tabpanel">${snippets[name]}</pre>
    </section>
  `;
}

/** Frames as they went over the wire. */
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

/** An error that the server answered, or that happened here. */
export function Problem({ error }) {
  return html`
    <div class="problem" role="alert">
      <strong>${error.description || error.message || String(error)}</strong>
      ${error.uri && html`<code>${error.uri}</code>`}
      ${error.details != null && html`<pre tabindex="0">${pretty(error.details)}</pre>`}
    </div>
  `;
}

/** What a route says of itself: its names, its text, what its messages pass and who may send them. */
export function About({ route }) {
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
