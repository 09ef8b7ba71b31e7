// JSON Schemas in words, and the texts of a form parsed and checked by them.

/** A variable of a URI pattern: its name, and `:path` if it matches slashes too. */
const VARIABLE = /\{([^{}:]+)(:path)?\}/u;

const MAX_DEPTH = 3;

const BOUNDS = {
  minimum: "≥ ",
  exclusiveMinimum: "> ",
  maximum: "≤ ",
  exclusiveMaximum: "< ",
  multipleOf: "a multiple of ",
  pattern: "like ",
};

export function resolveRef(schema, definitions) {
  let found = schema ?? {};
  for (let depth = 0; found.$ref && depth < 32; depth++) found = definitions[found.$ref.replace("#/$defs/", "")] ?? {};
  return found;
}

/** A type in a few words, such as `list of number`. */
export function describeType(schema, definitions, depth = 0) {
  const { type, format, anyOf, title, items, prefixItems, additionalProperties, ...rest } = resolveRef(schema, definitions);
  const choices = rest.enum ?? ("const" in rest ? [rest.const] : null);
  if (choices) return choices.map((each) => JSON.stringify(each)).join(" | ");
  if (depth > 3) return "…";
  const inner = (each) => describeType(each, definitions, depth + 1);
  if (anyOf) return [...new Set(anyOf.map(inner))].join(" | ");
  if (type === "array") {
    if (prefixItems) return `[${prefixItems.map(inner).join(", ")}]`;
    return items && Object.keys(items).length ? `list of ${inner(items)}` : "list";
  }
  if (type === "object") {
    if (title) return title;
    const values = additionalProperties;
    return values && Object.keys(values).length ? `object of ${inner(values)}` : "object";
  }
  if (!type) return "anything";
  return format ? `${type} (${format})` : Array.isArray(type) ? type.join(" | ") : type;
}

/** The bounds of a type, such as `≥ 0, ≤ 60`, or "". */
export function describeBounds(schema, definitions) {
  const found = resolveRef(schema, definitions);
  const main = (found.anyOf ?? [found]).map((each) => resolveRef(each, definitions)).find((each) => each.type !== "null") ?? {};
  const parts = Object.entries(BOUNDS).filter(([name]) => name in main).map(([name, text]) => text + main[name]);
  const { minLength, maxLength, minItems, maxItems } = main;
  if (minLength !== undefined || maxLength !== undefined) parts.push(`${range(minLength, maxLength)} characters`);
  if (minItems !== undefined || maxItems !== undefined) parts.push(`${range(minItems, maxItems)} items`);
  return parts.join(", ");
}

function range(least, most) {
  if (least === most) return least;
  if (most === undefined) return `${least} or more`;
  return `${least ? `${least} to ` : "up to "}${most}`;
}

/**
 * The input for a value: `{kind, schema, nullable}`, with a kind of "text", "number", "choice", "object" or "json".
 *
 * @param depth The number of objects around it: types may contain themselves, so the innermost are entered as JSON.
 */
export function inputOf(schema, definitions, depth = 0) {
  const found = resolveRef(schema, definitions);
  if (found.anyOf) {
    const others = found.anyOf.filter((each) => resolveRef(each, definitions).type !== "null");
    if (others.length !== 1) return { kind: "json", schema: found };
    return { ...inputOf(others[0], definitions, depth), nullable: others.length < found.anyOf.length };
  }
  if (found.enum || "const" in found || found.type === "boolean") return { kind: "choice", schema: found };
  if (found.type === "string") return { kind: "text", schema: found };
  if (found.type === "number" || found.type === "integer") return { kind: "number", schema: found };
  if (found.type === "object" && found.properties && depth < MAX_DEPTH) return { kind: "object", schema: found };
  return { kind: "json", schema: found };
}

export function choicesOf(schema) {
  return schema.enum ?? ("const" in schema ? [schema.const] : [true, false]);
}

/**
 * Parse and check what was entered: `{value}`, `{missing: true}` or `{errors}`, by path.
 *
 * @param entered A text, or for an object an object of texts.
 */
export function parseInput(entered, schema, definitions, required, path = "", depth = 0) {
  const { kind, schema: found, nullable } = inputOf(schema, definitions, depth);
  if (kind === "object") {
    if (isEmpty(entered) && (nullable || !required)) return nullable && required ? { value: null } : { missing: true };
    return parseObject(entered ?? {}, found, definitions, path, depth);
  }
  const text = entered ?? "";
  if (text === "" || (kind !== "text" && !text.trim())) {
    if (nullable) return required ? { value: null } : { missing: true };
    if (kind === "text" && required) return check(path, "", lengthProblem("", found));
    return required ? failed(path, "is needed") : { missing: true };
  }
  if (kind === "text") return check(path, text, lengthProblem(text, found));
  if (kind === "number") return parseNumber(text.trim(), found, path);
  try {
    return { value: JSON.parse(text) };
  } catch {
    return failed(path, 'is no JSON: write 2, "text", [1, 2] or {"key": 1}');
  }
}

