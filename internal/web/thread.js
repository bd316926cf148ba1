// The open chat's messages: a window of the copy in the page, so that a hundred thousand of them scroll like fifty.

import { before, erased } from "./copy.js";
import { address, announce, byId, day, dayAndTime, element, keyed, plural, time } from "./page.js";

const WINDOW = 400; // roots in the page at once
const STEP = 120; // how many come and go at an end
const NEAR = 600; // px from an end
const FAR = 500; // messages a request on the way to the beginning: as many as the server gives at once
const TOGETHER = 300000; // ms in which one author's messages stand together
const RETURNING = 3000; // ms in which a chat that is opened again gets what was missed

/** Whether a message belongs to the one before it: of the same author, within a few minutes, and nothing between. */
const goesOn = ({ message: earlier, kind } = {}, message) =>
  Boolean(earlier) && kind !== "reply" && !earlier.deleted && earlier.author === message.author && !message.parent_id &&
  Date.parse(message.created_at) - Date.parse(earlier.created_at) < TOGETHER;

/** What stands in place of a text that is gone. */
const gone = (message) => (erased(message) ? "This message was erased." : "This message was deleted.");

export class Thread {
  /** `older(copy)` fetches a page and gives whether there may be more; `showVersions(message)` opens the drawer. */
  constructor(list, { older, showVersions, seen }) {
    Object.assign(this, { list, fetchOlder: older, showVersions, seen });
    list.addEventListener("scroll", () => this.scrolled(), { passive: true });
    // Whoever moves by hand is not held at a place any more.
    for (const move of ["wheel", "touchmove", "pointerdown", "keydown"]) {
      list.addEventListener(move, () => { this.target = null; this.held = null; }, { passive: true });
    }
    document.addEventListener("visibilitychange", () => this.scrolled());
    // Lines break anew when a window is resized or a phone turned: whoever was at the end stays there.
    new ResizeObserver(() => { if (this.started && this.wasAtEnd) this.toEnd(); }).observe(list);
    this.open(null, null);
  }

  /** Begins with another chat; `lastRead` is the message up to which it was read. */
  open(copy, lastRead) {
    Object.assign(this, {
      copy, lastRead, items: new Map(), edits: new Map(), unfolded: new Set(), unseen: new Set(), hidden: new Set(),
      returned: copy?.byId.size ? performance.now() : null, // what was missed meanwhile comes in a moment
      end: Infinity, // the index behind the last root in the page; Infinity follows the newest
      target: null, held: null, started: false, asking: false, unread: null,
    });
    this.list.replaceChildren();
    this.drawNews();
  }

