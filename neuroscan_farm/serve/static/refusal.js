// What the server refused to do, said near the button that asked for it. It stays until somebody dismisses it or acts
// again: reading the page anew, which live.js does, takes back nothing of it.

import { h, replace } from "./elements.js";

export class Refusal {
  // `place`: an empty element near the buttons; it may be moved, and keeps what it says.
  constructor(place) {
    this.place = place;
  }

  // Says why `what` did not happen.
  show(what, error) {
    replace(this.place, h("div", { class: "failure refusal", role: "alert" },
      h("p", null, h("strong", null, `${what} did not work. `), error.message, error.mend ? ` ${error.mend}` : ""),
      h("button", { type: "button", class: "close", "aria-label": "dismiss", data: { key: "dismiss" }, onclick: () => this.clear() }, "×")));
    this.place.scrollIntoView({ block: "nearest" });
  }

  // Before the next action.
  clear() {
    this.place.replaceChildren();
  }
}
