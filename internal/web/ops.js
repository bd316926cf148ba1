// The operator's page: reads /api/ops every two seconds, and decides about dead letters with the operator's token.

import { byId, dayAndTime, duration, element, keyed, plural } from "./page.js";
import * as session from "./session.js";

const EVERY = 2000;
let view = null;
let open = null; // the reason whose letters are shown
const items = new Map(); // the letters that are shown, by digest

const number = (value) => (value >= 100 ? Math.round(value) : value >= 10 ? value.toFixed(1) : value.toFixed(2)).toString();
const seconds = (value) => (value < 1 ? `${Math.round(value * 1000)} ms` : value < 90 ? `${value.toFixed(1)} s` : duration(value * 1000));
const WORDS = { ok: "ok", slow: "slow", down: "down", unknown: "not known" };

const stages = new Map(); // by name: what of each changes. The elements stay, and with them the focus.

const set = (node, words) => { if (node.textContent !== words) node.textContent = words; };

function newStage({ name, metrics }) {
  const list = element("dl");
  const figures = ["rate", "lag", "age"].map((which) => {
    const metric = metrics[which];
    const link = element(metric ? "a" : "span", metric ? { href: `#${metric}`, title: `${metric}, of ${metrics.service}` } : {});
    const [term, figure] = [element("dt", { textContent: which }), element("dd", {}, link)];
    list.append(term, figure);
    return [which, { term, figure, link }];
  });
  const how = element("span", { className: "how" });
  const words = element("p");
  const item = element("li", { className: "stage" }, element("h3", {}, name, how), list, words);
  byId("stages").append(item);
  return { item, how, words, figures: Object.fromEntries(figures) };
}

function drawStage(stage) {
  if (!stages.has(stage.name)) stages.set(stage.name, newStage(stage));
  const { item, how, words, figures } = stages.get(stage.name);
  item.dataset.how = stage.how;
  set(how, WORDS[stage.how]);
  set(words, stage.words);
  const shown = { rate: (value) => `${number(value)} /s`, lag: seconds, age: seconds };
  for (const [which, { term, figure, link }] of Object.entries(figures)) {
    const value = stage[which];
    term.hidden = figure.hidden = value === null;
    if (value !== null) set(link, shown[which](value));
  }
}

/** Nobody answers: what stands there is old, and says so. */
function forgetStages() {
  document.body.classList.add("old");
  for (const { item, how } of stages.values()) {
    item.dataset.how = "unknown";
    set(how, WORDS.unknown);
  }
}

function spark(id, points, format) {
  const most = Math.max(...points, 0.001);
  const from = 450 - points.length;
  const line = points.map((value, at) => `${from + at},${58 - (value / most) * 54}`).join(" L");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", points.length ? `M${from},60 L${line} L449,60 Z` : "");
  byId(id).replaceChildren(path);
  const words = points.length ? `now ${format(points.at(-1))}, at most ${format(most)}` : "no figures yet";
  byId(id).setAttribute("aria-label", words);
  byId(`${id}-words`).textContent = words;
}

function draw() {
  byId("where").textContent = `region ${view.region}, ${view.pod}`;
  view.stages.forEach(drawStage);
  const worst = ["down", "slow", "unknown"].find((how) => view.stages.some((stage) => stage.how === how)) ?? "ok";
  const letters = view.dead_letters.filter(({ state }) => state === "open").reduce((sum, { count }) => sum + count, 0);
  const well = letters ? `all well, ${plural(letters, "dead letter")} open` : "all well";
  chip({ ok: "live", slow: "behind", down: "offline", unknown: "idle" }[worst], { ok: well, slow: "slow", down: "something is down", unknown: "not all is known yet" }[worst]);
  byId("leader").textContent = view.leader?.name ?? "nobody";
  byId("leader-words").textContent = view.leader
    ? `since ${view.leader.since ? dayAndTime(view.leader.since) : "?"}; its markers say so every second` : "no marker has come yet";
  byId("drift").textContent = view.drift === null ? "not known" : plural(view.drift, "row");
  byId("drift-words").textContent = view.verified_through
    ? `verified through ${dayAndTime(view.verified_through)}` : "no whole comparison with the source is done yet";
  byId("regions-words").textContent = regions(view);
  spark("rate", view.history.map((point) => point.rate), (value) => `${number(value)} rows/s`);
  spark("lag", view.history.map((point) => point.lag), seconds);
  document.body.classList.remove("old");
  byId("token-label").hidden = view.decisions !== "operator_token";
  set(byId("writes"), {
    nobody: "Decisions are made with chat-sync dead-letters, or here once CHAT_SYNC_OPERATOR_TOKEN is set.",
    operator_token: "Decisions need the operator's token.",
    operators: "",
  }[view.decisions]);
  drawGroups();
}