  get atEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.list;
    return this.end === Infinity && scrollHeight - scrollTop - clientHeight < 40;
  }

  /** `changed` were merged: draws them, and keeps the place of whoever reads further up. */
  changed(changed) {
    if (!this.copy) return;
    const follows = !this.started || (this.atEnd && !this.target && !this.held);
    if (this.started) this.note(changed, follows);
    this.keepingPlace(() => this.draw());
    if (!this.started) this.start();
    else if (follows && this.missed(changed)) this.toUnread();
    else if (follows) this.toEnd();
    this.drawNews();
    // What does not fill the page cannot be scrolled: older messages would never be asked for.
    if (this.list.scrollHeight <= this.list.clientHeight + 1) this.up();
  }

  /** Whether this is what was written while another chat was open, or the page was not. */
  missed(changed) {
    if (this.returned === null || performance.now() - this.returned > RETURNING) return false;
    return this.lastRead && changed.some((message) => before(this.lastRead, message));
  }

  note(changed, follows) {
    const shown = changed.filter((message) => !this.items.has(message.id) && !this.known?.has(message.id));
    const fresh = shown.filter((message) => !this.newest || before(this.newest, message));
    const all = this.copy.byId;
    for (const message of fresh) {
      if (!follows) this.unseen.add(message.id);
      const root = message.parent_id && all.has(message.parent_id) ? this.copy.rootOf(message, all) : message.id;
      if (root !== message.id && !this.unfolded.has(root)) this.hidden.add(message.id);
    }
    if (fresh.length === 1) announce(`${fresh[0].author ?? "somebody"}: ${fresh[0].text ?? "a deleted message"}`);
    else if (fresh.length) announce(`${fresh.length} new messages`);
  }

  /** The rows that belong into the page now. */
  rows() {
    const { roots, replies } = this.copy.threads();
    this.roots = roots;
    this.replies = replies;
    this.newest = this.copy.order.at(-1);
    const last = Math.min(this.end, roots.length);
    const first = Math.max(0, last - WINDOW);
    this.first = first;
    const rows = [];
    let today = null;
    for (const message of roots.slice(first, last)) {
      const { key, name } = day(message.created_at);
      if (key !== today) rows.push({ key: `day ${key}`, mark: name, day: name, iso: message.created_at });
      today = key;
      if (message.id === this.unread) rows.push({ key: "unread", mark: "unread", unread: true });
      this.message(rows, message, goesOn(rows.at(-1), message) ? "goes-on" : "");
      const below = replies.get(message.id);
      if (!below) continue;
      const unfolded = this.unfolded.has(message.id);
      const fresh = below.filter((reply) => this.hidden.has(reply.id)).length;
      const newest = below.at(-1);
      rows.push({
        key: `fold ${message.id}`, fold: message, count: below.length, unfolded, fresh, newest,
        mark: `${below.length} ${unfolded} ${fresh} ${newest.version}`,
      });
      if (unfolded) for (const reply of below) this.message(rows, reply, "reply");
    }
    return rows;
  }

  message(rows, message, kind) {
    const parent = message.parent_id ? this.copy.byId.get(message.parent_id) : null;
    const edits = this.edits.get(message.id);
    const target = message.id === this.target;
    const mark = `${message.version} ${parent?.version} ${kind} ${edits} ${target}`;
    rows.push({ key: message.id, mark, message, parent, kind, edits, target });
  }

  draw() {
    const list = this.list;
    keyed(list, this.rows(), this.items, (item, row) => this.fill(item, row));
    this.known = new Set(this.copy.byId.keys());
  }

  fill(item, row) {
    if (row.day) {
      item.className = "day";
      return item.replaceChildren(element("time", { dateTime: row.iso, title: row.iso, textContent: row.day }));
    }
    if (row.unread) {
      item.className = "unread";
      return item.replaceChildren(element("span", { textContent: "new since you were here" }));
    }
    if (row.fold) return this.fillFold(item, row);
    this.fillMessage(item, row);
  }

  fillFold(item, { fold, count, unfolded, fresh, newest }) {
    item.className = "fold";
    const words = `${plural(count, "reply").replace("replys", "replies")}${fresh ? `, ${fresh} new` : ""}`;
    const button = element("button", { type: "button", textContent: `${unfolded ? "▾" : "▸"} ${words}` });
    button.setAttribute("aria-expanded", String(unfolded));
    button.classList.toggle("fresh", fresh > 0);
    button.onclick = () => {
      this.keepingPlace(() => {
        if (!this.unfolded.delete(fold.id)) this.unfolded.add(fold.id);
        for (const reply of this.replies.get(fold.id) ?? []) {
          this.unseen.delete(reply.id);
          this.hidden.delete(reply.id);
        }
        this.draw();
      });
      this.drawNews();
      this.items.get(`fold ${fold.id}`)?.querySelector("button").focus();
    };
    const last = element("span", { className: "last", textContent: `${newest.author ?? "somebody"}, ${dayAndTime(newest.created_at)}` });
    item.replaceChildren(button, last);
  }

  fillMessage(item, { message, parent, kind, edits, target }) {
    const deleted = message.deleted;
    item.className = `message ${kind}${deleted ? " deleted" : ""}${target ? " target" : ""}`;
    item.dataset.id = message.id;
    item.dataset.version = message.version;
    const author = message.author ?? "somebody";
    const parts = [
      element("span", { className: "who", textContent: author }),
      element("a", { className: "when", href: address(message.chat_id, message.id), title: message.created_at },
        element("time", { dateTime: message.created_at, textContent: time(message.created_at) })),
    ];
    if (message.edited_at && !deleted) {
      const words = edits > 1 ? `edited (${edits})` : "edited";
      const button = element("button", { type: "button", className: "mark", title: message.edited_at, textContent: words });
      button.setAttribute("aria-label", `${words}; show the earlier versions`);
      button.onclick = () => this.showVersions(message, button);
      parts.push(button);
    }
    // Its thread says whom it answers; where the parent is not on the page, the message does.
    if (message.parent_id && kind !== "reply") {
      const words = parent ? `${parent.author ?? "somebody"}: ${parent.deleted ? (erased(parent) ? "erased" : "deleted") : parent.text}` : "an earlier message";
      parts.push(element("a", { className: "parent", href: address(message.chat_id, message.parent_id), textContent: `↪ ${words}` }));
    }
    const text = element("div", { className: "text", dir: "auto", textContent: deleted ? gone(message) : message.text ?? "" });
    if (!deleted && !message.text) Object.assign(text, { className: "text empty", textContent: "(no text)" });
    item.replaceChildren(...parts, text);
  }

  /** Where to begin: the linked message, the first unread one, or the end. */
  start() {
    this.started = true;
    this.returned ??= performance.now();
    if (this.target) return;
    this.toUnread();
  }

  async toUnread() {
    const { lastRead, copy } = this;
    if (!lastRead) return this.toEnd();
    // What was read may lie further back than the load; not so far that one would wait for it.
    for (let pages = 0; pages < 5 && copy.floor && before(lastRead, copy.floor) && !copy.complete; pages++) {
      if (!(await this.fetchOlder(copy)) || copy !== this.copy) break;
    }
    if (copy !== this.copy) return;
    const first = copy.threads().roots.find((message) => before(lastRead, message));
    if (!first) { this.draw(); return this.toEnd(); }
    this.unread = first.id;
    this.showAt(first.id);
    const line = this.items.get("unread") ?? this.items.get(first.id);
    if (!line) return this.toEnd();
    this.list.scrollTop += line.getBoundingClientRect().top - this.list.getBoundingClientRect().top - this.list.clientHeight / 4;
    if (!this.atEnd) this.held = first.id;
    this.scrolled();
  }

  /** Moves the window so that a root is in it. */
  showAt(id) {
    const { roots } = this.copy.threads();
    const at = roots.findIndex((message) => message.id === id);
    if (at >= 0) this.beginAt(at - WINDOW / 2, roots.length);
  }

  toEnd() {
    if (this.end !== Infinity) {
      this.end = Infinity;
      this.draw();
    }
    this.list.scrollTop = this.list.scrollHeight;
    this.drawNews();
  }

  async toBeginning() {
    const copy = this.copy;
    while (copy && !copy.complete && (await this.fetchOlder(copy, FAR)) && copy === this.copy);
    if (!copy || copy !== this.copy) return;
    this.beginAt(0, copy.threads().roots.length);
    this.list.scrollTop = 0;
  }

  /** Shows a message, wherever it is; gives whether it is there. */
  async toMessage(id) {
    const copy = this.copy;
    this.target = id;
    while (copy === this.copy && this.target === id && !copy.shown().some((message) => message.id === id)) {
      if (copy.complete || !(await this.fetchOlder(copy))) break;
    }
    if (copy !== this.copy || this.target !== id) return true;
    const there = new Set(copy.shown().map((message) => message.id));
    if (!there.has(id)) return false;
    const root = copy.rootOf(copy.byId.get(id), there);
    if (root !== id) this.unfolded.add(root);
    this.showAt(root);
    this.items.get(id)?.scrollIntoView({ block: "center" });
    return true;
  }

  /** Whatever the work does above, the first line in view stays where it is. */
  keepingPlace(work) {
    const top = this.list.getBoundingClientRect().top;
    // A message: the lines between them move along with what comes before them.
    const inView = (item) => item.dataset.id && item.getBoundingClientRect().bottom > top + 1;
    const anchor = [...this.list.children].find(inView);
    const before = anchor?.getBoundingClientRect().top;
    work();
    if (anchor?.isConnected) this.list.scrollTop += anchor.getBoundingClientRect().top - before;
  }

  scrolled() {
    if (!this.copy || !this.started) return;
    this.wasAtEnd = this.atEnd && !this.target && !this.held;
    const { scrollTop, scrollHeight, clientHeight } = this.list;
    if (scrollTop < NEAR) this.up();
    if (this.end !== Infinity && scrollHeight - scrollTop - clientHeight < NEAR) this.down();
    this.drawNews();
  }

  /** Moves the window so that it begins with this root. */
  beginAt(first, length) {
    const end = Math.max(0, first) + WINDOW;
    this.end = end >= length ? Infinity : end;
    this.draw();
  }

  /** Shows what stands before the window; fetches it where the page does not have it. */
  async up() {
    if (this.asking || !this.copy) return;
    if (this.first > 0) return this.keepingPlace(() => this.beginAt(this.first - STEP, this.roots.length));
    const copy = this.copy;
    if (copy.complete) return;
    this.asking = true;
    const shown = this.roots.length;
    const more = await this.fetchOlder(copy);
    this.asking = false;
    if (copy !== this.copy) return;
    const { length } = copy.threads().roots;
    this.keepingPlace(() => this.beginAt(length - shown - STEP, length));
    if (more && this.list.scrollTop < NEAR / 2) this.up();
    else if (this.atEnd) this.drawNews();
  }

  down() {
    this.keepingPlace(() => this.beginAt(this.first + STEP, this.roots.length));
  }

  drawNews() {
    if (this.copy && this.started && this.atEnd && !document.hidden) {
      // A reply in a fold is in view as its fold, which says that it is new.
      this.unseen.clear();
      if (this.newest) this.seen(this.newest);
    }
    const count = this.unseen.size;
    byId("news").hidden = count === 0 && this.end === Infinity;
    byId("news").textContent = count ? `${plural(count, "new message")} ↓` : "To the newest ↓";
  }

  /** How often messages were edited, as the copy knows it. */
  setEdits(counts) {
    for (const [id, count] of Object.entries(counts)) this.edits.set(id, count);
    this.keepingPlace(() => this.draw());
  }

  /** The messages in the page that say they were edited, and of which it is not known how often. */
  edited() {
    const shown = [...this.items.keys()].map((id) => this.copy?.byId.get(id));
    return shown.filter((message) => message?.edited_at && !message.deleted && !this.edits.has(message.id));
  }
}
