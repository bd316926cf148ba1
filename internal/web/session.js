// Who looks: a line that says so, and the way in where one must show a token.

import * as kept from "./kept.js";
import { byId, element } from "./page.js";
import * as region from "./region.js";

const OPEN = "Open: no sign-in. Whoever reaches this address can read everything here.";

const PATIENCE = 1500; // ms; the page waits for the answer before it shows anything

/** Shows who looks, or asks for a token; gives who looks, or null. */
export async function begin() {
  let response, answer;
  try {
    response = await region.ask("/api/session", { signal: AbortSignal.timeout(PATIENCE) });
    answer = await response.json();
  } catch {
    return null; // offline, or a proxy's own page: whoever connects again asks again
  }
  if (response.ok) {
    draw(answer);
    return answer;
  }
  if (response.status !== 401) return null; // a proxy's word
  kept.drop();
  if (document.querySelector("#messages li, #letters li")) region.reload();
  else ask(answer?.error ?? {});
  return null;
}

function draw({ auth, name, role }) {
  if (byId("sign-in")?.open) return region.reload();
  const who = byId("who");
  who.dataset.auth = auth;
  if (auth === "off") return who.replaceChildren(OPEN);
  const out = element("button", { type: "button", textContent: "Sign out", onclick: signOut });
  who.replaceChildren(`${name}${role === "operator" ? ", operator" : ""} `, auth === "token" ? out : "");
}

async function signOut() {
  await region.askAll("/api/session", { method: "DELETE" });
  leave();
}

/** Nothing that was shown stays. */
export function leave() {
  kept.drop();
  region.reload();
}

/** A dialog that cannot be closed but with a token. */
function ask({ code, message = "" }) {
  if (byId("sign-in")) return;
  const said = element("p", { role: "alert", className: "error", textContent: code === "bad_token" ? message : "" });
  const token = element("input", { type: "password", autocomplete: "current-password", required: true, id: "shown-token" });
  const form = element("form", { method: "dialog" },
    element("h2", { textContent: "Sign in" }),
    element("p", { className: "faint", textContent: code === "no_user"
      ? "This page is reached through a proxy that signs you in. Ask your operator for its address."
      : "Whoever runs this copy gives you a token. It stays in this browser until you sign out." }));
  if (code !== "no_user") {
    form.append(element("label", {}, "Token", token), said, element("button", { type: "submit", textContent: "Sign in" }));
  }
  form.onsubmit = async (event) => {
    event.preventDefault();
    // Wherever the page may move to, whoever looks is known there.
    const response = await region.askAll("/api/session", {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ token: token.value.trim() }),
    }).catch(() => null);
    if (response?.ok) return region.reload();
    said.textContent = response ? (await response.json()).error.message : "No connection; try again.";
    token.select();
  };
  const dialog = element("dialog", { id: "sign-in" }, form);
  dialog.oncancel = (event) => event.preventDefault();
  dialog.setAttribute("aria-label", "Sign in");
  document.body.append(dialog);
  dialog.showModal();
}