/** What is known of the regions' copies; nothing where there is one alone. */
function regions({ differing, compared_through: through }) {
  if (differing === null) return "";
  const how = differing ? `${plural(differing, "chat")} not as in another region` : "as in the other regions";
  return through ? `${how}, compared through ${dayAndTime(through)}` : "not compared with all other regions yet";
}

function chip(state, words) {
  byId("chip").dataset.state = state;
  if (byId("state").textContent !== words) byId("state").textContent = words;
}

// ---- dead letters ----

const groups = new Map(); // a button each, by reason

function drawGroups() {
  const states = Object.groupBy(view.dead_letters, ({ reason }) => reason);
  byId("no-letters").hidden = view.dead_letters.length > 0;
  const rows = Object.entries(states).map(([reason, some]) => ({
    key: reason, reason, mark: `${reason}: ${some.map(({ state, count }) => `${count} ${state}`).join(", ")}`,
  }));
  const changed = rows.find(({ reason, mark }) => reason === open && groups.get(reason)?.mark !== mark);
  keyed(byId("groups"), rows, groups, (item, { reason, mark }) => {
    if (!item.firstChild) item.append(element("button", { type: "button", onclick: () => show(reason) }));
    item.firstChild.textContent = mark;
    item.firstChild.setAttribute("aria-pressed", String(reason === open));
  });
  if (changed) show(open);
}

async function show(reason) {
  open = reason;
  for (const [of, item] of groups) item.firstChild.setAttribute("aria-pressed", String(of === reason));
  byId("group").hidden = false;
  byId("group-title").textContent = reason;
  const letters = await lettersOf(reason);
  if (open !== reason) return;
  if (!letters) return say("The dead letters cannot be read now.");
  // Those that have not changed stay, with what somebody has opened or typed there.
  const rows = letters.map((letter) => ({ key: letter.digest, mark: `${letter.state} ${letter.note} ${view.decisions}`, letter }));
  keyed(byId("letters"), rows, items, (item, { letter }) => item.replaceChildren(...drawLetter(letter)));
  drawAll(letters.filter((letter) => letter.state === "open").map((letter) => letter.digest));
}

let undecided = [];

/** All at once, where there are several. The field stays, with what somebody has typed there, as long as it is of this reason. */
function drawAll(digests) {
  undecided = digests;
  const place = byId("all");
  if (place.dataset.reason !== open) place.replaceChildren(decisions("", "", () => undecided));
  place.dataset.reason = open;
  place.hidden = view.decisions === "nobody" || digests.length < 2;
  const [again, away] = place.querySelectorAll("button");
  again.textContent = `Try all ${digests.length} open ones again`;
  away.textContent = `Discard all ${digests.length}`;
}

function drawLetter(letter) {
  const { digest, state, detail, note, topic, partition, offset, raw, raw_length, dead_lettered_at } = letter;
  const parts = [
    element("p", {}, element("b", { textContent: digest }), ` ${state}, `,
      element("time", { dateTime: dead_lettered_at, title: dead_lettered_at, textContent: dayAndTime(dead_lettered_at) }),
      `, ${topic}[${partition}]@${offset}`),
    element("p", { className: "faint", textContent: note ? `${detail}. ${note}` : detail }),
    element("details", {}, element("summary", { textContent: `what it holds, ${raw_length} bytes` }), element("pre", { textContent: raw })),
  ];
  if (view.decisions !== "nobody" && state !== "resolved") parts.push(decisions("Try again", "Discard", () => [digest]));
  return parts;
}

