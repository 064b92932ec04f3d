// Keeps a page true while things change: listens to the server's events, and when the server goes away, says so, tries
// again, and reads everything anew as soon as it is back.
//
// A page hands over `refresh`, which reads what it shows. It is called at once, after each event, and after each
// reconnection; never twice at a time, and no more often than the page can bear (`pace`, or four times what the last
// took). While nobody looks at the page, it rests.

import { address, Unreachable } from "./api.js";
import { byId, h, replace, say } from "./elements.js";

const WAITS = [1000, 2000, 3000, 5000, 8000, 15000];
const LONG_AWAY = 30000;  // a connection that slept for so long may be dead without knowing it

export class Live {
  constructor(events, refresh, { pace = 700 } = {}) {
    this.events = events;
    this.refresh = refresh;
    this.pace = pace;
    this.failures = 0;
    this.busy = false;
    this.again = false;
    this.last = 0;
    this.taken = 0;
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) { this.left = performance.now(); return; }
      if (performance.now() - (this.left ?? 0) > LONG_AWAY) this.connect();
      this.wake();
    });
    addEventListener("online", () => this.tryNow());
    this.connect();
    this.wake();
  }

  connect() {
    this.source?.close();
    clearTimeout(this.timer);
    this.timer = null;
    const source = new EventSource(address(this.events), { withCredentials: true });
    this.source = source;
    source.onopen = () => {
      if (this.failures) {
        this.failures = 0;
        say("The server is back.");
        this.wake();
      }
      this.connected();
    };
    for (const kind of ["run", "runs", "workers", "gone"]) source.addEventListener(kind, () => this.wake());
    source.onerror = () => this.lost();
  }

  lost() {
    this.source?.close();
    if (this.timer) return;
    const wait = WAITS[Math.min(this.failures, WAITS.length - 1)];
    this.failures += 1;
    this.timer = setTimeout(() => { this.timer = null; this.connect(); this.wake(); }, wait);
    // One failure may be a server that was just started anew; it is not worth a word yet.
    if (this.failures > 1) this.disconnected(wait);
  }

  tryNow() {
    this.connect();
    this.wake();
  }

  connected() {
    const banner = byId("connection");
    banner.hidden = true;
    banner.replaceChildren();
    document.documentElement.dataset.connection = "live";
  }

  disconnected(wait) {
    const banner = byId("connection");
    const seconds = Math.round(wait / 1000);
    replace(
      banner,
      h("strong", null, "The server does not answer. "),
      `What you see is what it said last; trying again every ${seconds} s. Start it with `,
      h("code", null, "neuroscan-farm serve"), ". ",
      h("button", { type: "button", data: { key: "retry" }, onclick: () => this.tryNow() }, "Try now"),
    );
    if (banner.hidden) say("The server does not answer. Trying again.");
    banner.hidden = false;
    document.documentElement.dataset.connection = "lost";
  }

  // `soon`: somebody waits for it.
  wake(soon = false) {
    if (document.hidden && !soon) return;
    if (this.busy) { this.again = true; return; }
    const wait = Math.max(0, this.last + Math.max(this.pace, 4 * this.taken) - performance.now());
    clearTimeout(this.next);
    this.next = setTimeout(() => this.go(), this.last && !soon ? wait : 0);
  }

  async go() {
    if (this.busy) { this.again = true; return; }
    this.busy = true;
    this.again = false;
    const started = performance.now();
    try {
      await this.refresh();
      byId("trouble").replaceChildren();
    } catch (error) {
      if (error instanceof Unreachable) this.lost();
      else if (error.name !== "AbortError") this.trouble(error);
    }
    this.busy = false;
    this.last = performance.now();
    this.taken = this.last - started;
    if (this.again) this.wake();
  }

  trouble(error) {
    if (error.status === 401) return;  // the sign-in box says it
    if (error.status === undefined) console.error(error);
    replace(
      byId("trouble"),
      h("div", { class: "failure", role: "alert" },
        h("strong", null, error.message), error.mend ? ` ${error.mend}` : "", " ",
        h("button", { type: "button", data: { key: "again" }, onclick: () => this.wake() }, "Try again")),
    );
  }
}

// Where the server wants a token: the page that asks for it.
document.addEventListener("signin", () => { location.href = "/login"; }, { once: true });
