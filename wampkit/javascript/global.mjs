// Writes wampkit.global.js, the module for a plain <script>, into the npm package. wampkit/server/static.py serves the same text.
import { readFileSync, writeFileSync } from "node:fs";

const module = readFileSync(new URL("wampkit.js", import.meta.url), "utf8");
const script = `(() => {\n"use strict";\n${module.replace(/^export \{/m, "globalThis.wampkit = {")}})();\n`;
writeFileSync(new URL("wampkit.global.js", import.meta.url), script);
