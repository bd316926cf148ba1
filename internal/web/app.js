// The reader's page. Whatever people wrote reaches it as text nodes only.

import { Copy, before } from "./copy.js";
import { Link } from "./link.js";

const byId = (id) => document.getElementById(id);
const list = byId("messages");
const copies = new Map(); // every chat that was opened, while the page lives: nothing shown gets older
const items = new Map(); // the open chat's list items, by message id
const listed = new Set(); // the chats that were once in the list while they were open
let chats = [];
let open = null;
let target = null; // the message of a deep link
let unseen = new Set();
let asking = false;

const link = new Link(hear, tell, () => (open ? [[open, copies.get(open)?.resume]] : []));

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// ---- frames ----

function hear(frame) {
  if (frame.type === "chats") return drawChats(frame.chats);
  const copy = copies.get(frame.chat);
  if (!copy || frame.type === "heartbeat") return;
  if (frame.type === "error") {
    copy.refused = true;
    return frame.chat === open && notice(frame.message);
  }
  const shownFrom = copy.floor;
  const changed = frame.type === "load" ? copy.load(frame) : copy.update(frame);
  if (frame.chat !== open) return;
  if (copy.byId.size) notice(copy.behind ? "Some messages may still be missing here." : null);
  else notice(copy.behind ? "Loading …" : "Nothing was written here yet.");
  if (frame.type === "load") loaded(copy, shownFrom, changed);
  else draw(changed);
}

/** After a reconnect, what was shown before the load is fetched again, before anything disappears. */
async function loaded(copy, shownFrom, changed) {
  const chat = open;
  while (shownFrom && copy.floor && before(shownFrom, copy.floor) && !atEnd() && (await fetchOlder(copy)));
  if (chat !== open) return;
  draw(changed);
  jumpToTarget();
}

const WORDS = { live: "live", behind: "behind", idle: "idle", offline: "offline", connecting: "connecting" };

