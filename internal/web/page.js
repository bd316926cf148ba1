// What every part of the page uses.

export const byId = (id) => document.getElementById(id);

/** An element; children that are strings become text nodes. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

export const address = (chat, message) =>
  `#/${encodeURIComponent(chat)}${message ? `/${encodeURIComponent(message)}` : ""}`;

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const date = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long", year: "numeric" });
const stamp = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

export const time = (iso) => clock.format(new Date(iso));
export const dayAndTime = (iso) => stamp.format(new Date(iso));

/** The reader's own day: a key that sorts, and a name. */
export function day(iso) {
  const moment = new Date(iso);
  const key = `${moment.getFullYear()}-${moment.getMonth()}-${moment.getDate()}`;
  const now = new Date();
  const yesterday = new Date(now.getFullYear(), now.getMonth(), now.getDate() - 1);
  const same = (other) => moment.toDateString() === other.toDateString();
  return { key, name: same(now) ? "Today" : same(yesterday) ? "Yesterday" : date.format(moment) };
}

export const duration = (ms) =>
  ms < 90_000 ? `${Math.round(ms / 1000)} s` : ms < 5_400_000 ? `${Math.round(ms / 60_000)} min` : `${Math.round(ms / 3_600_000)} h`;

export const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

/** What screen readers are told, politely; the same words twice in a row are said once. */
export function announce(words) {
  if (byId("announcer").textContent !== words) byId("announcer").textContent = words;
}

/** Keyed children: brings a list's children in step with `rows`, touching nothing that stays. */
export function keyed(list, rows, items, make) {
  const keys = new Set(rows.map((row) => row.key));
  for (const [key, item] of items) {
    if (keys.has(key)) continue;
    item.remove();
    items.delete(key);
  }
  let next = null; // backwards, so that each item knows what stands behind it
  for (let at = rows.length - 1; at >= 0; at--) {
    const row = rows[at];
    let item = items.get(row.key);
    if (!item) items.set(row.key, (item = element("li")));
    if (item.mark !== row.mark) {
      item.mark = row.mark;
      make(item, row);
    }
    if (item.nextElementSibling !== next || !item.isConnected) list.insertBefore(item, next);
    next = item;
  }
}
