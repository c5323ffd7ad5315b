// The directed graph: nodes on a circle, an arrow per edge, and dots that move along the edges while the run trains.
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 400, HEIGHT = 360;
const still = matchMedia("(prefers-reduced-motion: reduce)");

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

let drawn = ""; // what is drawn now: only a change redraws the graph, so that the dots keep moving

export function drawGraph(root, view) {
  const names = view.record ? view.record.members.map(([name]) => name) : view.nodes.map((node) => node.node);
  const moving = view.graph !== null && !view.paused && !still.matches && view.nodes.some((node) => node.state === "running");
  const shape = JSON.stringify([names, view.graph, view.next && view.next.edges, moving]);
  if (shape !== drawn) {
    drawn = shape;
    draw(root, names, view, moving);
  }
  const nodes = new Map(view.nodes.map((node) => [node.node, node]));
  for (const group of root.querySelectorAll(".node")) update(group, nodes.get(group.dataset.node));
}

function draw(root, names, view, moving) {
  const radius = names.length > 24 ? 7 : names.length > 12 ? 15 : 31;
  const places = new Map(names.map((name, i) => [name, place(i, names.length)]));
  const edges = view.graph ? view.graph.edges : [];
  const coming = view.next ? view.next.edges : [];
  const pace = Math.min(3, Math.max(0.9, 4 * Math.max(...view.nodes.map((node) => node.round_s), 0.2)));
  const present = new Set(edges.map((edge) => edge.join(" ")));
  const ghosts = coming.filter((edge) => !present.has(edge.join(" ")));
  const lines = edges.map((edge) => arc(places, edge, radius));
  root.replaceChildren(
    ...ghosts.map((edge) => svg("path", { class: "ghost", d: arc(places, edge, radius).d })),
    ...lines.map((line) => svg("path", { class: "edge", d: line.d })),
    ...lines.map((line) => svg("path", { class: "head", d: "M0 0-10-5-10 5Z", transform: line.head })),
    ...(moving ? lines.map((line, i) => dot(line.d, pace, i)) : []),
    ...names.map((name) => circle(name, places.get(name), radius)),
  );
}

function place(i, count) {
  const turn = (2 * Math.PI * i) / count - (count === 2 ? Math.PI : Math.PI / 2);
  return { x: WIDTH / 2 + 150 * Math.cos(turn), y: HEIGHT / 2 + 138 * Math.sin(turn) };
}

// An edge bends a little to its left, so that two opposite edges do not overlap.
function arc(places, [sender, receiver], radius) {
  const a = places.get(sender), b = places.get(receiver);
  if (!a || !b) return { d: "", head: "" };
  const dx = b.x - a.x, dy = b.y - a.y, length = Math.hypot(dx, dy) || 1;
  const mx = (a.x + b.x) / 2 + (dy / length) * 0.1 * length, my = (a.y + b.y) / 2 - (dx / length) * 0.1 * length;
  const start = towards(a, { x: mx, y: my }, radius), end = towards(b, { x: mx, y: my }, radius + 3);
  const angle = (Math.atan2(end.y - my, end.x - mx) * 180) / Math.PI;
  return { d: `M${start.x} ${start.y}Q${mx} ${my} ${end.x} ${end.y}`, head: `translate(${end.x} ${end.y}) rotate(${angle})` };
}

function towards(from, to, by) {
  const length = Math.hypot(to.x - from.x, to.y - from.y) || 1;
  return { x: from.x + ((to.x - from.x) / length) * by, y: from.y + ((to.y - from.y) / length) * by };
}

function dot(path, pace, i) {
  const motion = svg("animateMotion", { dur: `${pace}s`, begin: `${(-i * pace) / 7}s`, repeatCount: "indefinite", path });
  return svg("circle", { class: "push", r: 4.5 }, motion);
}

function circle(name, { x, y }, radius) {
  const label = svg("text", { class: "name", y: radius > 20 ? 11 : radius + 10 }, short(name, radius));
  const group = svg("g", { class: "node", transform: `translate(${x} ${y})` }, svg("title"), svg("circle", { r: radius }),
    svg("text", { class: "value", y: radius > 20 ? -5 : 0 }), label);
  group.dataset.node = name;
  return group;
}

function short(name, radius) {
  return radius > 20 ? (name.length > 9 ? `${name.slice(0, 8)}…` : name) : radius > 10 ? name.slice(0, 8) : "";
}

function update(group, node) {
  const accuracy = node && node.accuracy !== null ? `${(100 * node.accuracy).toFixed(0)}%` : "";
  const text = group.querySelector(".value");
  if (text.textContent !== accuracy && Number(group.querySelector("circle").getAttribute("r")) > 10) text.textContent = accuracy;
  group.setAttribute("class", `node ${node ? kind(node) : "bad"}`);
  group.querySelector("title").textContent = node ? `${node.node}: ${node.state}, round ${node.round}` : "not seen yet";
}

export function kind(node) {
  if (node.state === "done" || node.state === "stopped") return "ended";
  if (node.state === "failed" || !node.connected) return "bad";
  if (node.state === "paused") return "paused";
  return node.holds_up_s >= 1 || node.save_error ? "slow" : "";
}
