// Form fields made from JSON Schemas.

import { html } from "./vendor/preact.js";
import { choicesOf, describeBounds, describeType, inputOf, resolveRef } from "./schema.js";

/**
 * A field for a value.
 *
 * - `path`: its path in the form, the key of its message in `errors`.
 * - `entered`, `onEnter`: its text (for an object, an object of texts), and a function called with a new one.
 * - `fallback`: the default, which an empty field stands for.
 * - `depth`: the number of objects around it.
 */
export function Field(field) {
  const { path, name, schema, definitions, required, variadic, fallback, entered, onEnter, errors, depth = 0 } = field;
  const entry = variadic ? { kind: "json", schema: {} } : inputOf(schema, definitions, depth);
  const type = describeType(schema, definitions);
  const hint = [variadic ? `any number of ${type}` : type, describeBounds(schema, definitions), ...emptyHint(entry, required, fallback)];
  const label = html`
    <span class="name">${variadic ? `*${name}` : name}${required && html`<abbr title="needed">*</abbr>`}</span>
    <small>${hint.filter(Boolean).join(" · ")}</small>
  `;
  if (entry.kind === "object") return Fieldset({ path, label, entry, definitions, entered, onEnter, errors, depth });
  const id = `field-${path}`;
  const error = errors[path];
  const attributes = {
    id,
    value: entered ?? "",
    onInput: (event) => onEnter(event.target.value),
    "aria-invalid": error ? "true" : undefined,
    "aria-describedby": error ? `${id}-problem` : undefined,
  };
  const description = resolveRef(schema, definitions).description;
  return html`
    <div class="field">
      <label for=${id}>${label}</label>
      ${description && !variadic && html`<p class="text">${description}</p>`}
      ${input(entry, attributes, required, placeholder(entry, variadic, fallback))}
      ${error && html`<p class="wrong" id=${`${id}-problem`}>${error}</p>`}
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

function input({ kind, schema, nullable }, attributes, required, placeholderText) {
  if (kind === "choice") {
    return html`<select ...${attributes}>
      ${(!required || nullable || !attributes.value) && html`<option value="">${nullable ? "null" : "—"}</option>`}
      ${choicesOf(schema).map((each) => {
        const text = JSON.stringify(each);
        return html`<option key=${text} value=${text}>${typeof each === "string" ? each : text}</option>`;
      })}
    </select>`;
  }
  const textAttributes = { ...attributes, placeholder: placeholderText, autocomplete: "off", spellcheck: false };
  if (kind === "number") return html`<input ...${textAttributes} inputmode=${schema.type === "integer" ? "numeric" : "decimal"} />`;
  if (kind === "text" && !(schema.maxLength > 200)) return html`<input ...${textAttributes} />`;
  return html`<textarea ...${textAttributes} rows=${kind === "json" ? 2 : 3} class=${kind === "json" ? "code" : ""}></textarea>`;
}

function Fieldset({ path, label, entry, definitions, entered, onEnter, errors, depth }) {
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
export function VariableFields({ route, entered, onEnter, errors }) {
  return route.variables.map(
    (name) => html`<${Field}
      key=${name} path=${`{${name}}`} name=${`{${name}}`} schema=${{ type: "string", minLength: 1 }} definitions=${{}}
      required entered=${entered[name]} errors=${errors} onEnter=${(text) => onEnter({ ...entered, [name]: text })}
    />`,
  );
}

/** Focus the first field with an error. */
export function focusFirstError(form) {
  requestAnimationFrame(() => form.querySelector('[aria-invalid="true"]')?.focus());
}
