// The vendor's page: reads the change feed by long poll, writes through the REST API.
// Whatever people wrote reaches the page as text nodes only.

import { begin as beginMisbehaviour } from "/misbehave.js";

const byId = (id) => document.getElementById(id);
const chats = new Map();
const messages = new Map(); // of the open chat, by id
let open = null;
let context = null; // {kind: "edit" | "reply", message}

async function api(method, path, body) {
  const response = await fetch(`/api${path}`, {
    method,
    // The vendor treats its own page well, whatever it does to others.
    headers: { "x-vendor-page": "1", ...(body && { "content-type": "application/json" }) },
    body: body ? JSON.stringify(body) : undefined,
  });
  const answer = await response.json();
  if (!response.ok) throw Object.assign(new Error(answer.error.message), { code: answer.error.code });
  return answer;
}

function say(problem) {
  byId("problem").textContent = problem ?? "";
  byId("problem").hidden = !problem;
  if (problem) setTimeout(() => say(null), 6000);
}

const attempt = (work) => async (...given) => {
  given[0]?.preventDefault?.();
  try { return await work(...given); } catch (error) { say(error.message); }
};

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function drawChats() {
  const living = [...chats.values()].filter((chat) => !chat.deleted);
  const focus = focusIn(byId("chats"));
  byId("chats").replaceChildren(...living.map((chat) => {
    const link = element("a", { href: `#${encodeURIComponent(chat.id)}`, textContent: chat.title });
    if (chat.id === open) link.setAttribute("aria-current", "page");
    return element("li", {}, link);
  }));
  focus?.();
  const chat = chats.get(open);
  byId("title").textContent = !open ? "Choose a chat" : chat?.deleted ? `${chat.title} (deleted)` : chat?.title ?? "…";
  byId("chat-actions").hidden = !chat || chat.deleted;
  byId("compose").hidden = !chat || chat.deleted;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

function tool(label, name, action) {
  const button = element("button", { type: "button", textContent: label, onclick: action });
  button.setAttribute("aria-label", name);
  return button;
}

function drawMessage(message) {
  const item = element("li", { className: message.deleted ? "message deleted" : "message" });
  item.dataset.id = message.id;
  if (!message.deleted) {
    item.append(element("span", { className: "tools" },
      tool("Reply", "Reply to this message", () => begin("reply", message)), " ",
      tool("Edit", "Edit this message", () => begin("edit", message)), " ",
      tool("Delete", "Delete this message", attempt(() => api("DELETE", `/chats/${encodeURIComponent(open)}/messages/${encodeURIComponent(message.id)}`)))));
  }
  item.append(element("span", { className: "who", textContent: message.author }));
  item.append(element("time", { dateTime: message.created_at, title: message.created_at, textContent: clock.format(new Date(message.created_at)) }));
  if (message.edited_at && !message.deleted) item.append(element("span", { className: "mark", textContent: "edited" }));
  if (message.parent_id) {
    const parent = messages.get(message.parent_id);
    item.append(element("span", { className: "parent", textContent: parent ? `↪ ${parent.author}: ${parent.text ?? "deleted"}` : "↪ an earlier message" }));
  }
  item.append(element("div", { className: "text", dir: "auto", textContent: message.deleted ? "deleted" : message.text }));
  return item;
}

function drawMessages() {
  const list = byId("messages");
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  const sorted = [...messages.values()].sort((a, b) =>
    a.created_at < b.created_at ? -1 : a.created_at > b.created_at ? 1 : a.id < b.id ? -1 : 1);
  const focus = focusIn(list);
  list.replaceChildren(...sorted.map(drawMessage));
  focus?.();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

/** How to give the focus back to the same button of the same message, or the same link. */
function focusIn(list) {
  const focused = document.activeElement;
  if (!list.contains(focused)) return null;
  const id = focused.closest("[data-id]")?.dataset.id;
  const [name, href] = [focused.getAttribute("aria-label"), focused.getAttribute("href")];
  return () => {
    const all = [...list.querySelectorAll("a, button")];
    all.find((one) => (href ? one.getAttribute("href") === href : one.closest("[data-id]")?.dataset.id === id && one.getAttribute("aria-label") === name))?.focus();
  };
}

function begin(kind, message) {
  context = { kind, message };
  const form = byId("compose");
  byId("context").hidden = false;
  byId("context").firstElementChild.textContent = `${kind === "edit" ? "Editing" : "Replying to"} ${message.author}: ${message.text.slice(0, 80)}`;
  form.text.value = kind === "edit" ? message.text : "";
  form.text.focus();
}

function cancel() {
  context = null;
  byId("context").hidden = true;
  byId("compose").reset();
}

async function show(chat) {
  open = chat;
  messages.clear();
  cancel();
  document.body.classList.toggle("open", Boolean(chat));
  drawChats();
  drawMessages();
  if (!chat) return;
  const page = await api("GET", `/chats/${encodeURIComponent(chat)}/messages?limit=200`);
  if (open !== chat) return;
  page.messages.forEach(merge);
  drawMessages();
  byId("messages").scrollTop = byId("messages").scrollHeight;
}

// A feed page may be older than what the listing brought.
function merge(message) {
  const known = messages.get(message.id);
  if (message.chat_id === open && (!known || known.sequence < message.sequence)) messages.set(message.id, message);
}

async function follow() {
  let after = null;
  for (;;) {
    try {
      if (!after) {
        const list = await api("GET", "/chats");
        list.chats.forEach((chat) => chats.set(chat.id, chat));
        drawChats();
      }
      const page = await api("GET", `/changes?wait=25&limit=500${after ? `&after=${after}` : ""}`);
      after = page.next;
      for (const row of page.changes) {
        if (row.type === "message") merge(row);
        else if ((chats.get(row.id)?.sequence ?? 0) < row.sequence) chats.set(row.id, row);
      }
      if (page.changes.some((row) => row.type === "chat")) drawChats();
      if (page.changes.some((row) => row.chat_id === open)) drawMessages();
      if (!page.changes.length) await new Promise((resume) => setTimeout(resume, 50));
    } catch (error) {
      // Restored from a backup, perhaps: what is shown here may not be there any more.
      if (after && (error.code === "cursor_expired" || error.code === "bad_cursor")) return location.reload();
      say("The vendor cannot be reached; trying again.");
      await new Promise((resume) => setTimeout(resume, 1500));
    }
  }
}

byId("new-chat").onsubmit = attempt(async (event) => {
  const form = event.target;
  const chat = await api("POST", "/chats", { title: form.title.value });
  form.reset();
  chats.set(chat.id, chat);
  location.hash = encodeURIComponent(chat.id);
});
byId("rename-chat").onclick = attempt(async () => {
  const title = prompt("New title", chats.get(open).title);
  if (title) await api("PATCH", `/chats/${encodeURIComponent(open)}`, { title });
});
byId("delete-chat").onclick = attempt(async () => {
  if (confirm("Delete this chat and everything in it?")) await api("DELETE", `/chats/${encodeURIComponent(open)}`);
});
byId("compose").onsubmit = attempt(async (event) => {
  const text = event.target.text.value;
  const path = `/chats/${encodeURIComponent(open)}/messages`;
  if (context?.kind === "edit") await api("PATCH", `${path}/${encodeURIComponent(context.message.id)}`, { text });
  else await api("POST", path, { author: byId("author").value, text, ...(context && { parent_id: context.message.id }) });
  cancel();
});
byId("compose").text.onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); byId("compose").requestSubmit(); }
  if (event.key === "Escape") cancel();
};
byId("cancel").onclick = cancel;
byId("back").onclick = () => { location.hash = ""; };
byId("author").value = localStorage.getItem("author") ?? "Ada";
byId("author").onchange = (event) => localStorage.setItem("author", event.target.value);
beginMisbehaviour(api, (work) => async (...given) => {
  try { return await work(...given); } catch (error) { say(error.message); return api("GET", "/misbehaviour"); }
});
const route = attempt(() => show(decodeURIComponent(location.hash.slice(1)) || null));
window.onhashchange = route;
route();
follow();
