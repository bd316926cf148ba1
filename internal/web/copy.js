// The messages of one chat as this page knows them. Pure: no page, no network.
// Whatever arrives is merged by version: what is shown never gets older.

/** Whether a version is newer than another: greater as a string, for versions have one length. */
export const newer = (incoming, stored) => incoming > stored;

const before = (a, b) =>
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

  load({ messages, resume, behind }, limit) {
    const changed = this.merge(messages);
    // What lies between this load and what was shown before is not known.
    const oldest = messages[0] ?? null;
    const full = messages.length >= limit;
    const touches = this.floor && oldest && messages.some((message) => message.id === this.newestId);
    if (!touches || !full) {
      this.floor = full ? oldest : null;
      this.complete = !full;
    }
    this.noteNewest();
    this.behind = behind;
    this.resume = behind ? null : resume;
    return changed;
  }

  update({ messages, resume }) {
    const changed = this.merge(messages);
    this.noteNewest();
    // After a load that is behind, no position counts until the next load.
    if (!this.behind) this.resume = resume;
    return changed;
  }

  older({ messages, more }) {
    this.merge(messages);
    if (messages.length) this.floor = messages[0];
    this.complete = !more;
  }

  noteNewest() {
    let newest = null;
    for (const message of this.byId.values()) if (!newest || before(newest, message)) newest = message;
    this.newestId = newest?.id;
  }

  /** What can be shown without a hole, oldest first. */
  shown() {
    const all = [...this.byId.values()].sort((a, b) => (before(a, b) ? -1 : 1));
    return this.complete || !this.floor ? all : all.filter((message) => !before(message, this.floor));
  }
}
