// The report's own figures, drawn by Plotly: each in a frame that stays while its content changes, so that a run that
// goes on fills its heatmap without a flicker, and nobody's zoom is lost.

import { h, say } from "./elements.js";
import { fitted, framed } from "./figure_drawing.js";

let script;

// Loads plotly.js when the first figure is drawn; texts and tables do not wait for it.
export function plotly() {
  script ??= new Promise((resolve, reject) => {
    const element = h("script", { src: document.body.dataset.plotly });
    element.onload = () => resolve(globalThis.Plotly);
    element.onerror = () => { script = undefined; element.remove(); reject(new Error("plotly.js cannot be loaded from this server; reload the page")); };
    document.head.append(element);
  });
  return script;
}

const touch = matchMedia("(pointer: coarse)"), dark = matchMedia("(prefers-color-scheme: dark)");
const drawnViews = new Set();
const resized = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const view = [...drawnViews].find((one) => one.plot === target);
    if (view && Math.abs(target.clientWidth - view.width) > 1) view.soon();
  }
});
dark.addEventListener("change", () => drawnViews.forEach((view) => view.redraw()));

export class FigureView {
  // `onpick` gets what was clicked: { x, y, customdata }; `grid` says which cells the arrow keys can reach.
  constructor({ onpick = null, onhover = null } = {}) {
    this.onpick = onpick;
    this.onhover = onhover;
    this.width = 0;
    this.milliseconds = null;  // that the last drawing took
  }

  // Draws a figure, or the same figure with newer content.
  async show(figure) {
    const Plotly = await plotly();
    this.build(figure);
    this.title.textContent = figure.title;
    this.subtitle.textContent = figure.subtitle;
    this.figure = figure;
    await this.draw(Plotly);
  }

  // The frame, before there is anything in it: `figure` is a figure or its head. All frames of a page stand before the
  // first is drawn, because a figure takes its width from the grid, which depends on how many there are.
  build(figure) {
    if (this.frame) return;
    Object.assign(this, framed(figure));
    this.holder = h("div", { class: "plot-frame" });
    this.plot.replaceWith(this.holder);
    this.holder.append(this.plot);
    this.place?.(this.frame);
    drawnViews.add(this);
    resized.observe(this.plot);
  }

  async draw(Plotly) {
    const started = performance.now();
    const colour = getComputedStyle(document.documentElement).getPropertyValue("--text").trim();
    const { data, layout } = fitted(this.figure, this.plot, { colour, still: touch.matches, dark: dark.matches });
    layout.uirevision = this.figure.name;  // a zoom stays while rows arrive
    this.width = layout.width = this.plot.clientWidth;
    const first = !this.plot.classList.contains("js-plotly-plot");
    await Plotly.react(this.plot, data, layout, this.figure.config);
    if (first) this.listen();
    this.placeCursors();
    this.milliseconds = performance.now() - started;
    this.plot.dataset.milliseconds = Math.round(this.milliseconds);
  }

  redraw() {
    if (this.figure) plotly().then((Plotly) => this.draw(Plotly)).catch(() => {});
  }

  soon() {
    clearTimeout(this.later);
    this.unhover();  // another cell lies under the pointer now
    this.later = setTimeout(() => this.redraw(), 120);
  }

  // Takes the tooltip away, and keeps the next drawing from bringing it back.
  unhover() {
    if (!this.plot._fullLayout) return;
    globalThis.Plotly.Fx.unhover(this.plot);
    this.plot._fullLayout._rehover = null;
  }

  remove() {
    drawnViews.delete(this);
    if (this.plot) {
      resized.unobserve(this.plot);
      globalThis.Plotly?.purge(this.plot);
    }
    this.frame?.remove();
  }

  listen() {
    this.plot.on("plotly_click", ({ points: [point], event }) => {
      this.still = [event.clientX, event.clientY];
      this.unhover();
      // A finger's tap comes a second time, as a mouse, when the page may have moved below it.
      const now = performance.now(), again = now - (this.picked ?? -Infinity) < 600;
      this.picked = now;
      if (point && this.onpick && !again) this.onpick({ x: point.x, y: point.y, customdata: point.customdata });
    });
    if (this.onhover) {
      this.plot.on("plotly_hover", ({ points: [point] }) => point && this.onhover({ x: point.x, y: point.y }));
      this.plot.on("plotly_unhover", () => this.onhover(null));
    }
    this.plot.on("plotly_afterplot", () => { this.placeCursors(); this.toolbar(); });
    this.toolbar();
    // What opens beside the figure moves it below a pointer that rests, which browsers report as a movement of the
    // pointer: without this, the cell that comes to lie there would speak instead of the one that was clicked.
    this.holder.addEventListener("mousemove", (event) => {
      if (!this.still) return;
      if (Math.hypot(event.clientX - this.still[0], event.clientY - this.still[1]) < 3) event.stopPropagation();
      else this.still = null;
    }, { capture: true });
    this.holder.addEventListener("mouseleave", () => { this.still = null; });
    if (this.cells().length) this.keyboard();
  }

