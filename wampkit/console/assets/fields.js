// The fields of a form, made from types.

import { html } from "./vendor/preact.js";
import { boundsText, choicesOf, entryOf, resolved, typeText } from "./schema.js";

/**
 * A field for a value.
 *
 * - `path`: where it stands, which the errors are named by.
 * - `entered`, `onEnter`: its text, and what takes a new one.
 * - `fallback`: what holds if it is left empty.
 * - `depth`: in how many objects it stands.
 */
export function Field(field) {
  const { path, name, schema, definitions, required, variadic, fallback, entered, onEnter, errors, depth = 0 } = field;
  const entry = variadic ? { kind: "json", schema: {} } : entryOf(schema, definitions, depth);
  const type = typeText(schema, definitions);
  const hint = [variadic ? `any number of ${type}` : type, boundsText(schema, definitions), ...emptyHint(entry, required, fallback)];
  const label = html`
    <span class="name">${variadic ? `*${name}` : name}${required && html`<abbr title="needed">*</abbr>`}</span>
    <small>${hint.filter(Boolean).join(" · ")}</small>
  `;
  if (entry.kind === "object") return Group({ path, label, entry, definitions, entered, onEnter, errors, depth });
  const id = `field-${path}`;
  const problem = errors[path];
  const given = {
    id,
    value: entered ?? "",
    onInput: (event) => onEnter(event.target.value),
    "aria-invalid": problem ? "true" : undefined,
    "aria-describedby": problem ? `${id}-problem` : undefined,
  };
  const about = resolved(schema, definitions).description;
  return html`
    <div class="field">
      <label for=${id}>${label}</label>
      ${about && !variadic && html`<p class="text">${about}</p>`}
      ${input(entry, given, required, placeholder(entry, variadic, fallback))}
      ${problem && html`<p class="wrong" id=${`${id}-problem`}>${problem}</p>`}
    </div>
  `;
}

function emptyHint({ kind, nullable }, required, fallback) {
  if (nullable && required) return ["empty is null"];
  if (required || kind === "object") return [];
  return fallback === undefined ? ["may be left out"] : [`default ${JSON.stringify(fallback)}`];
}

function placeholder({ kind, schema }, variadic, fallback) {
  if (fallback !== undefined && fallback !== null) return typeof fallback === "string" ? fallback : JSON.stringify(fallback);
  if (variadic) return "1, 2, 3";
  if (kind !== "json") return schema.format === "date-time" ? new Date().toISOString() : "";
  return schema.type === "array" ? "[1, 2]" : schema.type === "object" ? '{"key": 1}' : '"text", 2, [1, 2], {"key": 1}';
}

function input({ kind, schema, nullable }, given, required, shadow) {
  if (kind === "choice") {
    return html`<select ...${given}>
      ${(!required || nullable || !given.value) && html`<option value="">${nullable ? "null" : "—"}</option>`}
      ${choicesOf(schema).map((each) => {
        const text = JSON.stringify(each);
        return html`<option key=${text} value=${text}>${typeof each === "string" ? each : text}</option>`;
      })}
    </select>`;
  }
  const plain = { ...given, placeholder: shadow, autocomplete: "off", spellcheck: false };
  if (kind === "number") return html`<input ...${plain} inputmode=${schema.type === "integer" ? "numeric" : "decimal"} />`;
  if (kind === "text" && !(schema.maxLength > 200)) return html`<input ...${plain} />`;
  return html`<textarea ...${plain} rows=${kind === "json" ? 2 : 3} class=${kind === "json" ? "code" : ""}></textarea>`;
}

function Group({ path, label, entry, definitions, entered, onEnter, errors, depth }) {
  const values = entered ?? {};
  return html`
    <fieldset>
      <legend>${label}</legend>
      ${errors[path] && html`<p class="wrong">${errors[path]}</p>`}
      ${Object.entries(entry.schema.properties).map(([name, schema]) => {
        const inner = `${path}.${name}`;
        return html`<${Field}
          key=${name} path=${inner} name=${name} schema=${schema} definitions=${definitions} depth=${depth + 1}
          required=${entry.schema.required?.includes(name) ?? false} fallback=${schema.default}
          entered=${values[name]} errors=${errors} onEnter=${(text) => onEnter({ ...values, [name]: text })}
        />`;
      })}
    </fieldset>
  `;
}

/** A field for each variable of a URI pattern. */
export function Variables({ route, entered, onEnter, errors }) {
  return route.variables.map(
    (name) => html`<${Field}
      key=${name} path=${`{${name}}`} name=${`{${name}}`} schema=${{ type: "string", minLength: 1 }} definitions=${{}}
      required entered=${entered[name]} errors=${errors} onEnter=${(text) => onEnter({ ...entered, [name]: text })}
    />`,
  );
}

/** Bring the first field that is wrong into view. */
export function showFirstError(form) {
  requestAnimationFrame(() => form.querySelector('[aria-invalid="true"]')?.focus());
}
