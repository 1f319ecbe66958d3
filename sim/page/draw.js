"use strict";
// A run on a canvas: time from left to right, a lane for every member, client and watcher.

const LEFT = 76, TOP = 20;
const OP_COLOUR = { done: null, refused: "refused", unknown: "unknown" };
// More arrows than these have no heads, and no words.
const HEADS_MAX = 1500, WORDS_MAX = 90;

class Picture {
  constructor(run, canvas, overview) {
    Object.assign(this, { run, canvas, overview });
    this.view = [0, run.end];
    this.hidden = new Set();
    this.cursor = 0;
    this.chosen = null;
    this.hits = [];
    this.readColours();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.readColours(); this.ask(); });
    new ResizeObserver(() => this.ask()).observe(canvas);
  }

  readColours() {
    const style = getComputedStyle(document.documentElement);
    this.colour = {};
    for (const name of ["back", "panel", "edge", "text", "faint", "follower", "precandidate", "candidate", "leader", "down",
      "pause", "cut", "bad", "cursor", "hit", "write", "read", "unknown", "refused", "told", "append", "reply", "vote", "beat",
      "prop", "snap", "index", "commit"]) {
      this.colour[name] = style.getPropertyValue("--" + name).trim();
    }
    this.overviewPicture = null;
  }

  ask() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => { this.asked = false; this.draw(); });
  }

  // Lanes share the height: members get most of it.
  layout() {
    const { run } = this, height = this.canvas.clientHeight - TOP - 6;
    const others = run.askers.length * 3 + run.tellers.length * 2;
    const unit = Math.max(4, Math.min(11, height / (run.nodes * 9 + others)));
    this.lanes = [];
    let y = TOP;
    const add = (kind, number, name, units) => {
      const h = unit * units;
      this.lanes.push({ kind, number, name, y, h, middle: y + h / 2 });
      y += h;
    };
    const left = Math.max(unit * 9, Math.min(150, (height - others * unit) / Math.max(1, run.nodes)));
    for (let n = 0; n < run.nodes; n++) add("member", n, "n" + (n + 1), left / unit);
    for (const c of run.askers) add("client", c, "client " + c, 3);
    for (const w of run.tellers) add("watcher", w, "watcher " + w, 2);
    this.bottom = y;
  }

  x(us) {
    return LEFT + ((us - this.view[0]) / (this.view[1] - this.view[0])) * (this.width - LEFT - 8);
  }

  time(x) {
    return this.view[0] + ((x - LEFT) / (this.width - LEFT - 8)) * (this.view[1] - this.view[0]);
  }

  lane(kind, number) {
    return this.lanes.find((lane) => lane.kind === kind && lane.number === number);
  }

  draw() {
    const ratio = devicePixelRatio || 1, { canvas } = this;
    this.width = canvas.clientWidth;
    canvas.width = this.width * ratio;
    canvas.height = canvas.clientHeight * ratio;
    const g = (this.g = canvas.getContext("2d"));
    g.scale(ratio, ratio);
    g.font = '11px system-ui, "DejaVu Sans", sans-serif';
    g.textBaseline = "middle";
    this.layout();
    g.fillStyle = this.colour.back;
    g.fillRect(0, 0, this.width, canvas.clientHeight);
    g.save();
    g.beginPath();
    g.rect(LEFT, 0, this.width - LEFT, canvas.clientHeight);
    g.clip();
    [this.spine, this.terms] = [[], []];
    for (const lane of this.lanes) if (lane.kind === "member") this.member(lane);
    this.messages();
    this.spines();
    for (const lane of this.lanes) {
      if (lane.kind === "member") this.commits(lane);
      if (lane.kind === "client") this.client(lane);
      if (lane.kind === "watcher") this.watcher(lane);
    }
    this.marks();
    this.failure();
    this.lines();
    g.restore();
    this.names();
    this.scale();
    this.drawOverview();
  }

  box(from, to, y, h, colour) {
    const left = Math.max(LEFT, this.x(from)), right = Math.min(this.width, this.x(to));
    if (right < LEFT || left > this.width) return;
    this.g.fillStyle = colour;
    this.g.fillRect(left, y, Math.max(1, right - left), h);
  }

  // Role and term as the ground of a lane; on it when it was down, paused or cut off.
  member(lane) {
    const { run, g, colour } = this, n = lane.number, [from, to] = this.view;
    const top = lane.y + 3, h = lane.h - 6;
    g.fillStyle = colour.panel;
    g.fillRect(LEFT, top, this.width, h);
    for (const [start, end] of run.lives[n]) {
      if (end < from || start > to) continue;
      const places = run.placesOf[n];
      let at = Math.max(0, lowerBound(places.length, (i) => places[i][0], Math.max(start, from)) - 1);
      let last = null, since = start;
      const labels = [];
      const finish = (until) => {
        if (last === null) return;
        this.box(since, until, top, h, colour[ROLES[last[2]]]);
        this.spine.push([since, until, lane.middle - 4, 8, colour[ROLES[last[2]]]]);
        labels.push([since, until, "term " + last[3]]);
      };
      for (; at < places.length && places[at][0] <= Math.min(end, to); at++) {
        const place = places[at];
        if (place[0] < start) continue;
        if (last === null || last[2] !== place[2] || last[3] !== place[3]) {
          finish(place[0]);
          [last, since] = [place, last === null ? start : place[0]];
        }
      }
      if (last === null) last = places[Math.min(at, places.length - 1)] || null;
      finish(Math.min(end, to));
      let free = -1;
      for (const [since, until, label] of labels) {
        const left = Math.max(LEFT, this.x(since)) + 3;
        if (this.x(until) - left > 42 && left > free) {
          this.terms.push([label, left, top + 8]);
          free = left + 46;
        }
      }
    }
    for (const [start, end, who] of run.pauses) {
      if (who === n && end > from && start < to) this.box(start, end, top, h, colour.pause);
    }
    this.down(lane, top, h);
    for (const [start, end, a, b] of run.cuts) {
      if (a === n || b === n) this.box(start, end < 0 ? run.end : end, a === n ? lane.y + lane.h - 5 : lane.y + 1, 3, colour.cut);
    }
  }

  // Over the arrows, so that a crowd of them hides neither roles nor terms.
  spines() {
    const isCrowd = this.visible.length >= HEADS_MAX;
    for (const [since, until, y, h, colour] of this.spine) if (isCrowd) this.box(since, until, y, h, colour);
    const { g, colour } = this;
    for (const [label, x, y] of this.terms) {
      g.globalAlpha = 0.75;
      g.fillStyle = colour.back;
      g.fillRect(x - 2, y - 7, g.measureText(label).width + 4, 14);
      g.globalAlpha = 1;
      g.fillStyle = colour.text;
      g.fillText(label, x, y);
    }
  }

  // Where the commit index moved: a dot, and the index if there is room.
  commits(lane) {
    const { run, g, colour } = this, places = run.placesOf[lane.number];
    if (this.hidden.has("commits")) return;
    g.fillStyle = colour.commit;
    let last = -9, free = -9;
    for (let i = lowerBound(places.length, (i) => places[i][0], this.view[0]); i < places.length; i++) {
      const place = places[i], x = this.x(place[0]);
      if (place[0] > this.view[1]) break;
      if ((i > 0 && places[i - 1][5] === place[5]) || x - last < 3) continue;
      last = x;
      g.beginPath();
      g.arc(x, lane.middle, 2.5, 0, 7);
      g.fill();
      const text = String(place[5]), w = g.measureText(text).width;
      if (x - w > free + 6 && lane.h > 40) {
        g.fillText(text, x - w - 5, lane.middle - 8);
        free = x;
      }
    }
  }

  down(lane, top, h) {
    const { run, g, colour } = this;
    let last = 0;
    for (const [start, end] of [...run.lives[lane.number], [run.end, run.end]]) {
      if (start > last && start > this.view[0] && last < this.view[1]) {
        this.box(last, start, top, h, colour.back);
        const left = Math.max(LEFT, this.x(last)), right = Math.min(this.width, this.x(start));
        g.save();
        g.beginPath();
        g.rect(left, top, right - left, h);
        g.clip();
        g.strokeStyle = colour.down;
        g.beginPath();
        for (let x = left - h - ((left - h) % 9); x < right; x += 9) {
          g.moveTo(x, top + h);
          g.lineTo(x + h, top);
        }
        g.stroke();
        g.restore();
      }
      last = end;
    }
  }

  // Arrows, one path for each colour. Those that fall on the same pixels are drawn once.
  messages() {
    const { run, g } = this, paths = {}, seen = new Set();
    const lanes = [];
    for (let n = 0; n < run.nodes; n++) lanes.push(this.lane("member", n).middle);
    const visible = [], sent = (us) => lowerBound(run.messages.length, (i) => run.messages[i][0], us);
    const coarse = sent(this.view[1]) - sent(this.view[0]) > 20000 ? 3 : 1;
    run.messagesBetween(this.view[0], this.view[1], (m, i) => {
      const group = GROUPS[run.kinds[m[2]]] || "reply";
      if (this.hidden.has(run.kinds[m[2]]) || m[3] >= run.nodes || m[4] >= run.nodes) return;
      const x0 = this.x(m[0]), x1 = this.x(m[1] < 0 ? m[0] + run.typical : m[1]);
      const dx = Math.min(4095, Math.round((x1 - x0) / coarse));
      const key = ((((m[2] * 16 + m[3]) * 16 + m[4]) * 2 + (m[8] ? 1 : 0)) * 8192 + Math.round(Math.max(-2000, x0) / coarse) + 2000) * 4096 + dx;
      if (seen.has(key)) return;
      seen.add(key);
      visible.push([m, i, x0, x1, lanes[m[3]], lanes[m[4]], group]);
    });
    this.visible = visible;
    const hasHeads = visible.length < HEADS_MAX, thin = visible.length > 6000;
    for (const [m, , x0, x1, y0, y1, group] of visible) {
      const path = (paths[group] ||= { lines: new Path2D(), lost: new Path2D(), heads: new Path2D() });
      if (m[8]) {
        // A lost one ends before its time.
        const x = x0 + (x1 - x0) * 0.6, y = y0 + (y1 - y0) * 0.6;
        path.lost.moveTo(x0, y0);
        path.lost.lineTo(x, y);
        if (hasHeads) path.heads.rect(x - 2, y - 2, 4, 4);
        continue;
      }
      path.lines.moveTo(x0, y0);
      path.lines.lineTo(x1, y1);
      if (hasHeads) head(path.heads, x0, y0, x1, y1);
    }
    const alpha = thin ? 0.35 : visible.length > 1500 ? 0.6 : 0.9;
    for (const group of ["beat", "reply", "append", "index", "prop", "vote", "snap"]) {
      const path = paths[group];
      if (!path) continue;
      // In a crowd, what is said all the time is the least of it.
      g.globalAlpha = group === "beat" && !hasHeads ? alpha / 4 : alpha;
      g.strokeStyle = g.fillStyle = this.colour[group];
      g.lineWidth = group === "snap" ? 2 : 1;
      g.stroke(path.lines);
      g.setLineDash([3, 3]);
      g.stroke(path.lost);
      g.setLineDash([]);
      g.fill(path.heads);
    }
    g.globalAlpha = 1;
    g.lineWidth = 1;
    if (visible.length < WORDS_MAX) this.words(visible);
    if (this.chosen && this.chosen[1] === "messages") this.emphasis(run.messages[this.chosen[2]], lanes);
  }

  words(visible) {
    const { g, run } = this, taken = [];
    for (const [m, , x0, x1, y0, y1, group] of visible) {
      const text = run.kinds[m[2]].slice(3) + (m[6] ? " " + m[6] : "") + (m[7] ? "+" + m[7] : "");
      const x = x0 + (x1 - x0) * 0.3 + 4, y = y0 + (y1 - y0) * 0.3, w = g.measureText(text).width;
      if (taken.some(([a, b, c]) => Math.abs(b - y) < 11 && x < a + c && a < x + w)) continue;
      taken.push([x, y, w]);
      g.fillStyle = this.colour[group];
      g.fillText(text, x, y);
    }
  }

  emphasis(m, lanes) {
    const { g } = this;
    g.strokeStyle = this.colour.cursor;
    g.lineWidth = 3;
    g.beginPath();
    g.moveTo(this.x(m[0]), lanes[m[3]]);
    g.lineTo(this.x(m[1] < 0 ? m[0] + this.run.typical : m[1]), lanes[m[4]]);
    g.stroke();
    g.lineWidth = 1;
  }

  opColour(op) {
    const isRead = op[6].startsWith("Get") || op[6].startsWith("Range");
    return this.colour[OP_COLOUR[ENDS[op[4]]] || (isRead ? "read" : "write")];
  }

  client(lane) {
    const { run, g, colour } = this, [from, to] = this.view;
    if (this.hidden.has("ops")) return;
    g.strokeStyle = colour.edge;
    g.strokeRect(LEFT, lane.y, this.width, 0);
    run.ops.forEach((op, i) => {
      const end = op[1] < 0 ? run.end : op[1];
      if (op[2] !== lane.number || end < from || op[0] > to) return;
      const x = this.x(op[0]), w = Math.max(2, this.x(end) - x);
      const isHit = this.chosen && this.chosen[1] === "ops" && this.chosen[2] === i;
      g.fillStyle = this.opColour(op);
      g.globalAlpha = isHit ? 1 : 0.82;
      g.fillRect(x, lane.y + 4, w, lane.h - 8);
      g.globalAlpha = 1;
      if (isHit) {
        g.strokeStyle = colour.cursor;
        g.strokeRect(x - 1, lane.y + 3, w + 2, lane.h - 6);
      }
      const text = short(op[6]) + (op[4] === 0 ? " r" + op[5] : "");
      if (w > 26 && lane.h > 14) {
        g.save();
        g.beginPath();
        g.rect(x, lane.y, w, lane.h);
        g.clip();
        g.fillStyle = "#fff";
        g.fillText(text, x + 3, lane.middle);
        g.restore();
      }
    });
  }

  watcher(lane) {
    const { run, g, colour } = this, [from, to] = this.view;
    if (this.hidden.has("told")) return;
    for (const [start, end, watcher] of run.streams) {
      if (watcher === lane.number) this.box(start, end < 0 ? run.end : end, lane.middle - 1, 2, colour.told);
    }
    g.fillStyle = colour.told;
    let last = -9;
    for (let i = lowerBound(run.told.length, (i) => run.told[i][0], from); i < run.told.length && run.told[i][0] <= to; i++) {
      const told = run.told[i], x = this.x(told[0]);
      if (told[1] !== lane.number || (x - last < 1 && told[4] === 0)) continue;
      last = x;
      const h = told[4] > 0 ? lane.h - 6 : 4;
      g.fillRect(x - 1, lane.middle - h / 2, 2, h);
    }
  }

  // Faults and the like, as signs on the lanes; those of everybody at the top.
  marks() {
    const { run, g, colour } = this, [from, to] = this.view;
    const signs = { "power off": "▼", killed: "✖", ended: "◼", failed: "⚠", fault: "⚡", start: "▲", "start cut short": "△",
      snapshot: "▣", heal: "✚", mend: "∞" };
    g.textAlign = "center";
    g.font = '13px "DejaVu Sans", system-ui, sans-serif';
    const taken = {};
    for (let i = lowerBound(run.marks.length, (i) => run.marks[i][0], from); i < run.marks.length && run.marks[i][0] <= to; i++) {
      const [at, node, kind] = run.marks[i], sign = signs[kind], x = this.x(at);
      if (!sign || this.hidden.has(kind) || x - (taken[node + kind] || -99) < 9) continue;
      taken[node + kind] = x;
      const lane = node >= 0 && this.lane("member", node);
      const isBad = !["start", "snapshot", "heal", "mend"].includes(kind);
      g.fillStyle = isBad ? colour.bad : colour.text;
      g.fillText(sign, x, lane ? lane.y + lane.h - 13 : TOP - 6);
    }
    g.textAlign = "left";
    g.font = '11px system-ui, "DejaVu Sans", sans-serif';
  }

  failure() {
    const { run, g, colour } = this;
    if (!run.promise) return;
    g.strokeStyle = g.fillStyle = colour.bad;
    g.lineWidth = 2;
    for (const i of run.failing) {
      const op = run.ops[i], lane = this.lane("client", op[2]);
      if (!lane) continue;
      const x = this.x(op[0]), w = Math.max(4, this.x(op[1] < 0 ? run.end : op[1]) - x);
      g.strokeRect(x - 3, lane.y + 1, w + 6, lane.h - 2);
      g.beginPath();
      g.moveTo(x + w / 2 - 6, lane.y - 9);
      g.lineTo(x + w / 2 + 6, lane.y - 9);
      g.lineTo(x + w / 2, lane.y);
      g.fill();
    }
    for (const i of run.wrongly) {
      const [at, watcher] = run.told[i], lane = this.lane("watcher", watcher);
      if (!lane) continue;
      const x = this.x(at);
      g.strokeRect(x - 5, lane.y, 10, lane.h);
      g.beginPath();
      g.moveTo(x - 6, lane.y - 10);
      g.lineTo(x + 6, lane.y - 10);
      g.lineTo(x, lane.y - 1);
      g.fill();
    }
    if (!run.failing.length && !run.wrongly.length) {
      const x = this.x(run.end);
      g.beginPath();
      g.moveTo(x, TOP);
      g.lineTo(x, this.bottom);
      g.stroke();
    }
    g.lineWidth = 1;
  }

  lines() {
    const { g, colour } = this, h = this.canvas.clientHeight;
    g.fillStyle = colour.hit;
    for (const [at] of this.hits.length < 5000 ? this.hits : []) {
      const x = this.x(at);
      if (x >= LEFT && x <= this.width) g.fillRect(x, TOP - 4, 1, 5);
    }
    const x = this.x(this.cursor);
    g.fillStyle = colour.cursor;
    g.fillRect(x, TOP - 4, 1, h);
  }

  names() {
    const { g, colour, run } = this;
    g.fillStyle = colour.text;
    for (const lane of this.lanes) {
      g.fillStyle = lane.kind === "member" ? colour.text : colour.faint;
      g.font = (lane.kind === "member" ? "bold 13px" : "11px") + ' system-ui, "DejaVu Sans", sans-serif';
      g.fillText(lane.name, 8, lane.middle);
      if (lane.kind !== "member") continue;
      const { place, isUp } = run.state(lane.number, this.cursor);
      g.font = '10px system-ui, "DejaVu Sans", sans-serif';
      g.fillStyle = colour.faint;
      g.fillText(isUp && place ? ROLES[place[2]] : "down", 8, lane.middle + 14);
    }
    g.font = '11px system-ui, "DejaVu Sans", sans-serif';
  }

  scale() {
    const { g, colour } = this, span = this.view[1] - this.view[0];
    const rough = (span / (this.width - LEFT)) * 110;
    const power = 10 ** Math.floor(Math.log10(Math.max(1, rough)));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough) || power * 10;
    g.fillStyle = colour.faint;
    for (let t = Math.ceil(this.view[0] / step) * step; t < this.view[1]; t += step) {
      const x = this.x(t);
      g.fillRect(x, 12, 1, 6);
      g.fillText(step >= 1e5 ? (t / 1e6).toFixed(1) + " s" : (t / 1e3).toFixed(step >= 1000 ? 0 : 3) + " ms", x + 3, 9);
    }
  }

  // The whole run in a strip, drawn once: how much happens, when members are down, where the window is.
  drawOverview() {
    const { run, overview, colour } = this, ratio = devicePixelRatio || 1;
    const width = overview.clientWidth, height = overview.clientHeight;
    if (width <= LEFT || height === 0) return;
    if (!this.overviewPicture || this.overviewWidth !== width) {
      const bins = new Float64Array(Math.max(1, width - LEFT));
      const bin = (t) => Math.min(bins.length - 1, Math.floor((t / Math.max(1, run.end)) * bins.length));
      for (const entry of run.all) bins[bin(entry[0])] += 1;
      const most = Math.max(1, ...bins);
      this.overviewPicture = document.createElement("canvas");
      [this.overviewPicture.width, this.overviewPicture.height] = [width * ratio, height * ratio];
      const g = this.overviewPicture.getContext("2d");
      g.scale(ratio, ratio);
      g.fillStyle = colour.panel;
      g.fillRect(0, 0, width, height);
      const place = (t) => LEFT + (t / Math.max(1, run.end)) * (width - LEFT);
      g.fillStyle = colour.reply;
      // (By the root: one busy moment must not make all others look idle.)
      const tall = (n) => Math.sqrt(n / most) * (height - 16);
      bins.forEach((n, i) => g.fillRect(LEFT + i, height - tall(n), 1, tall(n)));
      g.fillStyle = colour.cut;
      for (const [from, to] of run.cuts) g.fillRect(place(from), 2, Math.max(1, place(to < 0 ? run.end : to) - place(from)), 3);
      for (const [at, , kind] of run.marks) {
        if (["power off", "killed", "failed"].includes(kind)) g.fillRect(place(at), 6, 2, 8);
      }
      g.fillStyle = colour.bad;
      for (const i of run.failing) g.fillRect(place(run.ops[i][0]) - 1, 0, 3, height);
      for (const i of run.wrongly) g.fillRect(place(run.told[i][0]) - 1, 0, 3, height);
      this.overviewWidth = width;
    }
    [overview.width, overview.height] = [width * ratio, height * ratio];
    const g = overview.getContext("2d");
    g.drawImage(this.overviewPicture, 0, 0);
    g.scale(ratio, ratio);
    const place = (t) => LEFT + (t / Math.max(1, run.end)) * (width - LEFT);
    g.strokeStyle = colour.cursor;
    g.lineWidth = 2;
    g.strokeRect(place(this.view[0]), 1, Math.max(3, place(this.view[1]) - place(this.view[0])), height - 2);
  }
}

function head(path, x0, y0, x1, y1) {
  const length = Math.hypot(x1 - x0, y1 - y0) || 1, ux = (x1 - x0) / length, uy = (y1 - y0) / length;
  path.moveTo(x1, y1);
  path.lineTo(x1 - ux * 7 - uy * 3, y1 - uy * 7 + ux * 3);
  path.lineTo(x1 - ux * 7 + uy * 3, y1 - uy * 7 - ux * 3);
  path.closePath();
}

// "put k1" for a question in full.
function short(question) {
  const word = question.match(/^\w+/), key = question.match(/key: b"(\w+)"/);
  return (word ? word[0].toLowerCase() : "") + (key ? " " + key[1] : "");
}
