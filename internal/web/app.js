// The reader's page. Whatever people wrote reaches it as text nodes only.

import * as chatList from "./chats.js";
import { Copy, before, erased } from "./copy.js";
import * as drawer from "./drawer.js";
import { keep, kept } from "./kept.js";
import { Link } from "./link.js";
import { announce, byId, duration } from "./page.js";
import { ask, learn, where as region } from "./region.js";
import * as search from "./search.js";
import * as session from "./session.js";
import * as shown from "./shown.js";
import { Thread } from "./thread.js";

const list = byId("messages");
let copies = new Map(); // every chat that was opened, while the tab lives: nothing shown gets older
let chats = [];
let allChats = false; // whether the server knew all of them
let open = null;
let waiting = new Map(); // what has changed since the last frame was drawn, by message
let drawing = false;

const thread = new Thread(list, { older: fetchOlder, showVersions: drawer.showVersions, seen: read });
const link = new Link({
  hear, tell,
  subscriptions: () => (open ? [[open, copies.get(open)?.resume]] : []),
  refused: session.begin,
  signedOut: session.leave,
  reconnected,
});

// ---- frames ----

const GONE = "This chat is not there, or not any more.";
const NOT_HERE = "This region does not have this chat: what is shown may be old.";
const REFUSED = { chat_not_found: GONE, chat_not_here: GONE, chat_deleted: "This chat was deleted." };

function hear(frame) {
  if (frame.type === "chats") return drawChats(frame.chats, frame.complete);
  const copy = copies.get(frame.chat);
  if (!copy || frame.type === "heartbeat") return;
  if (frame.type === "error") {
    copy.refused = true;
    const stays = frame.code === "chat_not_here" && isOfAnother(copy);
    if (!stays && frame.code.startsWith("chat_")) forget(frame.chat);
    if (frame.chat === open) notice(stays ? NOT_HERE : REFUSED[frame.code] ?? frame.message);
    return askAgain(); // the list may have brought it just before this answer
  }
  const shownFrom = copy.floor;
  copy.region = region();
  const changed = frame.type === "load" ? copy.load(frame) : copy.update(frame);
  const gone = changed.filter(erased);
  if (gone.length) forgetErased(gone);
  if (frame.chat !== open) return;
  tellOf(copy);
  if (frame.type === "load") loaded(copy, shownFrom, changed);
  else soon(changed);
}

/** Whether another region has served what is shown of a chat: this one may be about to hear of it. */
const isOfAnother = (copy) => copy?.byId.size > 0 && (copy.region ?? region()) !== region();

/** What is missing of the chat that is open. */
function tellOf(copy) {
  if (copy.byId.size) notice(copy.behind || copy.doubted ? "Some messages may still be missing here." : null);
  else notice(copy.behind ? "Loading …" : "Nothing was written here yet.", copy.behind ? "loading" : "empty");
}

/** A chat that is not this reader's, or not any more: nothing of it stays. */
function forget(chat) {
  const gone = Object.assign(new Copy(), { refused: true });
  copies.set(chat, gone);
  if (chat !== open) return;
  waiting = new Map();
  drawer.close();
  thread.open(gone, null);
}

/** Nothing of these messages stays, wherever this page has it beside the list. */
function forgetErased(gone) {
  for (const place of [drawer, search]) place.forget(gone);
  announce("");
  keep(viewer, copies);
}

/** After a reconnect, what was shown before the load is fetched again, before anything disappears. */
async function loaded(copy, shownFrom, changed) {
  const chat = open;
  if (copy.empty) await fetchOlder(copy);
  while (shownFrom && copy.floor && before(shownFrom, copy.floor) && !thread.atEnd && (await fetchOlder(copy)));
  if (chat !== open) return;
  draw(changed);
  shown.loaded();
  if (thread.target) goTo(thread.target);
}

/** Draws once a frame, however much arrives. */
function soon(changed) {
  for (const message of changed) waiting.set(message.id, message);
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    draw([]);
  });
}

function draw(changed) {
  const all = [...waiting.values(), ...changed];
  waiting = new Map();
  for (const message of all) if (message.edited_at) thread.edits.delete(message.id);
  thread.changed(all);
  countEdits();
  shown.drawn();
}

const WORDS = { live: "live", behind: "behind", idle: "idle", offline: "offline", connecting: "connecting" };

