// The page: shows the snapshots of the event stream, and sends the operator's requests.
import { drawCurve } from "./curves.js";
import { drawGraph, kind } from "./graph.js";

const HISTORY_EVERY_MS = 3000;
const MOST_LINKS = 64; // with a row each
const by = (id) => document.getElementById(id);
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const known = (values) => values.filter((value) => value !== null);
let over = false;

export function size(count) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (count < 999.95) return `${unit === "B" || count >= 100 ? Math.round(count) : count.toFixed(1)} ${unit}`;
    count /= 1000;
  }
  return `${count.toFixed(1)} TB`;
}

const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
const percent = (value) => `${(100 * value).toFixed(1)}%`;
const small = (value) => (value === 0 ? "0" : value < 0.01 || value >= 10000 ? value.toExponential(0) : `${Number(value.toPrecision(2))}`);
const metric = (value) => `${Number(value.toPrecision(3))}`;
const seconds = (value) => (value >= 10 ? `${value.toFixed(0)} s` : value >= 0.1 ? `${value.toFixed(2)} s` : `${(1000 * value).toFixed(0)} ms`);

const milliseconds = (time) => `${(1000 * time).toFixed(time < 0.01 ? 1 : 0)} ms`;

export function duration(time) {
  const pad = (value) => `${value}`.padStart(2, "0");
  const whole = Math.round(time), minutes = Math.round(time / 60), hours = Math.round(time / 3600);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${pad(whole % 60)} s`;
  if (minutes < 24 * 60) return `${Math.floor(minutes / 60)} h ${pad(minutes % 60)} min`;
  return `${Math.floor(hours / 24)} d ${pad(hours % 24)} h`;
}

function clock(at, precise = false) { // with its date, if that is not today's
  const options = { hour: "2-digit", minute: "2-digit", ...(precise && { second: "2-digit" }) };
  const day = at.toDateString() === new Date().toDateString() ? {} : { month: "short", day: "numeric" };
  return at.toLocaleString(undefined, { ...day, ...options });
}

function show(view) {
  document.title = `${view.cluster}: ${view.graph ? `round ${view.round} of ${view.rounds}` : "waiting"}`;
  by("cluster").textContent = view.cluster;
  by("title").textContent = title(view);
  pill(over ? ending(view) : view.graph === null ? "waiting" : view.paused ? "paused" : "running");
  tiles(view);
  by("graph-name").textContent = view.graph ? `graph ${view.graph.name}` : "no graph yet";
  by("next").textContent = view.next ? `next: graph ${view.next.graph} from round ${view.next.round} (dotted)` : "no change planned";
  by("requests").replaceChildren(...requests(view).map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  drawGraph(by("graph"), view);
  by("rows").replaceChildren(...view.nodes.map(row));
  by("links-card").hidden = over || !view.open_links.length;
  by("links").replaceChildren(...view.open_links.slice(0, MOST_LINKS).map((link) => cells([
    `${link.sender} → ${link.receiver}`, link.relay ? `${link.way} by ${link.relay}` : link.way,
    milliseconds(link.round_trip_s), `${size(link.bytes_per_s)}/s`,
  ])));
  operator(view);
}

function title(view) {
  if (view.graph === null) return `waiting for ${counted(view.missing, "more node")}`;
  if (view.evicting.length) return `evicting ${view.evicting.join(", ")}`;
  const bad = view.nodes.filter((node) => kind(node) === "bad").map((node) => node.node);
  return bad.length ? `no connection to ${bad.join(", ")}` : `${counted(view.nodes.length, "node")}, controller ${view.controller}`;
}

function requests(view) { // what is not in force as requested, and what else the operator has to know
  const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
  const lines = view.difference ? [`Requested: graph ${view.requested}. ${sentence(view.difference)}`] : [];
  lines.push(...[...view.links, ...view.ways, ...view.relays].map((link) => `${link.text}.`));
  return lines.concat(view.pending.map((pending) => `Pending: ${pending.change}, after ${pending.waits_for}.`),
    view.nodes.filter(cannotSave).map((node) => `${node.node} cannot save for ${duration(node.save_error_s)}: ${node.save_error}`));
}

function cannotSave(node) {
  return node.save_error && !["failed", "done", "stopped"].includes(node.state);
}

function ending(view) {
  return view.nodes.some((node) => node.state === "failed") ? "failed" : view.nodes.every((node) => node.state === "done") ? "done" : "stopped";
}

function pill(text) {
  by("state").textContent = text;
  by("state").className = `pill ${text.split(" ")[0]}`;
  by("state").hidden = false;
}

function tiles(view) {
  const byLoss = view.nodes.some(testsLoss), text = byLoss ? metric : percent;
  const scores = known(view.nodes.map((node) => (byLoss ? node.metrics.loss ?? null : node.accuracy)));
  const sent = view.payload_bytes, dense = view.dense_bytes, left = over ? null : view.time_left_s;
  by("round").textContent = view.graph ? `${view.round} / ${view.rounds}` : "-";
  by("progress").value = view.rounds ? view.round / view.rounds : 0;
  by("left").textContent = left === null ? "-" : duration(left);
  by("ends").textContent = left === null ? "" : `ends about ${clock(new Date(Date.now() + 1000 * left))}`;
  by("score").textContent = byLoss ? "mean test loss" : "mean accuracy";
  by("accuracy").textContent = scores.length ? text(mean(scores)) : "-";
  by("accuracy-range").textContent = scores.length > 1 ? `${text(Math.min(...scores))} to ${text(Math.max(...scores))}` : "";
  by("sent").textContent = view.nodes.length ? size(sent) : "-";
  by("dense").textContent = sent > 0 ? `${(dense / sent).toFixed(0)}x less than ${size(dense)}` : "";
  by("apart").textContent = view.consensus_distance === null ? "-" : small(view.consensus_distance);
  by("apart-round").textContent = view.consensus_distance === null ? "" : `at round ${view.consensus_round}, estimated`;
  const paces = view.nodes.map((node) => node.round_s).filter((pace) => pace > 0);
  by("pace").textContent = paces.length ? seconds(Math.max(...paces)) : "-";
  const slow = view.nodes.filter((node) => node.holds_up_s >= 1);
  by("straggler").textContent = slow.length ? `${slow[0].node} holds up others (${slow[0].holds_up_s.toFixed(0)} s)` : "";
}

function testsLoss(node) { // and has no accuracy
  return node.accuracy === null && Object.keys(node.metrics)[0] === "loss";
}

function row(node) {
  const line = cells([
    node.node, words(node), `${node.round}/${node.rounds}`, node.accuracy === null ? "-" : percent(node.accuracy),
    node.loss === null ? "-" : node.loss.toFixed(3), node.u.toFixed(3), size(node.payload_bytes), size(node.received_bytes),
    node.holds_up_s >= 1 ? `${node.holds_up_s.toFixed(0)} s` : "-", `${node.last_seen_s.toFixed(1)} s ago`,
  ]);
  line.className = kind(node);
  line.title = [node.error || node.address, ...Object.entries(node.metrics).map(([name, value]) => `${name} ${metric(value)}`)].join(", ");
  return line;
}

function cells(texts) {
  const line = document.createElement("tr");
  line.append(...texts.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
  return line;
}

function words(node) {
  return cannotSave(node) ? `${activity(node)}, cannot save` : activity(node);
}

function activity(node) {
  if (node.state === "failed") return `failed: ${node.error}`;
  if (!node.connected && node.state !== "done" && node.state !== "stopped") return "not seen";
  if (node.waiting_s >= 1) return `waits for ${node.waiting_for.join(", ")}`;
  return node.state === "unspecified" ? "joining" : node.state;
}

// --- the operator

function operator(view) {
  by("pause").hidden = view.paused;
  by("resume").hidden = !view.paused;
  const select = by("evictable"), names = view.nodes.map((node) => node.node);
  if (names.join() !== [...select.options].map((option) => option.value).join()) {
    const chosen = select.value;
    select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
  }
}

const GRAVE = {
  stop: () => "Stop the run at every node?",
  evict: (asked) => `Evict ${asked.node}? What it learnt since its last push is lost.`,
};

async function send(name, form) {
  const asked = Object.fromEntries(new FormData(form));
  if ("force" in asked) asked.force = true;
  if (name in GRAVE && !confirm(GRAVE[name](asked))) return;
  const button = form.querySelector("button");
  button.disabled = true;
  showReply(`${name}: sent`);
  try {
    const answer = await fetch(`/api/${name === "set" ? "rotate" : name}`, {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(asked),
    });
    const reply = (answer.headers.get("content-type") || "").includes("json") ? await answer.json() : { error: await answer.text() };
    showReply(reply.text || reply.error, !answer.ok);
  } catch {
    showReply("the controller does not answer", true);
  } finally {
    button.disabled = false;
  }
}

function showReply(text, bad = false) {
  by("reply").textContent = text;
  by("reply").className = bad ? "bad" : "";
}

for (const name of ["set", "rotate", "pause", "resume", "stop", "evict"]) {
  by(name).addEventListener("submit", (event) => { event.preventDefault(); send(name, event.target); });
}

// --- updates

async function history() {
  try {
    const [points, events] = await Promise.all(["curve", "events"].map(async (what) => (await fetch(`/api/${what}`)).json()));
    const key = ["accuracy", "test_loss", "loss"].find((name) => points.some((point) => point[name] !== null)) || "accuracy";
    const scale = key === "accuracy" ? { text: percent, most: 1 } : { text: metric };
    by("score-curve").textContent = `${{ accuracy: "test accuracy", test_loss: "test loss", loss: "training loss" }[key]}, mean of the nodes`;
    drawCurve(by("accuracy-curve"), points, [{ key, name: "accuracy" }], { ...scale, height: 150 });
    drawCurve(by("bytes-curve"), points, [{ key: "dense_bytes", name: "dense" }, { key: "payload_bytes", name: "sent" }], { log: true, text: size, height: 150 });
    drawCurve(by("apart-curve"), points, [{ key: "consensus_distance", name: "apart" }], { log: true, text: small, height: 110 });
    by("events").replaceChildren(...events.reverse().map((event) => cells([clock(new Date(1000 * event.at), true), event.round, event.kind, event.text])));
  } catch { /* the stream reports a lost controller */ }
}

let stream = null;

function listen() {
  stream = new EventSource("/events");
  stream.onmessage = (event) => show(JSON.parse(event.data));
  stream.addEventListener("over", (event) => { over = true; stream.close(); show(JSON.parse(event.data)); history(); });
  stream.onerror = async () => {
    if (over) return;
    pill("lost the controller");
    if (stream.readyState === EventSource.CLOSED && (await fetch("/api/status")).status === 401) location.reload(); // sign in again
  };
}

document.addEventListener("visibilitychange", () => { // a hidden page needs no updates
  if (over) return;
  if (document.hidden) { stream.close(); stream = null; } else if (stream === null) { listen(); history(); }
});

show(JSON.parse(by("snapshot").textContent));
listen();
history();
setInterval(() => { if (stream !== null && !over) history(); }, HISTORY_EVERY_MS);
