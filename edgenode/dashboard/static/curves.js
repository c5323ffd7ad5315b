// Small curves over the rounds of the run, with the last value next to the end.
import { svg } from "./graph.js";

const WIDTH = 480, LEFT = 58, RIGHT = 64, TOP = 8, BOTTOM = 18;

// series: [{ key, name }]; options: { log, text: value -> string, height, most }
export function drawCurve(root, points, series, { log = false, text, height, most }) {
  const lines = series.map(({ key, name }) => ({ name, at: points.filter((p) => p[key] !== null && (!log || p[key] > 0)).map((p) => [p.round, p[key]]) }));
  const all = lines.flatMap((line) => line.at);
  if (all.length === 0) {
    root.replaceChildren(svg("text", { x: WIDTH / 2, y: height / 2, "text-anchor": "middle" }, "nothing measured yet"));
    return;
  }
  const last = Math.max(...all.map(([x]) => x), 1);
  const scale = log ? Math.log10 : (value) => value;
  let low = Math.min(...all.map(([, y]) => scale(y))), high = Math.max(...all.map(([, y]) => scale(y)));
  if (most !== undefined) high = Math.max(high, Math.min(most, high + 0.05));
  if (high - low < 1e-9) { high += log ? 0.5 : 0.05; low -= log ? 0.5 : 0.05; }
  const x = (round) => LEFT + (round / last) * (WIDTH - LEFT - RIGHT);
  const y = (value) => TOP + (1 - (scale(value) - low) / (high - low)) * (height - TOP - BOTTOM);
  const ticks = log ? powers(low, high) : [low, (low + high) / 2, high];
  root.replaceChildren(
    ...ticks.flatMap((tick) => {
      const level = y(log ? 10 ** tick : tick);
      return [svg("path", { class: "grid", d: `M${LEFT} ${level}H${WIDTH - RIGHT}` }),
        svg("text", { x: LEFT - 6, y: level + 4, "text-anchor": "end" }, text(log ? 10 ** tick : tick))];
    }),
    svg("text", { x: LEFT, y: height - 3 }, "0"),
    svg("text", { x: WIDTH - RIGHT, y: height - 3, "text-anchor": "end" }, `${last} rounds`),
    ...lines.filter((line) => line.at.length).flatMap((line) => {
      const [round, value] = line.at[line.at.length - 1];
      const d = line.at.map(([r, v], i) => `${i ? "L" : "M"}${x(r).toFixed(1)} ${y(v).toFixed(1)}`).join("");
      return [svg("path", { class: `line ${line.name}`, d }, svg("title", {}, line.name)),
        svg("text", { class: "last", x: x(round) + 6, y: y(value) + 4 }, text(value))];
    }),
  );
}

function powers(low, high) {
  const first = Math.ceil(low), count = Math.floor(high) - first + 1;
  if (count < 1) return [low, high];
  const step = Math.ceil(count / 4);
  return Array.from({ length: Math.ceil(count / step) }, (_, i) => first + i * step);
}
