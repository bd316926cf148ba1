// The list of chats: filtered, one Tab stop, arrows within.

import { address, byId, element } from "./page.js";

const list = byId("chats");
const filter = byId("filter");
let chats = [];
let open = null;

const title = (chat) => chat.title ?? chat.id;
const matching = () => chats.filter((chat) => title(chat).toLowerCase().includes(filter.value.trim().toLowerCase()));

export function draw(all, current) {
  chats = all;
  open = current;
  const shown = matching();
  byId("no-chats").hidden = shown.length > 0;
  byId("no-chats").textContent = chats.length
    ? "No chat has such a title." : "No chats yet. They appear here as soon as the source has some.";
  filter.hidden = chats.length < 8 && !filter.value;
  const focused = list.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  const stop = shown.some((chat) => chat.id === open) ? open : shown[0]?.id;
  list.replaceChildren(...shown.map((chat) => {
    const link = element("a", { href: address(chat.id), tabIndex: chat.id === stop ? 0 : -1 },
      element("span", { textContent: title(chat), dir: "auto" }));
    if (chat.id === open) link.setAttribute("aria-current", "page");
    return element("li", {}, link);
  }));
  if (focused) list.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
}

export const find = (id) => chats.find((chat) => chat.id === id);

/** For who comes back to the list from a thread. */
export function focus() {
  list.querySelector('a[tabindex="0"]')?.focus();
}

filter.oninput = () => draw(chats, open);
list.onkeydown = (event) => {
  const links = [...list.querySelectorAll("a")];
  const at = links.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: links.length - 1 }[event.key];
  if (to === undefined || !links[to]) return;
  event.preventDefault();
  links[at].tabIndex = -1;
  links[to].tabIndex = 0;
  links[to].focus();
};
