"use strict";
// What a reader does with the picture.

const byId = (id) => document.getElementById(id);
const run = new Run(JSON.parse(byId("rows").textContent));
const picture = new Picture(run, byId("lanes"), byId("overview"));
const AROUND = 14;
let hit = -1;

function element(name, text, attributes) {
  const made = Object.assign(document.createElement(name), attributes);
  if (text !== undefined) made.textContent = text;
  return made;
}

function look(from, to) {
  const span = Math.max(50, Math.min(run.end * 1.02 + 50, to - from));
  const start = Math.max(-span * 0.02, Math.min(from, run.end * 1.02 + 50 - span));
  picture.view = [start, start + span];
  byId("window").textContent = seconds(Math.max(0, start)) + " + " + (span / 1e6).toPrecision(3) + " s";
  picture.ask();
}

function zoom(factor, x) {
  const at = x === undefined ? picture.cursor : picture.time(x), [from, to] = picture.view;
  const middle = at < from || at > to ? (from + to) / 2 : at;
  look(middle - (middle - from) * factor, middle + (to - middle) * factor);
}

function move(share) {
  const [from, to] = picture.view, by = (to - from) * share;
  look(from + by, to + by);
}

// Puts the cursor somewhere, and everything at the side with it.
function point(moment, chosen) {
  picture.cursor = Math.max(0, Math.min(run.end, moment));
  picture.chosen = chosen || null;
  byId("when").textContent = "at " + seconds(picture.cursor);
  states();
  around(chosen);
  const section = byId("chosen");
  section.replaceChildren();
  if (chosen) details(section, chosen);
  picture.ask();
}

function states() {
  const table = byId("states"), row = element("tr");
  for (const name of ["", "role", "term", "commit", "applied", "revision"]) row.append(element("th", name));
  table.replaceChildren(row);
  for (let n = 0; n < run.nodes; n++) {
    const { place, isUp, isPaused, cuts } = run.state(n, picture.cursor), row = element("tr");
    const name = element("td"), colour = element("i");
    colour.style.background = isUp && place ? picture.colour[ROLES[place[2]]] : picture.colour.down;
    name.append(colour, "n" + (n + 1));
    const role = isUp ? (place ? ROLES[place[2]] : "starting") : "down";
    row.append(name, element("td", role + (isPaused ? ", paused" : "")));
    for (const value of place ? [place[3], place[5], place[6], place[7]] : ["", "", "", ""]) row.append(element("td", value));
    table.append(row);
    if (cuts.length) {
      const text = "cut: " + cuts.map(([, , a, b]) => run.host(a) + "→" + run.host(b)).join(" ");
      const cell = element("td", text, { colSpan: 6 });
      cell.style.color = picture.colour.cut;
      const under = element("tr");
      under.append(cell);
      table.append(under);
    }
  }
}

function details(section, [, list, i]) {
  const rows = [];
  if (list === "ops" || list === "answers") {
    const op = run.ops[i];
    rows.push(["client " + op[2] + " asks n" + (op[3] + 1), op[6]]);
    rows.push([op[1] < 0 ? "no answer" : ENDS[op[4]] + " after " + seconds(op[1] - op[0]), op[7]]);
  } else if (list === "messages") {
    const m = run.messages[i];
    const end = m[1] < 0 ? FATES[m[8]] : "arrived after " + seconds(m[1] - m[0]);
    rows.push([run.line([m[0], list, i]), "sent " + seconds(m[0]) + ", " + end]);
  } else if (list === "told") {
    rows.push([run.line([0, list, i]), run.told[i][5]]);
  } else {
    rows.push([run.line([0, list, i]), ""]);
  }
  for (const [title, text] of rows) section.append(element("b", title), element("div", text));
}

function around(chosen) {
  const list = byId("around"), at = run.at(picture.cursor);
  list.replaceChildren();
  const from = Math.max(0, at - AROUND), bad = new Set(run.failing);
  for (let i = from; i < Math.min(run.all.length, from + 2 * AROUND); i++) {
    const entry = run.all[i];
    const line = element("li", (entry[0] / 1e6).toFixed(6) + " " + run.line(entry), { title: run.line(entry) });
    if (chosen ? entry === chosen : i === at) line.className = "now";
    if (["ops", "answers"].includes(entry[1]) && bad.has(entry[2])) line.classList.add("bad");
    line.onclick = () => go(entry);
    list.append(line);
  }
}

// To an entry, with as much around it as there is room for words.
function go(entry) {
  const [from, to] = picture.view, span = Math.min(to - from, 400000);
  if (entry[0] < from || entry[0] > to || to - from > 2000000) look(entry[0] - span / 2, entry[0] + span / 2);
  point(entry[0], entry);
}