/** The buttons that decide about the letters that `which` gives when they are pressed. */
function decisions(again, away, which) {
  const why = element("input", { placeholder: "Why it may be discarded" });
  why.setAttribute("aria-label", "Why it may be discarded");
  return element("div", { className: "do" },
    element("button", { type: "button", textContent: again, onclick: () => decide(which(), { action: "retry" }) }),
    why,
    element("button", { type: "button", textContent: away, onclick: () => decide(which(), { action: "discard", note: why.value }) }));
}

async function decide(digests, decision) {
  // Who has signed in shows a cookie, and nothing else.
  const shown = view.decisions === "operator_token" ? { authorization: `Bearer ${byId("token").value}` } : {};
  const what = digests.length === 1 ? digests[0] : plural(digests.length, "letter");
  for (const digest of digests) {
    const response = await fetch(`/api/ops/dead-letters/${encodeURIComponent(digest)}`, {
      method: "POST",
      headers: { "content-type": "application/json", ...shown },
      body: JSON.stringify(decision),
    });
    if (!response.ok) return say((await response.json()).error.message);
  }
  say(decision.action === "retry" ? `trying ${what} again …` : `${what}: discarded`);
  if (decision.action === "retry") await outcome(digests);
  if (open) show(open);
}

/** Waits for what becomes of another try: the synchronizer looks for it every second. */
async function outcome(digests) {
  const tried = new Set(digests);
  for (let looks = 0; looks < 30; looks++) {
    await new Promise((done) => setTimeout(done, 1000));
    const letters = ((await lettersOf(open)) ?? []).filter((letter) => tried.has(letter.digest));
    if (!letters.length || letters.some((letter) => letter.state === "retry")) continue;
    const [{ digest, state, note }] = letters;
    if (letters.length === 1) return say(`${digest}: ${state}${note ? `, ${note}` : ""}`);
    const resolved = letters.filter((letter) => letter.state === "resolved").length;
    return say(`${plural(resolved, "letter")} resolved, ${letters.length - resolved} still open`);
  }
  say("Nobody has tried within 30 s; does a synchronizer lead?");
}

/** The newest letters of a reason; null if they cannot be had. */
async function lettersOf(reason) {
  try {
    const response = await fetch(`/api/ops/dead-letters?limit=200&reason=${encodeURIComponent(reason)}`);
    return response.ok ? (await response.json()).letters : null;
  } catch {
    return null;
  }
}

const say = (words) => { byId("said").textContent = words; };

// ---- what the figures are called ----

/** A long name may be broken behind each of its words. */
const breakable = (name) => name.split(/(?<=_)/).flatMap((word) => [word, document.createElement("wbr")]);

/** The table of docs/metrics.md: `name{labels}`, service, what it is. */
async function drawMetrics() {
  const lines = (await (await fetch("/metrics.md")).text()).split("\n");
  const rows = lines.map((line) => line.split("|").map((cell) => cell.trim())).filter((cells) => cells[1]?.startsWith("`"));
  byId("metrics").replaceChildren(...rows.map(([, names, service, is]) => {
    const row = element("tr", {}, element("th", { scope: "row" }), element("td", { textContent: service }), element("td", { textContent: is.replaceAll("`", "") }));
    for (const name of names.split("`").filter((_, at) => at % 2)) {
      row.firstChild.append(element("code", { id: name.split("{")[0] }, ...breakable(name)), " ");
    }
    return row;
  }));
}

async function refused(response) {
  chip("offline", (await response.json()).error.message);
  if (response.status === 401) await session.begin();
}

async function look() {
  try {
    const response = await fetch("/api/ops", { signal: AbortSignal.timeout(5000) });
    if (response.ok) {
      view = await response.json();
      draw();
    } else {
      await refused(response);
    }
  } catch {
    chip("offline", view ? `no answer since ${dayAndTime(view.at)}` : "no answer");
    forgetStages();
  }
  setTimeout(look, EVERY);
}

session.begin();
look();
drawMetrics();
