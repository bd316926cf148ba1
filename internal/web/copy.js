// The messages of one chat as this page knows them. Pure: no page, no network.
// Whatever arrives is merged by version: what is shown never gets older.

/** Whether a version is newer than another: greater as a string, for versions have one length. */
export const newer = (incoming, stored) => incoming > stored;

/** Whether a message stands before another on the page. */
export const before = (a, b) =>
  a.created_at < b.created_at || (a.created_at === b.created_at && a.id < b.id);

/** Whether nothing of a message may be left. */
export const erased = (message) => message.version.startsWith("ffffffff");

export class Copy {
  constructor() {
    this.byId = new Map();
    this.order = []; // all of them, by place
    this.floor = null; // the oldest message of the part that has no holes
    this.empty = false; // whether a load brought nothing although there is something before it
    this.complete = false; // whether that part begins with the chat's first message
    this.resume = null;
    this.behind = true; // until a load that is not
    this.doubted = null; // from where back older messages may not be as they should: { before: a message, or null }
    this.region = null; // where the one is that served it last
    this.title = null; // of the chat, as it was listed last
  }

  /** Merges; gives the messages that changed. */
  merge(messages) {
    const changed = messages.filter((message) => {
      const known = this.byId.get(message.id);
      return !known || newer(message.version, known.version);
    });
    const moved = [];
    for (const message of changed) {
      const known = this.byId.get(message.id);
      this.byId.set(message.id, message);
      if (known && !before(known, message) && !before(message, known)) this.order[this.place(known)] = message;
      else moved.push([known, message]);
    }
    this.insert(moved);
    return changed;
  }

  /** Where a message stands, or would. */
  place(message) {
    let [low, high] = [0, this.order.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (before(this.order[middle], message)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  insert(moved) {
    const gone = new Set(moved.map(([known]) => known).filter(Boolean));
    if (gone.size) this.order = this.order.filter((message) => !gone.has(message));
    const added = moved.map(([, message]) => message);
    if (added.length > 20) {
      this.order = this.order.concat(added).sort((a, b) => (before(a, b) ? -1 : 1));
    } else {
      for (const message of added) this.order.splice(this.place(message), 0, message);
    }
  }

  /** A load says nothing of what lies before it: that is to be fetched again. */
  load({ messages, outside, more, resume, behind }) {
    const changed = [...this.merge(messages), ...this.merge(outside)];
    if (!behind || !this.floor) {
      this.floor = messages[0] ?? null;
      this.complete = !more && !behind;
      this.empty = more && !messages.length; // what it would have brought must not be shown
    }
    this.behind = behind;
    this.resume = behind ? null : resume;
    return changed;
  }

  update({ messages, resume }) {
    // After a load that is behind, no position counts until the next load.
    if (!this.behind && resume) this.resume = resume;
    return this.merge(messages);
  }

  /** A page of older messages, asked for when the floor was `asked`; one that comes late is no use. */
  older({ messages, more, behind }, asked) {
    this.merge(messages);
    if (this.floor?.id !== asked?.id) return false;
    this.empty = false;
    if (messages.length) this.floor = messages[0];
    this.complete = !more && !behind;
    return true;
  }

  /** What lies before this message, or at the end, came from a store that was far behind. */
  doubt(message) {
    const known = this.doubted?.before;
    if (!this.doubted || (known && (!message || before(known, message)))) this.doubted = { before: message };
  }

  /** What can be shown without a hole, oldest first. */
  shown() {
    return this.complete || !this.floor ? this.order : this.order.slice(this.place(this.floor));
  }

  /** What can be shown, replies under their parents: the roots in order, and the replies by parent. */
  threads() {
    const shown = this.shown();
    const there = new Set(shown.map((message) => message.id));
    const [roots, replies] = [[], new Map()];
    for (const message of shown) {
      // A reply to a reply belongs to the same thread; a parent that is not shown leaves its reply where it is.
      const parent = this.rootOf(message, there);
      if (parent === message.id) roots.push(message);
      else if (replies.has(parent)) replies.get(parent).push(message);
      else replies.set(parent, [message]);
    }
    return { roots, replies };
  }

  rootOf(message, there) {
    const seen = new Set();
    while (message.parent_id && there.has(message.parent_id) && !seen.has(message.id)) {
      seen.add(message.id);
      message = this.byId.get(message.parent_id);
    }
    return message.id;
  }
}