function tell(state, age) {
  const old = age === null || state === "live" || state === "idle" ? "" : `, ${duration(age)} old`;
  const words = state === "behind" && age === null ? "behind: not read yet" : WORDS[state];
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

const duration = (ms) =>
  ms < 90_000 ? `${Math.round(ms / 1000)} s` : ms < 5_400_000 ? `${Math.round(ms / 60_000)} min` : `${Math.round(ms / 3_600_000)} h`;

function notice(text) {
  byId("notice").textContent = text ?? "";
  byId("notice").hidden = !text;
}

// ---- chats ----

const address = (chat, message) =>
  `#/${encodeURIComponent(chat)}${message ? `/${encodeURIComponent(message)}` : ""}`;

function drawChats(all) {
  chats = all;
  byId("no-chats").hidden = chats.length > 0;
  const focused = document.activeElement?.closest?.("#chats a")?.getAttribute("href");
  byId("chats").replaceChildren(...chats.map((chat) => {
    const anchor = element("a", { href: address(chat.id) }, element("span", { textContent: chat.title ?? chat.id }));
    if (chat.id === open) anchor.setAttribute("aria-current", "page");
    return element("li", {}, anchor);
  }));
  if (focused) byId("chats").querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  drawTitle();
  // It was asked for before this pod knew of it.
  const copy = copies.get(open);
  if (copy?.refused && chats.some((chat) => chat.id === open)) {
    copy.refused = false;
    link.subscribe(open, copy.resume);
  }
}

function drawTitle() {
  const chat = chats.find((chat) => chat.id === open);
  byId("title").textContent = chat?.title ?? (open ? open : "Choose a chat");
  document.title = chat ? `${chat.title} · chat-sync` : "chat-sync";
  if (chat) listed.add(chat.id);
  // An empty list may be one that was not read yet.
  if (open && !chat && (chats.length || listed.has(open))) notice("This chat is not there, or not any more.");
}

// ---- messages ----

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

function when(message) {
  const time = new Date(message.created_at);
  const recent = Date.now() - time < 20 * 3_600_000;
  return recent ? clock.format(time) : `${day.format(time)}, ${clock.format(time)}`;
}

function fill(item, message) {
  item.className = message.deleted ? "message deleted" : "message";
  item.classList.toggle("target", message.id === target);
  item.dataset.id = message.id;
  item.dataset.version = message.version;
  const parts = [
    element("span", { className: "who", textContent: message.author ?? "somebody" }),
    element("a", { className: "when", href: address(message.chat_id, message.id), title: message.created_at },
      element("time", { dateTime: message.created_at, textContent: when(message) })),
  ];
  if (message.edited_at && !message.deleted) {
    parts.push(element("span", { className: "mark", title: message.edited_at, textContent: "edited" }));
  }
  if (message.parent_id) {
    const parent = copies.get(message.chat_id).byId.get(message.parent_id);
    const words = parent ? `${parent.author ?? "somebody"}: ${parent.deleted ? "deleted" : parent.text}` : "an earlier message";
    parts.push(element("a", { className: "parent", href: address(message.chat_id, message.parent_id), textContent: `↪ ${words}` }));
  }
  const text = element("div", { className: "text", textContent: message.deleted ? "This message was deleted." : message.text ?? "" });
  if (!message.deleted && !message.text) Object.assign(text, { className: "text empty", textContent: "(no text)" });
  item.replaceChildren(...parts, text);
}

const atEnd = () => list.scrollHeight - list.scrollTop - list.clientHeight < 40;

/** Brings the list in step with the copy: `changed` were merged. Keeps the place of whoever reads further up. */
function draw(changed) {
  const copy = copies.get(open);
  const follows = atEnd() || items.size === 0;
  const shown = copy.shown();
  const touched = new Set(changed.map((message) => message.id));
  const wasEmpty = items.size === 0;
  let next = null; // walks backwards, so that each item knows what stands behind it
  for (const message of shown.toReversed()) {
    let item = items.get(message.id);
    const fresh = !item;
    if (fresh) {
      item = element("li");
      items.set(message.id, item);
    }
    if (fresh || touched.has(message.id) || touched.has(message.parent_id)) fill(item, message);
    if (item.nextElementSibling !== next || !item.isConnected) list.insertBefore(item, next);
    if (fresh && !wasEmpty && !follows && touched.has(message.id) && next === null) unseen.add(message.id);
    next = item;
  }
  const ids = new Set(shown.map((message) => message.id));
  for (const [id, item] of items) {
    if (!ids.has(id)) {
      item.remove();
      items.delete(id);
    }
  }
  if (follows && !target) list.scrollTop = list.scrollHeight;
  drawNews();
}

function drawNews() {
  if (atEnd()) unseen.clear();
  byId("news").hidden = unseen.size === 0;
  byId("news").textContent = `${unseen.size} new message${unseen.size === 1 ? "" : "s"} ↓`;
}

/** Fetches the page before the oldest that is known without a hole; gives whether there may be more. */
async function fetchOlder(copy) {
  const asked = copy.floor;
  if (copy.complete || !asked) return false;
  const query = `limit=100&before=${encodeURIComponent(asked.id)}`;
  const response = await fetch(`/api/chats/${encodeURIComponent(asked.chat_id)}/messages?${query}`);
  if (!response.ok) return false;
  return copy.older(await response.json(), asked) && !copy.complete;
}

/** Shows older messages, without a jump; gives whether there may be more. */
async function older() {
  const copy = copies.get(open);
  if (!copy || asking) return false;
  asking = true;
  const chat = open;
  try {
    const more = await fetchOlder(copy);
    if (chat !== open) return false;
    const height = list.scrollHeight - list.scrollTop;
    draw([]);
    list.scrollTop = list.scrollHeight - height;
    return more;
  } catch {
    return false; // offline: the next scroll tries again
  } finally {
    asking = false;
  }
}

async function jumpToTarget() {
  if (!target) return;
  const wanted = target;
  while (target === wanted && !items.has(wanted) && (await older()));
  if (target !== wanted) return;
  const item = items.get(wanted);
  if (!item) return notice("The linked message is not in this chat.");
  item.classList.add("target");
  item.scrollIntoView({ block: "center" });
}

// ---- where the reader is ----

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // a mistyped address names no chat, and says so
  }
}

function route() {
  const [chat, message] = location.hash.replace(/^#\/?/, "").split("/").map(decoded);
  const same = chat && chat === open;
  list.querySelector(".target")?.classList.remove("target");
  target = message || null;
  if (same) return jumpToTarget();
  if (open) link.unsubscribe(open);
  open = chat || null;
  unseen = new Set();
  items.clear();
  list.replaceChildren();
  document.body.classList.toggle("open", Boolean(open));
  notice(open ? "Loading …" : chats.length ? null : "");
  drawChats(chats);
  if (!open) return;
  if (!copies.has(open)) copies.set(open, new Copy());
  const copy = copies.get(open);
  if (copy.byId.size) {
    notice(null);
    draw([...copy.byId.values()]);
    jumpToTarget();
  }
  link.subscribe(open, copy.resume);
}

list.addEventListener("scroll", () => {
  drawNews();
  if (list.scrollTop < 300) older();
});
// Whoever moves by hand is not held at the linked message any more.
for (const move of ["wheel", "touchmove", "pointerdown", "keydown"]) {
  list.addEventListener(move, () => { target = null; }, { passive: true });
}
list.addEventListener("keydown", async (event) => {
  if (event.key === "End") { event.preventDefault(); list.scrollTop = list.scrollHeight; }
  if (event.key !== "Home") return;
  event.preventDefault();
  while (await older());
  list.scrollTop = 0;
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && open) location.hash = "";
});
byId("skip").onclick = () => list.focus();
byId("news").onclick = () => { target = null; list.scrollTop = list.scrollHeight; list.focus(); drawNews(); };
byId("back").onclick = () => { location.hash = ""; };
window.onhashchange = route;
route();