function tell(state, age) {
  const old = age === null || state === "live" || state === "idle" ? "" : `, ${duration(age)} old`;
  const words = state === "behind" && age === null ? "behind, age unknown" : WORDS[state];
  const chip = byId("chip");
  byId("age").textContent = old; // outside of the live region: a screen reader would count the seconds aloud
  chip.dataset.state = state;
  chip.title = {
    live: "Every change of the source arrives here within seconds.",
    idle: "The copy is up to date; nobody has written for a while.",
    behind: "The source could not be read to its end for a while; something newer may be missing.",
    offline: "No connection; trying again.",
    connecting: "Connecting.",
  }[state];
  if (byId("state").textContent !== words) byId("state").textContent = words;
}

function notice(text, kind = "") {
  byId("notice").textContent = text ?? "";
  byId("notice").dataset.kind = kind;
  byId("notice").hidden = !text;
}

// ---- chats ----

function drawChats(all, complete) {
  chats = all;
  allChats = complete;
  const there = new Set(all.map((chat) => chat.id));
  for (const chat of complete ? [...copies.keys()] : []) if (chat !== open && !there.has(chat)) copies.delete(chat);
  chatList.draw(chats, open);
  drawTitle();
  askAgain();
}

/** The open chat was asked for before this pod knew of it, and now it does. */
function askAgain() {
  const copy = copies.get(open);
  if (!copy?.refused || !chatList.find(open)) return;
  copy.refused = false;
  link.subscribe(open, copy.resume);
}

function drawTitle() {
  const [chat, copy] = [chatList.find(open), copies.get(open)];
  if (chat && copy) copy.title = chat.title;
  const before = isOfAnother(copy) ? copy.title : null;
  byId("title").textContent = chat?.title ?? before ?? open ?? "Choose a chat";
  document.title = chat ? `${chat.title} · chat-sync` : "chat-sync";
  // A server that has just started does not know all of them yet.
  if (open && !chat && allChats) notice(isOfAnother(copy) ? NOT_HERE : GONE);
  else if (chat && [GONE, NOT_HERE].includes(byId("notice").textContent)) tellOf(copy);
}

// ---- what the reader has read ----

const READ = "chat-sync.read";

function lastRead(chat) {
  try {
    return JSON.parse(localStorage.getItem(READ) ?? "{}")[chat] ?? null;
  } catch {
    return null; // another program's, or damaged: everything is new then
  }
}

/** The reader has seen the chat up to this message. */
function read(message) {
  const known = lastRead(message.chat_id);
  if (known && !before(known, message)) return;
  try {
    const all = JSON.parse(localStorage.getItem(READ) ?? "{}");
    all[message.chat_id] = { id: message.id, created_at: message.created_at };
    localStorage.setItem(READ, JSON.stringify(all));
  } catch {
    // Without storage every visit begins at the end.
  }
}

// ---- what is fetched ----

/** Fetches the `limit` messages before the oldest that is known without a hole; gives whether there may be more. */
async function fetchOlder(copy, limit = 100) {
  const asked = copy.floor;
  if (copy.complete || (!asked && !copy.empty)) return false;
  const page = await fetchPage(copy, asked, limit);
  if (!page) return false; // the next scroll tries again
  if (page.behind) copy.doubt(asked);
  const came = copy.older(page, asked);
  if (page.behind) readAgain();
  return came && page.more;
}

/** The messages before one, or the last ones; null where they cannot be had now. */
async function fetchPage(copy, asked, limit) {
  const chat = [...copies].find(([, known]) => known === copy)?.[0];
  const query = new URLSearchParams({ limit });
  if (asked) query.set("before", asked.id);
  if (copy.resume) query.set("resume", copy.resume);
  try {
    const response = await ask(`/api/chats/${encodeURIComponent(chat)}/messages?${query}`);
    return response.ok ? await response.json() : null;
  } catch {
    return null; // offline
  }
}

const AGAIN = 5_000; // ms
let again = null;

/** What a store gave of the open chat that was far behind is read until it is as it should be. */
function readAgain(wait = AGAIN) {
  clearTimeout(again);
  const copy = copies.get(open);
  if (!copy?.doubted) return;
  tellOf(copy);
  again = setTimeout(async () => {
    await readDoubted(copy);
    if (copy !== copies.get(open)) return;
    tellOf(copy);
    readAgain(Math.min(2 * wait, 12 * AGAIN));
  }, wait);
}