function step(by) {
  const now = picture.chosen ? run.all.indexOf(picture.chosen) : run.at(picture.cursor) - (by > 0 ? 1 : 0);
  const entry = run.all[Math.max(0, Math.min(run.all.length - 1, now + by))];
  if (entry) go(entry);
}

function search() {
  picture.hits = run.search(byId("query").value);
  hit = lowerBound(picture.hits.length, (i) => picture.hits[i][0], Math.max(0, picture.view[0])) - 1;
  tellHits();
  picture.ask();
}

function tellHits() {
  const count = picture.hits.length;
  byId("hits").textContent = byId("query").value.trim() ? (count ? `${count} hits` : "none") : "";
}

function nextHit(by) {
  if (!picture.hits.length) return;
  hit = (hit + by + picture.hits.length) % picture.hits.length;
  byId("hits").textContent = `${hit + 1} of ${picture.hits.length}`;
  go(picture.hits[hit]);
}

function showFailure() {
  const ops = run.failing.map((i) => run.ops[i]), [told] = run.wrongly;
  if (told !== undefined) {
    look(run.told[told][0] - 200000, run.told[told][0] + 100000);
    return point(run.told[told][0], run.all.find((entry) => entry[1] === "told" && entry[2] === told));
  }
  if (!ops.length) {
    look(run.end - Math.min(run.end, 1000000), run.end);
    return point(run.end);
  }
  const from = Math.min(...ops.map((op) => op[0])), to = Math.max(...ops.map((op) => (op[1] < 0 ? op[0] : op[1])));
  const room = Math.max(10000, (to - from) * 0.6);
  look(from - room, to + room);
  const last = run.failing[run.failing.length - 1];
  point(run.ops[last][0], run.all.find((entry) => entry[1] === "ops" && entry[2] === last));
}

// What is under a point of the canvas, as an entry of `all` would have it.
function under(x, y) {
  const t = picture.time(x), near = (picture.view[1] - picture.view[0]) * 0.004;
  const lane = picture.lanes.find((lane) => y >= lane.y && y < lane.y + lane.h);
  if (lane && lane.kind === "client") {
    let best = -1;
    run.ops.forEach((op, i) => {
      if (op[2] === lane.number && op[0] - near <= t && t <= (op[1] < 0 ? run.end : op[1]) + near) best = i;
    });
    return best < 0 ? null : [run.ops[best][0], "ops", best];
  }
  if (lane && lane.kind === "watcher") {
    const i = run.told.findIndex((told) => told[1] === lane.number && Math.abs(told[0] - t) < near);
    return i < 0 ? null : [run.told[i][0], "told", i];
  }
  const sign = lane && lane.kind === "member" && y > lane.y + lane.h - 22;
  if (sign || y < TOP) {
    const i = run.marks.findIndex(([at, node, kind]) =>
      Math.abs(at - t) < near && kind !== "log" && kind !== "hash" && (y < TOP ? node < 0 : node === lane.number));
    if (i >= 0) return [run.marks[i][0], "marks", i];
  }
  let best = null, least = 6;
  for (const [m, i, x0, x1, y0, y1] of picture.visible || []) {
    if (y < Math.min(y0, y1) - 5 || y > Math.max(y0, y1) + 5) continue;
    const share = y1 === y0 ? 0 : Math.max(0, Math.min(1, (y - y0) / (y1 - y0)));
    const away = Math.abs(x - (x0 + (x1 - x0) * share));
    if (away < least) [least, best] = [away, [m[0], "messages", i]];
  }
  return best;
}

// The very entry, so that it can be compared.
function entryOf(found) {
  if (!found) return null;
  for (let i = run.at(found[0]); i < run.all.length && run.all[i][0] === found[0]; i++) {
    if (run.all[i][1] === found[1] && run.all[i][2] === found[2]) return run.all[i];
  }
  return null;
}

