// Keeps a page true while things change: listens to the server's events, and when the server goes away, says so, tries
// again, and reads everything anew as soon as it is back.
//
// A page hands over `refresh`, which reads what it shows. It is called at once, after each event, and after each
// reconnection; never twice at a time, and no more often than the page can bear (`pace`, or four times what the last
// took). While nobody looks at the page, it rests.
//
// `refresh` throws `Gone` where what the page is about is not there: then `ongone` is called, and nothing more is asked.
// What an action was refused is none of this module's business: see refusal.js.

import { address, Unreachable } from "./api.js";
import { byId, h, replace, say } from "./elements.js";

const WAITS = [1000, 2000, 3000, 5000, 8000, 15000];
const LONG_AWAY = 30000;  // a connection that slept for so long may be dead without knowing it

export class Gone extends Error {}

export class Live {
  constructor(events, refresh, { pace = 700, ongone = null } = {}) {
    Object.assign(this, { events, refresh, pace, ongone });
    this.failures = 0;
    this.ended = false;
    this.answered = false;  // whether the last refresh got an answer, be it a refusal
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
    if (this.ended) return;
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
    for (const kind of ["run", "runs", "workers"]) source.addEventListener(kind, () => this.wake());
    source.addEventListener("trouble", (event) => { this.trouble(new Error(JSON.parse(event.data).error), { known: true }); this.wake(); });
    source.addEventListener("gone", () => this.end());
    source.onerror = () => this.lost();
  }

  lost() {
    this.source?.close();
    if (this.timer || this.ended) return;
    const wait = WAITS[Math.min(this.failures, WAITS.length - 1)];
    this.failures += 1;
    this.timer = setTimeout(() => { this.timer = null; this.connect(); this.wake(); }, wait);
    // One failure may be a server that was just started anew; it is not worth a word yet. A server that has no events
    // to tell, but answers otherwise, is not away.
    if (this.failures > 1 && !this.answered) this.disconnected(wait);
    this.wake();
  }

  // What the page is about is not there: ask for nothing more.
  end() {
    if (this.ended) return;
    this.ended = true;
    this.source?.close();
    clearTimeout(this.timer);
    clearTimeout(this.next);
    this.connected();
    document.documentElement.dataset.connection = "ended";
    byId("trouble").replaceChildren();
    this.ongone?.();
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
    if (this.ended || (document.hidden && !soon)) return;
    if (this.busy) { this.again = true; return; }
    const wait = Math.max(0, this.last + Math.max(this.pace, 4 * this.taken) - performance.now());
    clearTimeout(this.next);
    this.next = setTimeout(() => this.go(), this.last && !soon ? wait : 0);
  }

  async go() {
    if (this.ended) return;
    if (this.busy) { this.again = true; return; }
    this.busy = true;
    this.again = false;
    const started = performance.now();
    try {
      await this.refresh();
      this.answered = true;
      byId("trouble").replaceChildren();
    } catch (error) {
      this.answered = !(error instanceof Unreachable);
      if (this.ended) return;
      if (error instanceof Gone) this.end();
      else if (!this.answered) this.lost();
      else if (error.name !== "AbortError") this.trouble(error);
    }
    this.busy = false;
    this.last = performance.now();
    this.taken = this.last - started;
    if (this.again) this.wake();
  }

  // What could not be read; the next refresh that works takes it away. `known`: the server said it, it is no fault here.
  trouble(error, { known = error.status !== undefined } = {}) {
    if (error.status === 401) return;  // the sign-in box says it
    if (!known) console.error(error);
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
