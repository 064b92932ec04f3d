// Elements from names, properties and children. Text is always set as text: nothing that came from a model, a probe or a
// file is ever read as HTML.

function built(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.setAttribute("class", value);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else element.setAttribute(name, String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function h(name, properties, ...children) {
  return built(document.createElement(name), properties, children);
}

export function svg(name, properties, ...children) {
  return built(document.createElementNS("http://www.w3.org/2000/svg", name), properties, children);
}

// A path or a label, which may be broken after a comma and never inside a number.
export function pieces(text) {
  return text.split(/(?<=,)/).flatMap((piece, k) => (k ? [document.createElement("wbr"), piece] : [piece]));
}

export function byId(id) {
  return document.getElementById(id);
}

// Replaces the children, and keeps the focus on the child with the same `data-key` where it was on one: a table that is
// drawn anew under somebody's hands must not take the keyboard away.
export function replace(parent, ...children) {
  const held = parent.contains(document.activeElement) ? document.activeElement.closest("[data-key]")?.dataset.key : undefined;
  parent.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  if (held !== undefined) parent.querySelector(`[data-key="${CSS.escape(held)}"]`)?.focus({ preventScroll: true });
}

// Says something to those who do not see the page; twice the same is said twice.
export function say(text) {
  const place = byId("said");
  if (!place) return;
  place.textContent = "";
  requestAnimationFrame(() => { place.textContent = text; });
}

export function notice(text, kind = "notice") {
  return h("p", { class: kind, role: kind === "failure" ? "alert" : "note" }, text);
}
