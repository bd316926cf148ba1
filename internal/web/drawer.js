// The drawer with the earlier versions of a message, the difference from one to the next marked.

import { byId, dayAndTime, element } from "./page.js";
import { ask } from "./region.js";

const words = (text) => text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [];
const MOST = 2000; // words; beyond that the table of the comparison gets too large

/** What became of a text: pieces that stayed, came (`ins`) or went (`del`). Longest common subsequence of words. */
export function difference(old, now) {
  let [a, b] = [words(old), words(now)];
  if (a.length > MOST || b.length > MOST) return [["del", old], ["ins", now]];
  const lengths = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      lengths[i][j] = a[i] === b[j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
    }
  }
  const pieces = [];
  const add = (kind, word) => {
    if (pieces.at(-1)?.[0] === kind) pieces.at(-1)[1] += word;
    else pieces.push([kind, word]);
  };
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) { add("same", a[i++]); j++; }
    else if (j >= b.length || (i < a.length && lengths[i + 1][j] >= lengths[i][j + 1])) add("del", a[i++]);
    else add("ins", b[j++]);
  }
  return pieces;
}

const drawer = byId("drawer");
let opener = null;
let about = null; // the message whose versions are shown

export async function showVersions(message, from) {
  opener = from;
  about = message;
  const list = byId("versions");
  list.replaceChildren(element("li", { className: "faint", textContent: "Loading …" }));
  drawer.hidden = false;
  byId("close").focus();
  const path = `/api/chats/${encodeURIComponent(message.chat_id)}/messages/${encodeURIComponent(message.id)}/versions`;
  try {
    const response = await ask(path);
    if (!response.ok) throw new Error();
    const { versions } = await response.json();
    if (about !== message) return;
    list.replaceChildren(...versions.map((version, at) => drawVersion(version, versions[at - 1])).reverse());
  } catch {
    list.replaceChildren(element("li", { className: "faint", textContent: "The earlier versions cannot be read now." }));
  }
}

function drawVersion(version, earlier) {
  const when = version.changed_at;
  const title = version.deleted ? "deleted" : earlier ? "edited" : "written";
  const text = element("div", { className: "text", dir: "auto" });
  if (version.deleted) text.textContent = "—";
  else if (!earlier || earlier.deleted) text.textContent = version.text ?? "";
  else {
    for (const [kind, piece] of difference(earlier.text ?? "", version.text ?? "")) {
      text.append(kind === "same" ? piece : element(kind, { textContent: piece }));
    }
  }
  return element("li", {},
    element("p", {}, `${title} `, element("time", { dateTime: when, title: when, textContent: dayAndTime(when) })), text);
}

export function close() {
  if (drawer.hidden) return false;
  drawer.hidden = true;
  about = null;
  byId("versions").replaceChildren();
  opener?.isConnected && opener.focus();
  return true;
}

/** These messages were erased. */
export function forget(messages) {
  if (messages.some((message) => message.chat_id === about?.chat_id && message.id === about.id)) close();
}

byId("close").onclick = close;