  // The cells with something in them, row by row: [[x, y, customdata], ...].
  cells() {
    const found = [];
    for (const trace of this.figure.data) {
      if (trace.type !== "heatmap" || !Array.isArray(trace.customdata)) continue;
      trace.customdata.forEach((line, row) => line?.forEach((data, column) => {
        if (data !== null && data !== undefined) found.push([trace.x[column], trace.y[row], data]);
      }));
    }
    return found;
  }

  keyboard() {
    this.holder.tabIndex = 0;
    this.holder.setAttribute("role", "application");
    this.holder.setAttribute("aria-label", `${this.figure.title}: arrow keys go from cell to cell, Enter opens one`);
    this.holder.addEventListener("keydown", (event) => this.key(event));
    this.holder.addEventListener("blur", () => this.point(null));
  }

  // Plotly's buttons are one stop of the Tab key; from one to the next go the arrow keys.
  toolbar() {
    const buttons = [...this.plot.querySelectorAll(".modebar-btn")];
    const stop = buttons.find((button) => button === document.activeElement) ?? buttons[0];
    buttons.forEach((button, k) => {
      button.tabIndex = button === stop ? 0 : -1;
      if (button.dataset.stop) return;
      button.dataset.stop = "1";
      button.addEventListener("focus", () => buttons.forEach((one) => { one.tabIndex = one === button ? 0 : -1; }));
      button.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!step) return;
        event.preventDefault();
        buttons[(k + step + buttons.length) % buttons.length].focus();
      });
    });
  }

  key(event) {
    if (event.target !== this.holder) return;  // Plotly's own buttons and menus have their keys
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = steps[event.key];
    if (!step && !(["Enter", " "].includes(event.key) && this.at)) return;
    event.preventDefault();
    if (!step) { this.onpick?.({ x: this.at[0], y: this.at[1], customdata: this.at[2] }); return; }
    const cells = this.cells();
    if (!this.at) {
      this.point(cells.find(([x, y]) => x === this.chosen?.[0] && y === this.chosen?.[1]) ?? cells[0]);
    } else {
      // The next cell in that direction, be there a gap or not; of several the nearest.
      const [x, y] = this.at;
      const ahead = cells.filter(([a, b]) => (step[0] ? b === y && (a - x) * step[0] > 0 : a === x && (b - y) * step[1] > 0));
      ahead.sort((one, other) => Math.abs(one[0] - x) + Math.abs(one[1] - y) - Math.abs(other[0] - x) - Math.abs(other[1] - y));
      if (ahead.length) this.point(ahead[0]);
    }
    if (this.at) say(spoken(this.at[2]));
  }

  // Where the arrow keys are.
  point(cell) {
    this.at = cell;
    this.cursor ??= this.holder.appendChild(h("div", { class: "cursor", "aria-hidden": "true" }));
    this.placeCursors();
  }

  // Which cell is open; [x, y], or null.
  choose(cell) {
    this.chosen = cell;
    if (!this.holder) return;
    this.mark ??= this.holder.appendChild(h("div", { class: "cursor chosen", "aria-hidden": "true" }));
    this.placeCursors();
  }

  placeCursors() {
    this.put(this.mark, this.chosen);
    this.put(this.cursor, this.at);
  }

  put(element, cell) {
    if (!element) return;
    const layout = this.plot._fullLayout, across = layout?.xaxis, down = layout?.yaxis;
    element.hidden = !cell || !across || !Number.isFinite(across.l2p(cell[0]));
    if (element.hidden) return;
    const [left, right] = [across.l2p(cell[0] - 0.5), across.l2p(cell[0] + 0.5)].sort((a, b) => a - b);
    const [top, bottom] = [down.l2p(cell[1] - 0.5), down.l2p(cell[1] + 0.5)].sort((a, b) => a - b);
    element.hidden = left < -1 || top < -1 || right > across._length + 1 || bottom > down._length + 1;
    Object.assign(element.style, {
      left: `${across._offset + left - 1}px`, top: `${down._offset + top - 1}px`,
      width: `${right - left + 2}px`, height: `${bottom - top + 2}px`,
    });
  }
}

// What a cell shows to a resting pointer, for ears: the first lines, without Plotly's marks.
function spoken(data) {
  const text = Array.isArray(data) ? [data[0], data[1], data[4]].join(", ") : String(data);
  return new DOMParser().parseFromString(text.replaceAll("<br>", ", "), "text/html").body.textContent;
}
