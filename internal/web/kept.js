// What this tab has shown, over a reload of the page: a position is worth something only beside everything that was
// shown up to it.

import { Copy } from "./copy.js";

const KEY = "chat-sync.shown.1"; // another number for another format
const CHATS = 5; // those that were opened last
const MESSAGES = 500; // a chat with more is loaded again

let wanted = true;

/** `copies` by chat, the one that was opened last at the end; `viewer` is who looks. */
export function keep(viewer, copies) {
  if (!wanted || !viewer) return;
  const chats = [...copies].filter(([, copy]) => isWhole(copy)).slice(-CHATS)
    .map(([chat, copy]) => {
      const { region, title, resume } = copy;
      return { chat, region, title, messages: copy.order, more: !copy.complete, resume };
    });
  try {
    sessionStorage.setItem(KEY, JSON.stringify({ viewer, chats }));
  } catch {
    drop(); // too much, or no storage: the next page loads them again
  }
}

/** Not what lies before a hole, nor what came from far behind: nobody knows whether it is still so. */
function isWhole(copy) {
  return copy.resume && !copy.doubted && copy.order.length <= MESSAGES && copy.shown().length === copy.order.length;
}

/** The copies as they were, by chat; none of what somebody else was shown. */
export function kept(viewer) {
  const copies = new Map();
  try {
    const found = JSON.parse(sessionStorage.getItem(KEY) ?? "null");
    const same = found && JSON.stringify(found.viewer) === JSON.stringify(viewer);
    if (!same) sessionStorage.removeItem(KEY);
    for (const { chat, region, title, ...load } of same ? found.chats : []) {
      const copy = Object.assign(new Copy(), { region, title });
      copy.load({ ...load, outside: [], behind: false });
      copies.set(chat, copy);
    }
  } catch {
    drop(); // damaged, or no storage
  }
  return copies;
}

/** Nothing stays, and nothing is kept any more. */
export function drop() {
  wanted = false;
  try {
    sessionStorage.removeItem(KEY);
  } catch {
    // Without storage there is nothing.
  }
}
