// The drawer in which this vendor is told to misbehave.

const byId = (id) => document.getElementById(id);

const FAULTS = [
  ["rate_limited", "Too many requests (429)", { rate: 0.5, seconds: 30, delay: 2 }, "Retry-After, s"],
  ["server_error", "Server errors (5xx)", { rate: 0.5, seconds: 30 }],
  ["cut_body", "Connection cut in the middle of a body", { rate: 0.5, seconds: 30 }],
  ["half_json", "Half of a JSON", { rate: 0.5, seconds: 30 }],
  ["slow_body", "Slow bodies", { rate: 1, seconds: 30, delay: 5 }, "takes, s"],
  ["duplicates", "Rows come twice", { rate: 0.3, seconds: 60 }],
  ["reordered", "Rows out of order", { rate: 1, seconds: 60 }],
  ["late_rows", "Rows appear late, behind the cursor", { rate: 0.3, seconds: 60, delay: 30 }, "late by, s"],
  ["expired_cursors", "Cursors expire (410)", { rate: 1, times: 1 }],
  ["wrong_clock", "The clock is wrong", { seconds: 60, delay: 300 }, "ahead by, s"],
  ["malformed_item", "Malformed items", { rate: 1, times: 1 }],
  ["strange_text", "Texts that are hard to swallow", { rate: 1, times: 1 }],
];
const UNITS = { rate: "part, 0 to 1", seconds: "for, s", times: "times" };

let call = null; // api(method, path, body)
const rows = new Map();

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function row([fault, name, defaults, unit]) {
  const on = element("input", { type: "checkbox" });
  const fields = Object.entries(defaults).map(([field, value]) => {
    const input = element("input", { type: "number", step: "any", value, name: field });
    return [field, input, element("label", {}, field === "delay" ? unit : UNITS[field], " ", input)];
  });
  on.onchange = () => apply(fault);
  for (const [, input] of fields) input.onchange = () => on.checked && apply(fault);
  const left = element("span", { className: "faint" });
  rows.set(fault, { on, fields, left });
  return element("li", {}, element("label", { className: "fault" }, on, " ", name, left),
    element("span", { className: "fields" }, ...fields.map(([, , label]) => label)));
}

async function apply(fault) {
  const wanted = {};
  for (const [name, { on, fields }] of rows) {
    if (!on.checked) continue;
    // Those that are on already keep what is left of them.
    wanted[name] = name !== fault && current[name] ? current[name]
      : Object.fromEntries(fields.filter(([, input]) => input.value !== "").map(([field, input]) => [field, Number(input.value)]));
  }
  show(await call("PUT", "/misbehaviour", wanted));
}

let current = {};

function show(switches) {
  current = switches;
  const count = Object.keys(switches).length;
  byId("misbehave").textContent = count ? `Misbehaves (${count})` : "Misbehave";
  byId("misbehave").classList.toggle("on", count > 0);
  // The fields say what the next switch will do; what is left of one that is on stands beside it.
  for (const [fault, { on, left }] of rows) {
    on.checked = fault in switches;
    const { seconds, times } = switches[fault] ?? {};
    left.textContent = seconds !== undefined ? ` ${Math.ceil(seconds)} s left` : times !== undefined ? ` ${times} left` : "";
  }
}

/** `api` calls this vendor; `attempt` says what went wrong. */
export function begin(api, attempt) {
  call = attempt(api);
  const drawer = byId("drawer");
  byId("faults").replaceChildren(...FAULTS.map(row));
  byId("misbehave").onclick = () => {
    drawer.hidden = !drawer.hidden;
    byId("misbehave").setAttribute("aria-expanded", String(!drawer.hidden));
    if (!drawer.hidden) byId("close").focus();
  };
  const close = () => {
    drawer.hidden = true;
    byId("misbehave").setAttribute("aria-expanded", "false");
    byId("misbehave").focus();
  };
  byId("close").onclick = close;
  drawer.onkeydown = (event) => { if (event.key === "Escape") close(); };
  byId("behave").onclick = async () => show(await call("PUT", "/misbehaviour", {}));
  byId("restore").onclick = async () => {
    const question = "Restore everything from a backup. How many of the last messages does it lack?";
    let lose = prompt(question, "3");
    while (lose !== null && !/^\d+$/.test(lose.trim())) lose = prompt(`“${lose}” is no number. ${question}`, "3");
    if (lose !== null) await call("POST", "/misbehaviour/restore", { lose: Number(lose) });
  };
  const look = async () => {
    try { show(await api("GET", "/misbehaviour")); } catch { /* the page says that the vendor is away */ }
    setTimeout(look, drawer.hidden ? 5000 : 1000);
  };
  look();
}