function parseObject(entered, schema, definitions, path, depth) {
  const value = {};
  const errors = {};
  for (const [name, each] of Object.entries(schema.properties)) {
    const needed = schema.required?.includes(name) ?? false;
    const result = parseInput(entered[name], each, definitions, needed, `${path}.${name}`, depth + 1);
    if (result.errors) Object.assign(errors, result.errors);
    else if (!result.missing) value[name] = result.value;
  }
  return Object.keys(errors).length ? { errors } : { value };
}

const isEmpty = (entered) =>
  !entered || (typeof entered === "object" ? Object.values(entered).every(isEmpty) : !entered.trim());

function parseNumber(text, { type, minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf }, path) {
  const value = Number(text);
  if (!Number.isFinite(value)) return failed(path, "is no number");
  if (type === "integer" && !Number.isInteger(value)) return failed(path, "is no whole number");
  if (type === "integer" && !Number.isSafeInteger(value)) return failed(path, "is too large for a browser to send exactly");
  let problem;
  if (value < minimum) problem = `must be at least ${minimum}`;
  if (value <= exclusiveMinimum) problem = `must be above ${exclusiveMinimum}`;
  if (value > maximum) problem = `must be at most ${maximum}`;
  if (value >= exclusiveMaximum) problem = `must be below ${exclusiveMaximum}`;
  if (multipleOf && !Number.isInteger(value / multipleOf)) problem = `must be a multiple of ${multipleOf}`;
  return check(path, value, problem);
}

function lengthProblem(text, { minLength, maxLength, pattern }) {
  const length = [...text].length;
  if (length < minLength) return minLength === 1 ? "is needed" : `must have at least ${minLength} characters`;
  if (length > maxLength) return `must have at most ${maxLength} characters`;
  return pattern && !matches(text, pattern) ? `must be like ${pattern}` : undefined;
}

function matches(text, pattern) {
  try {
    return new RegExp(pattern, "u").test(text);
  } catch {
    return true; // not every Python pattern is valid here: the server checks it
  }
}

const check = (path, value, problem) => (problem ? failed(path, problem) : { value });
const failed = (path, problem) => ({ errors: { [path]: problem } });

/** Fill the variables of a URI pattern: `{uri}` or `{errors}`. */
export function expandPattern(pattern, values) {
  const errors = {};
  const uri = pattern.replace(new RegExp(VARIABLE, "gu"), (_, name, path) => {
    const value = values[name] ?? "";
    if (!value) errors[`{${name}}`] = "is needed";
    else if (!path && value.includes("/")) errors[`{${name}}`] = "must not have a slash";
    return value;
  });
  return Object.keys(errors).length ? { errors } : { uri };
}

/** The values of the variables of a URI pattern in a URI, or null if it does not match. */
export function matchPattern(pattern, uri) {
  const names = [];
  const escape = (text) => text.replace(/[\^$.*+?()[\]{}|/]/g, "\\$&");
  const parts = pattern.split(VARIABLE).map((part, index) => {
    if (index % 3 === 0) return escape(part);
    if (index % 3 === 2) return part ? "(.+)" : "([^/]+)";
    names.push(part);
    return "";
  });
  const found = new RegExp(`^${parts.join("")}$`, "su").exec(uri);
  return found && Object.fromEntries(names.map((name, index) => [name, found[index + 1]]));
}

/**
 * The arguments of a call from what was entered for each parameter: `{args}` or `{errors}`.
 *
 * Arguments are positional, so one that is left out before another becomes its default.
 */
export function parseArguments(entered, { parameters, definitions }) {
  const args = [];
  const errors = {};
  let skipped = []; // defaults of the parameters left out so far
  for (const { name, schema, required, variadic, default: fallback = null } of parameters) {
    const result = variadic ? parseVariadic(entered[name], name) : parseInput(entered[name], schema, definitions, required, name);
    if (result.errors) Object.assign(errors, result.errors);
    else if (result.missing) skipped.push(fallback);
    else {
      args.push(...skipped, ...(variadic ? result.value : [result.value]));
      skipped = [];
    }
  }
  return Object.keys(errors).length ? { errors } : { args };
}

function parseVariadic(text, name) {
  if (!text?.trim()) return { missing: true };
  const result = parseInput(text.trim().startsWith("[") ? text : `[${text}]`, {}, {}, true, name);
  if (result.errors) return failed(name, "is no list: write values as JSON, with commas between them");
  return result.value.length ? result : { missing: true };
}
