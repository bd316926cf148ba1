// Search over the messages of the copy.

import { address, byId, dayAndTime, element, plural } from "./page.js";
import { ask } from "./region.js";

const field = byId("search");
const results = byId("results");
const WAIT = 250; // ms after the last key
let timer = null;
let asked = 0;

/** `title(chat)` gives a chat's name. */
export function begin(title) {
  field.oninput = () => {
    clearTimeout(timer);
    timer = setTimeout(() => find(field.value.trim(), title), WAIT);
  };
  field.onkeydown = (event) => {
    if (event.key !== "ArrowDown") return;
    event.preventDefault();
    results.querySelector("a")?.focus();
  };
  results.onkeydown = (event) => {
    const links = [...results.querySelectorAll("a")];
    const at = links.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: links.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    (links[to] ?? field).focus();
  };
}

async function find(query, title) {
  const turn = ++asked;
  document.body.classList.toggle("searching", query !== "");
  byId("found").hidden = query === "";
  if (!query) return results.replaceChildren();
  byId("found-words").textContent = "Searching …";
  try {
    const response = await ask(`/api/search?q=${encodeURIComponent(query)}`);
    const answer = await response.json();
    if (turn !== asked) return;
    if (!response.ok) throw new Error(answer.error.message);
    const { found, more } = answer;
    byId("found-words").textContent = found.length
      ? `${plural(found.length, "message")}${more ? ", and more; narrow it down" : ""}` : `Nothing has “${query}”.`;
    results.replaceChildren(...found.map((hit) => draw(hit, title)));
  } catch (error) {
    if (turn !== asked) return;
    byId("found-words").textContent = error.message || "The search does not answer now.";
    results.replaceChildren();
  }
}

function draw(hit, title) {
  const text = element("span", { className: "snippet", dir: "auto" });
  for (const { text: piece, hit: marked } of hit.snippet) text.append(marked ? element("mark", { textContent: piece }) : piece);
  const head = element("span", { className: "head" },
    element("b", { textContent: hit.author ?? "somebody" }), ` in ${title(hit.chat_id)}, `,
    element("time", { dateTime: hit.created_at, title: hit.created_at, textContent: dayAndTime(hit.created_at) }));
  return element("li", {}, element("a", { href: address(hit.chat_id, hit.id) }, head, text));
}

/** These messages were erased. */
export function forget(messages) {
  const gone = new Set(messages.map((message) => address(message.chat_id, message.id)));
  for (const link of results.querySelectorAll("a")) if (gone.has(link.getAttribute("href"))) link.parentElement.remove();
}

/** Gives whether there was something to clear. */
export function clear() {
  if (!field.value && byId("found").hidden) return false;
  field.value = "";
  asked++;
  document.body.classList.remove("searching");
  byId("found").hidden = true;
  results.replaceChildren();
  return true;
}