/** From where it is in doubt to what is shown first; whatever cannot be had now stays in doubt. */
async function readDoubted(copy) {
  const doubted = copy.doubted;
  for (let from = doubted.before, more = true; more; ) {
    const page = await fetchPage(copy, from, 500);
    if (!page || page.behind || doubted !== copy.doubted) return;
    const changed = copy.merge(page.messages);
    if (copy === copies.get(open)) soon(changed);
    from = page.messages[0];
    more = page.more && from && copy.floor && before(copy.floor, from);
  }
  copy.doubted = null;
}

let counting = null;

/** Asks how often the edited messages in the page were edited, a moment after they have come. */
function countEdits() {
  clearTimeout(counting);
  counting = setTimeout(async () => {
    const wanted = thread.edited().slice(0, 100);
    if (!wanted.length) return;
    const chat = open;
    const ids = wanted.map((message) => encodeURIComponent(message.id)).join(",");
    try {
      const response = await ask(`/api/chats/${encodeURIComponent(chat)}/edits?messages=${ids}`);
      if (response.ok && chat === open) thread.setEdits((await response.json()).edits);
    } catch {
      // The word "edited" stands there without its number.
    }
  }, 400);
}

// ---- where the reader is ----

const NOT_NOW = "The linked message cannot be had just now.";
let finding = null;

/** Shows a message, wherever it is; what cannot be had now is asked for again, unless the reader has moved on. */
async function goTo(message) {
  clearTimeout(finding);
  const copy = copies.get(open);
  if (await thread.toMessage(message)) {
    if (byId("notice").textContent === NOT_NOW) tellOf(copy);
  } else if (copy.complete) {
    notice("The linked message is not in this chat.");
  } else {
    notice(NOT_NOW);
    finding = setTimeout(() => { if (copy === copies.get(open) && thread.target === message) goTo(message); }, AGAIN);
  }
  countEdits();
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // a mistyped address names no chat, and says so
  }
}

function route() {
  const [chat, message] = location.hash.replace(/^#\/?/, "").split("/").map(decoded);
  if (search.clear() || message) drawer.close();
  if (chat && chat === open) return message ? goTo(message) : undefined;
  if (open) link.unsubscribe(open);
  const from = open;
  open = chat || null;
  waiting = new Map();
  document.body.classList.toggle("open", Boolean(open));
  notice(open ? "Loading …" : null, "loading");
  const copy = open ? copies.get(open) ?? new Copy() : null;
  if (open) {
    copies.delete(open); // the last one that was opened stands at the end
    copies.set(open, copy);
  }
  thread.open(copy, open && lastRead(open));
  thread.target = message || null;
  drawChats(chats, allChats);
  // On a narrow page the one gives way to the other, and the focus goes along.
  if (!open) return from && chatList.focus();
  if (from !== null || document.activeElement?.closest("nav")) list.focus({ preventScroll: true });
  if (copy.byId.size) {
    notice(null);
    draw([...copy.byId.values()]);
    if (message) goTo(message);
  }
  link.subscribe(open, copy.resume);
  readAgain();
}

list.addEventListener("keydown", (event) => {
  if (event.target !== list) return;
  const step = { ArrowDown: 60, ArrowUp: -60 }[event.key];
  if (event.key === "End") thread.toEnd();
  else if (event.key === "Home") thread.toBeginning();
  else if (step) list.scrollTop += step;
  else return;
  event.preventDefault();
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches?.("input, textarea");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    byId("search").focus();
  }
  if (event.key !== "Escape") return;
  if (drawer.close()) return;
  if (search.clear()) return open ? list.focus() : chatList.focus();
  if (open && !typing) location.hash = "";
});
byId("skip").onclick = () => list.focus();
byId("news").onclick = () => { thread.target = null; thread.held = null; thread.toEnd(); list.focus(); };
byId("back").onclick = () => { location.hash = ""; };
search.begin((chat) => chatList.find(chat)?.title ?? chat);
window.onhashchange = route;
shown.begin(() => [open, copies.get(open)], (frame) => link.send(frame));
learn();
const viewer = await session.begin();

/** Somebody else may have signed in meanwhile, at another tab: what is shown here is not theirs. */
async function reconnected() {
  const now = await session.begin();
  if (viewer && now && JSON.stringify(now) !== JSON.stringify(viewer)) session.leave();
}

if (viewer) copies = new Map([...kept(viewer), ...copies]); // one may have been opened meanwhile
window.onpagehide = () => keep(viewer, copies);
route();
