// Plots over time: uPlot in the page's colours.

import { html, useEffect, useRef } from "./vendor/preact.js";
import { formatTime } from "./components.js";

const HEIGHT = 150;
const MIN_SPAN = 60; // seconds
const dark = matchMedia("(prefers-color-scheme: dark)");

/**
 * A plot over time.
 *
 * - `lines`: `{label, color}` of each line; the colour is the name of a CSS custom property.
 * - `data`: the times in seconds, and the values of each line.
 * - `unit`: the text after a value.
 */
export function Plot({ title, lines, data, unit = "" }) {
  const container = useRef(null);
  const plot = useRef(null);
  useEffect(() => {
    const make = () => {
      plot.current?.destroy();
      plot.current = new uPlot(plotOptions(container.current, lines, unit), data, container.current);
    };
    make();
    const sizes = new ResizeObserver(() => plot.current.setSize({ width: container.current.clientWidth, height: HEIGHT }));
    sizes.observe(container.current);
    dark.addEventListener("change", make);
    return () => {
      sizes.disconnect();
      dark.removeEventListener("change", make);
      plot.current.destroy();
    };
  }, []);
  useEffect(() => plot.current?.setData(data), [data]);
  const last = lines.map(({ label }, index) => `${label} ${formatValue(data[index + 1].at(-1), unit)}`).join(", ");
  return html`
    <figure class="plot">
      <figcaption>
        ${title}
        ${lines.map(
          ({ label, color }, index) => html`<span key=${label} class="key">
            <i class=${`swatch ${color}`}></i>${label} <b>${formatValue(data[index + 1].at(-1), unit)}</b>
          </span>`,
        )}
      </figcaption>
      <div ref=${container} role="img" aria-label=${`${title}: ${last}`}></div>
    </figure>
  `;
}

function formatValue(value, unit) {
  if (value == null) return "–";
  return `${value < 10 && !Number.isInteger(value) ? value.toFixed(2) : Math.round(value).toLocaleString("en")}${unit}`;
}

function plotOptions(container, lines, unit) {
  const style = getComputedStyle(container);
  const color = (name) => style.getPropertyValue(`--${name}`).trim();
  const axis = {
    stroke: color("dim"),
    font: "11px system-ui, sans-serif",
    grid: { stroke: color("line"), width: 1 },
    ticks: { show: false },
  };
  return {
    width: container.clientWidth,
    height: HEIGHT,
    legend: { show: false },
    cursor: { y: false, points: { size: 6 } },
    scales: { x: { range: (_, first, last) => [Math.min(first, last - MIN_SPAN), last] }, y: { range: (_, __, most) => [0, most > 0 ? most * 1.1 : 1] } },
    axes: [
      { ...axis, size: 28, space: 90, values: (_, ticks) => ticks.map((tick) => formatTime(tick * 1000)) },
      { ...axis, size: 52, values: (_, ticks) => ticks.map((tick) => formatValue(tick, unit)) },
    ],
    series: [
      {},
      ...lines.map((line) => ({ label: line.label, stroke: color(line.color), width: 1.5, points: { size: 3 } })),
    ],
  };
}
