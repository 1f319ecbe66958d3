"use strict";
// The rows of a run, put in order, and questions to them. Nothing here knows of a screen.

const ROLES = ["follower", "precandidate", "candidate", "leader"];
const ENDS = ["done", "refused", "unknown"];
const FATES = ["", "lost", "link cut", "nobody there", "never arrived"];

// Message kinds by what they are for; each group has a colour.
const GROUPS = {
  MsgApp: "append", MsgAppResp: "reply", MsgVote: "vote", MsgVoteResp: "vote", MsgPreVote: "vote", MsgPreVoteResp: "vote",
  MsgHeartbeat: "beat", MsgHeartbeatResp: "beat", MsgProp: "prop", MsgSnap: "snap", MsgReadIndex: "index",
  MsgReadIndexResp: "index", MsgTimeoutNow: "vote", MsgTransferLeader: "vote",
};

// The first place in a sorted list whose key is at least the value.
function lowerBound(count, key, value) {
  let low = 0, high = count;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (key(middle) < value) low = middle + 1; else high = middle;
  }
  return low;
}

function seconds(us) {
  return (us / 1e6).toFixed(6) + " s";
}

class Run {
  constructor(rows) {
    Object.assign(this, rows);
    this.messages.sort((a, b) => a[0] - b[0]);
    this.ops.sort((a, b) => a[0] - b[0]);
    this.placesOf = Array.from({ length: this.nodes }, () => []);
    for (const place of this.places) if (this.placesOf[place[1]]) this.placesOf[place[1]].push(place);
    this.lives = this.findLives();
    this.askers = [...new Set(this.ops.map((op) => op[2]))].sort((a, b) => a - b);
    this.tellers = [...new Set(this.streams.map((s) => s[2]))].sort((a, b) => a - b);
    const shows = new Set(this.calls.map(([client, at]) => client + " " + at));
    this.failing = this.ops.map((op, i) => (shows.has(op[2] + " " + op[0]) ? i : -1)).filter((i) => i >= 0);
    this.wrongly = this.findWrongly();
    this.latest = this.blocks(this.messages);
    this.all = this.order();
    // A lost message has no arrival: it is drawn as if it were as quick as most.
    const delays = this.messages.slice(0, 5000).filter((m) => m[1] >= 0).map((m) => m[1] - m[0]).sort((a, b) => a - b);
    this.typical = delays[delays.length >> 1] || 1000;
  }

  // Per member, when it was up: [from, to].
  findLives() {
    const lives = Array.from({ length: this.nodes }, () => []);
    for (const [at, node, kind] of this.marks) {
      const last = node >= 0 && lives[node] && lives[node][lives[node].length - 1];
      if (kind === "start" && lives[node]) lives[node].push([at, this.end]);
      if (["power off", "killed", "ended", "start cut short"].includes(kind) && last && last[1] === this.end) last[1] = at;
    }
    return lives;
  }

  // What a watcher was told wrongly, or last, if that is what failed: numbers in `told`.
  findWrongly() {
    if (!this.watch) return [];
    const [node, start, revision] = this.watch, found = [];
    for (const [from, to, watcher, where, first] of this.streams) {
      if (where !== node || first !== start) continue;
      const told = this.told.map((row, i) => i).filter((i) => {
        const [at, who] = this.told[i];
        return who === watcher && from <= at && (to < 0 || at <= to);
      });
      const exact = told.filter((i) => this.told[i][3] === revision && this.told[i][4] > 0);
      found.push(...(exact.length ? exact.slice(0, 1) : told.slice(-1)));
    }
    return found;
  }

  // The latest arrival of every block, so that what began long ago is found without looking at everything.
  blocks(messages) {
    const latest = [];
    messages.forEach((m, i) => {
      const block = i >> 8;
      latest[block] = Math.max(latest[block] || 0, m[1], m[0]);
    });
    return latest;
  }

  // Calls `see(message, number)` for all that touch the time between.
  messagesBetween(from, to, see) {
    const end = lowerBound(this.messages.length, (i) => this.messages[i][0], to);
    for (let block = 0; block << 8 < end; block++) {
      if (this.latest[block] + this.typical < from) continue;
      for (let i = block << 8; i < Math.min(end, (block + 1) << 8); i++) {
        const m = this.messages[i];
        if ((m[1] < 0 ? m[0] + this.typical : m[1]) >= from) see(m, i);
      }
    }
  }

