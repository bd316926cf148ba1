// What this page has shown is acknowledged, and whoever reads along is counted.

import { byId, plural } from "./page.js";
import { ask } from "./region.js";

const ACKNOWLEDGE = 1000; // ms; at most one a second
const REPEAT = 45_000; // ms; receipts that were lost come back within a minute
const ASK = 5000; // ms

const KEY = "chat-sync.page";

/** This page's name for itself, for its life. */
function name() {
  const made = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  try {
    const known = sessionStorage.getItem(KEY) ?? made;
    sessionStorage.setItem(KEY, known);
    return known;
  } catch {
    return made; // without storage every load of the page is another reader
  }
}

const reader = name();
let told = null; // the position that was acknowledged last
let waiting = null;
let shown = null; // gives the open chat and its copy

/** `now()` gives the open chat's id and copy; `send(frame)` sends. */
export function begin(now, send) {
  shown = { now, send };
  setInterval(() => { told = null; drawn(); }, REPEAT);
  setInterval(count, ASK);
  document.addEventListener("visibilitychange", () => { drawn(); count(); });
}

/** Something was drawn. */
export function drawn() {
  waiting ??= setTimeout(() => {
    waiting = null;
    acknowledge();
  }, ACKNOWLEDGE);
}

/** After a load the server may be another one. */
export function loaded() {
  told = null;
  drawn();
}

function acknowledge() {
  const [chat, copy] = shown.now();
  if (!chat || !copy?.resume || copy.resume === told || document.hidden) return;
  told = copy.resume;
  shown.send({ type: "shown", reader, positions: { [chat]: copy.resume } });
}

async function count() {
  const [chat, copy] = shown.now();
  const newest = copy?.order.at(-1);
  if (!chat || !newest || document.hidden) return draw(0);
  try {
    const response = await ask(`/api/chats/${encodeURIComponent(chat)}/messages/${encodeURIComponent(newest.id)}/receipts`);
    if (chat === shown.now()[0]) draw(response.ok ? (await response.json()).readers : 0);
  } catch {
    draw(0); // offline: nobody knows
  }
}

/** Of oneself alone there is nothing to tell. */
function draw(readers) {
  byId("seen").hidden = readers < 2;
  byId("seen").textContent = readers < 2 ? "" : `Seen by ${plural(readers, "reader")}`;
}
