// The messages of one chat as this page knows them. Pure: no page, no network.
// Whatever arrives is merged by version: what is shown never gets older.

/** Whether a version is newer than another: greater as a string, for versions have one length. */
export const newer = (incoming, stored) => incoming > stored;

/** Whether a message stands before another on the page. */
export const before = (a, b) =>
  a.created_at < b.created_at || (a.created_at === b.created_at && a.id < b.id);

export class Copy {
  constructor() {
    this.byId = new Map();
    this.floor = null; // the oldest message of the part that has no holes
    this.complete = false; // whether that part begins with the chat's first message
    this.resume = null;
    this.behind = true; // until a load that is not
  }

  /** Merges; gives the messages that changed. */
  merge(messages) {
    const changed = messages.filter((message) => {
      const known = this.byId.get(message.id);
      return !known || newer(message.version, known.version);
    });
    for (const message of changed) this.byId.set(message.id, message);
    return changed;
  }

  /** A load says nothing of what lies before it: that is to be fetched again. */
  load({ messages, outside, more, resume, behind }) {
    const changed = [...this.merge(messages), ...this.merge(outside)];
    if (!behind || !this.floor) {
      this.floor = messages[0] ?? null;
      this.complete = !more && !behind;
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
  older({ messages, more }, asked) {
    this.merge(messages);
    if (this.floor?.id !== asked.id) return false;
    if (messages.length) this.floor = messages[0];
    this.complete = !more;
    return true;
  }

  /** What can be shown without a hole, oldest first. */
  shown() {
    const all = [...this.byId.values()].sort((a, b) => (before(a, b) ? -1 : 1));
    return this.complete || !this.floor ? all : all.filter((message) => !before(message, this.floor));
  }
}