  // Everything with a moment, in order: [moment, list, number].
  order() {
    const all = [];
    for (const list of ["messages", "places", "ops", "told", "marks"]) {
      this[list].forEach((row, i) => all.push([row[0], list, i]));
      if (list === "ops") this.ops.forEach((row, i) => row[1] >= 0 && all.push([row[1], "answers", i]));
    }
    return all.sort((a, b) => a[0] - b[0]);
  }

  at(moment) {
    return lowerBound(this.all.length, (i) => this.all[i][0], moment);
  }

  // One line about an entry of `all`.
  line([, list, i]) {
    switch (list) {
      case "messages": {
        const [, , kind, from, to, term, index, entries, fate] = this.messages[i];
        const more = entries ? " +" + entries : "";
        const end = fate ? " (" + FATES[fate] + ")" : "";
        return `n${from + 1}→n${to + 1} ${this.kinds[kind].slice(3)} term ${term} index ${index}${more}${end}`;
      }
      case "places": {
        const [, node, role, term, , commit, applied, revision] = this.places[i];
        return `n${node + 1} ${ROLES[role]} term ${term} commit ${commit} applied ${applied} rev ${revision}`;
      }
      case "ops": {
        const op = this.ops[i];
        return `c${op[2]}→n${op[3] + 1} ${op[6]}`;
      }
      case "answers": {
        const op = this.ops[i];
        return `c${op[2]}←n${op[3] + 1} ${ENDS[op[4]]} rev ${op[5]} ${op[7]}`;
      }
      case "told": {
        const [, watcher, node, revision, events] = this.told[i];
        return `w${watcher}←n${node + 1} ${events} events to rev ${revision}`;
      }
      default: {
        const [, node, kind, more] = this.marks[i];
        return `${node >= 0 ? "n" + (node + 1) + " " : ""}${kind} ${more}`;
      }
    }
  }

  // What a member is at a moment.
  state(node, moment) {
    const places = this.placesOf[node];
    const at = lowerBound(places.length, (i) => places[i][0], moment + 1) - 1;
    const isUp = this.lives[node].some(([from, to]) => from <= moment && (moment < to || to === this.end));
    const isPaused = this.pauses.some(([from, to, who]) => who === node && from <= moment && moment < to);
    const cuts = this.cuts.filter(([from, to, a, b]) => from <= moment && (to < 0 || moment < to) && (a === node || b === node));
    return { place: at < 0 ? null : places[at], isUp, isPaused, cuts };
  }

  // A name for machine `i` of a link: in the cluster tier clients have links, too.
  host(i) {
    return i < this.nodes ? "n" + (i + 1) : "c" + (i - this.nodes);
  }

  // Whether an entry of `all` is what the words ask for.
  matcher(query) {
    const words = query.trim().toLowerCase();
    const number = words.match(/^(term|t|index|i|revision|rev|r)\s*(\d+)$/);
    if (number) {
      const [what, n] = [number[1][0], Number(number[2])];
      return ([, list, i]) => {
        if (list === "messages") {
          const m = this.messages[i];
          return what === "t" ? m[5] === n : what === "i" && (m[6] === n || (n > m[6] && n <= m[6] + m[7]));
        }
        if (list === "places") {
          const p = this.places[i];
          return what === "t" ? p[3] === n : what === "i" ? p[5] === n || p[6] === n : p[7] === n;
        }
        if (what !== "r") return false;
        return (list === "answers" && this.ops[i][5] === n) || (list === "told" && this.told[i][3] === n);
      };
    }
    const key = /^[kl]\d+$/.test(words) ? `b"${words}"` : null;
    return (entry) => {
      const [, list, i] = entry;
      if (key) {
        const told = list === "told" && this.told[i][5].includes(key);
        return told || (list === "ops" && this.ops[i][6].includes(key)) || (list === "answers" && this.ops[i][6].includes(key));
      }
      return this.line(entry).toLowerCase().includes(words);
    };
  }

  search(query) {
    if (!query.trim()) return [];
    const matches = this.matcher(query);
    return this.all.filter(matches);
  }
}
