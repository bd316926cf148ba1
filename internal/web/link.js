// The connection: reconnects by itself, to another region where its own is lost, subscribes again with the position it
// had, and knows how old what it shows is.

import * as region from "./region.js";

const SILENCE = 5000; // ms without a word is loss of connection
const BEHIND = 6000; // ms; the source is asked every two seconds
const IDLE = 60000; // ms without a change
const SIGNED_OUT = 4001; // the closing code

/**
 * The word for what a reader may rely on.
 * `open`: connected; `heard`: a heartbeat ever came; `age` of the copy and time since the last `change`, in ms.
 */
export function state({ open, heard, age, change }) {
  if (!open) return heard ? "offline" : "connecting";
  if (age === null) return heard ? "behind" : "connecting";
  if (age > BEHIND) return "behind";
  return change > IDLE ? "idle" : "live";
}

export class Link {
  /**
   * `hear(frame)` gets every frame, `tell(state, detail)` whenever the state may have changed; `refused()` is called
   * when a connection did not come about, `signedOut()` when it was ended because its token is not valid any more,
   * `reconnected()` when there is another one.
   */
  constructor({ hear, tell, subscriptions, refused, signedOut, reconnected }) {
    Object.assign(this, { hear, tell, subscriptions, refused, signedOut, reconnected, socket: null, attempt: 0, tried: 0 });
    this.lastWord = this.lastChange = performance.now();
    this.age = null;
    setInterval(() => this.watch(), 500);
    this.connect();
  }

  connect() {
    const url = region.url("/ws");
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url);
    let opened = false;
    this.socket = socket;
    this.lastWord = performance.now();
    socket.onopen = () => {
      opened = true;
      this.attempt = this.tried = 0;
      region.learn();
      if (this.opened) this.reconnected();
      this.opened = true;
      for (const [chat, resume] of this.subscriptions()) this.subscribe(chat, resume);
    };
    socket.onmessage = (event) => {
      if (socket !== this.socket) return;
      this.lastWord = performance.now();
      const frame = JSON.parse(event.data);
      if (frame.type === "heartbeat") {
        this.age = frame.fresh_as_of ? Date.parse(frame.now) - Date.parse(frame.fresh_as_of) : null;
        this.heard = performance.now();
      } else if (frame.type !== "error") {
        this.lastChange = performance.now();
      }
      this.hear(frame);
      this.watch();
    };
    socket.onclose = ({ code, reason }) => {
      if (code === SIGNED_OUT) return this.signedOut();
      if (socket === this.socket && this.attempt > 0) this.refused();
      const hint = /^retry after (\d+) ms$/.exec(reason);
      if (socket === this.socket) this.again({ hint: hint && Number(hint[1]), lost: !opened });
    };
  }

  /**
   * Connects again: after `hint` ms if the server asked for that; at once elsewhere if this region is `lost` and there
   * are others that were not tried; else the sooner the fewer attempts have failed.
   */
  again({ hint = null, lost = false }) {
    const socket = this.socket;
    this.socket = null;
    socket?.close();
    const elsewhere = lost && ++this.tried < region.count();
    if (lost) region.moveOn();
    if (!elsewhere) this.tried = 0;
    const wait = elsewhere ? 0 : Math.min(5000, 200 * 2 ** this.attempt++) * (0.5 + Math.random());
    setTimeout(() => this.connect(), hint ?? wait);
    this.watch();
  }

  send(frame) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(frame));
  }

  subscribe(chat, resume) {
    this.send({ type: "subscribe", chat, ...(resume && { resume }) });
  }

  unsubscribe(chat) {
    this.send({ type: "unsubscribe", chat });
  }

  /** How old the copy may be, in ms; null if that is not known. */
  staleness() {
    return this.age === null || this.heard === undefined ? null : this.age + performance.now() - this.heard;
  }

  watch() {
    const silent = performance.now() - this.lastWord > SILENCE;
    if (this.socket && silent) return this.again({ lost: true });
    const age = this.staleness();
    const open = this.socket?.readyState === WebSocket.OPEN;
    const change = performance.now() - this.lastChange;
    this.tell(state({ open, heard: this.heard !== undefined, age, change }), age);
  }
}