function listen() {
  const canvas = byId("lanes"), overview = byId("overview"), tip = byId("tip");
  let held = null;
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) move((event.deltaX + event.deltaY) / 1500);
    else zoom(Math.exp(event.deltaY / 400), event.offsetX);
  }, { passive: false });
  canvas.addEventListener("mousedown", (event) => { held = { x: event.offsetX, view: picture.view, moved: false }; });
  addEventListener("mouseup", () => { held = null; });
  canvas.addEventListener("mousemove", (event) => {
    if (held) {
      const by = (event.offsetX - held.x) / (picture.width - LEFT) * (held.view[1] - held.view[0]);
      held.moved ||= Math.abs(event.offsetX - held.x) > 3;
      if (held.moved) look(held.view[0] - by, held.view[1] - by);
    }
    const found = under(event.offsetX, event.offsetY);
    tip.hidden = !found || Boolean(held && held.moved);
    if (!found) return;
    tip.replaceChildren(element("div", seconds(found[0])));
    details(tip, found);
    tip.style.left = Math.max(0, Math.min(event.offsetX + 14, canvas.clientWidth - 470)) + "px";
    tip.style.top = Math.min(event.offsetY + 14, canvas.clientHeight - 80) + "px";
    canvas.dataset.moved = held && held.moved ? "yes" : "";
  });
  canvas.addEventListener("mouseleave", () => { tip.hidden = true; });
  canvas.addEventListener("click", (event) => {
    if (canvas.dataset.moved) return void (canvas.dataset.moved = "");
    canvas.focus();
    point(picture.time(event.offsetX), entryOf(under(event.offsetX, event.offsetY)));
  });
  const seek = (event) => {
    const at = (event.offsetX - LEFT) / (overview.clientWidth - LEFT) * run.end, span = picture.view[1] - picture.view[0];
    look(at - span / 2, at + span / 2);
  };
  overview.addEventListener("mousedown", seek);
  overview.addEventListener("mousemove", (event) => event.buttons && seek(event));
  byId("query").addEventListener("input", search);
  byId("query").addEventListener("keydown", (event) => event.key === "Enter" && nextHit(event.shiftKey ? -1 : 1));
  const buttons = { previous: () => nextHit(-1), next: () => nextHit(1), in: () => zoom(0.5), out: () => zoom(2),
    all: () => look(0, run.end), failing: showFailure };
  for (const [id, act] of Object.entries(buttons)) byId(id).addEventListener("click", act);
  const keys = { "+": buttons.in, "=": buttons.in, "-": buttons.out, 0: buttons.all, f: showFailure, n: () => nextHit(1),
    N: () => nextHit(-1), ArrowLeft: () => move(-0.2), ArrowRight: () => move(0.2), "[": () => step(-1), "]": () => step(1),
    "/": () => byId("query").focus() };
  addEventListener("keydown", (event) => {
    if (event.target === byId("query") || event.ctrlKey || event.metaKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
}

function tellHidden() {
  const count = picture.hidden.size;
  document.querySelector("#filters summary").textContent = "show" + (count ? ` (${count} hidden)` : "");
}

// What there is to show, with how much of it there is.
function filters() {
  const counts = new Map();
  for (const m of run.messages) counts.set(run.kinds[m[2]], (counts.get(run.kinds[m[2]]) || 0) + 1);
  const add = (name, count, colour) => {
    const label = element("label"), box = element("input", undefined, { type: "checkbox", checked: !picture.hidden.has(name) });
    box.onchange = () => {
      picture.hidden[box.checked ? "delete" : "add"](name);
      tellHidden();
      picture.ask();
    };
    const swatch = element("i");
    swatch.style.background = colour;
    label.append(box, swatch, name + " ", element("small", count));
    byId("kinds").append(label);
  };
  if (run.messages.length > 20000) ["MsgHeartbeat", "MsgHeartbeatResp"].forEach((kind) => picture.hidden.add(kind));
  tellHidden();
  for (const [kind, count] of [...counts].sort()) add(kind, count, `var(--${GROUPS[kind] || "reply"})`);
  add("commits", run.places.length, "var(--commit)");
  add("ops", run.ops.length, "var(--write)");
  add("told", run.told.length, "var(--told)");
  for (const kind of ["fault", "power off", "killed", "ended", "failed", "start", "snapshot"]) {
    const count = run.marks.filter((mark) => mark[2] === kind).length;
    if (count) add(kind, count, "var(--bad)");
  }
}

function legend() {
  const colours = { leader: "leader", follower: "follower", candidate: "candidate", precandidate: "pre-candidate",
    down: "down", pause: "stands still", cut: "a link is cut", append: "append", reply: "its answer", vote: "votes",
    beat: "heartbeat", prop: "proposal", index: "read index", snap: "snapshot", write: "write", read: "read",
    unknown: "no clear answer", refused: "refused", told: "watch", commit: "commit" };
  for (const [name, text] of Object.entries(colours)) {
    const swatch = element("i");
    swatch.style.background = `var(--${name})`;
    const label = element("span");
    label.append(swatch, text);
    byId("legend").append(label, " ");
  }
}

byId("title").textContent = run.title;
byId("promise").textContent = run.promise ? "broken: " + run.promise : "passed";
byId("promise").className = run.promise ? "" : "passed";
byId("replay").textContent = `${run.replay}   (commit ${run.commit}, trace ${run.hash})`;
byId("detail").textContent = run.detail || "none";
byId("options").textContent = run.options;
byId("failing").hidden = !run.promise;
filters();
legend();
listen();
look(0, run.end);
point(run.end / 2);
if (run.promise) showFailure();
