// The table of configurations: sorted and paged by the server, so that 3,240 of them are no burden.

import { address, get } from "./api.js";
import { byId, h, pieces, replace } from "./elements.js";
import { ABSENT, change, count, interval, number, probability } from "./words.js";

const PAGE = 50;

export class ConfigurationsTable {
  // `view.sort` (a column; `-` for the largest first) and `view.offset` say what is shown; `onpage` is called when
  // somebody changed them.
  constructor({ base, view, onopen, onpage, onfail }) {
    Object.assign(this, { base, view, onopen, onpage, onfail, of: null, chosen: null, asked: 0 });
    byId("fewer").addEventListener("click", () => this.go(this.view.offset - PAGE));
    byId("further").addEventListener("click", () => this.go(this.view.offset + PAGE));
  }

  go(offset) {
    this.view.offset = Math.max(0, offset);
    this.onpage();
    this.load().catch((error) => { this.of = null; this.onfail(error); });
  }

  async refresh(run, of) {
    if (this.of === `${of} ${run.rows_stamp}`) return run.rows_stamp;
    const stamp = await this.load();
    this.of = `${of} ${stamp}`;
    return stamp;
  }

  async load() {
    const asked = this.asked += 1;
    const page = await get(`${this.base}/configurations`, {
      probe: this.view.probe, metric: this.view.metric, sort: this.view.sort, limit: PAGE, offset: this.view.offset,
    });
    if (asked === this.asked) this.draw(page);  // a later answer may have come first
    return page.stamp;
  }

  columns(page) {
    const { scale, decimals } = page, scaled = (value) => (value === null ? null : value * scale);
    const sure = (row) => row.effect > 0 && row.p_adjusted !== null && row.p_adjusted < 0.05;
    return [
      ["rank", "rank", "n", (row) => (row.rank === null ? ABSENT : row.rank)],
      ["configuration", "label", "id", (row) => h("button", {
        type: "button", class: "link", data: { key: row.task_id }, onclick: () => this.onopen(row) }, pieces(row.label))],
      ["path", "path", "path whole", (row) => pieces(row.path)],
      ["layers run", "n_layers_run", "n", (row) => row.n_layers_run],
      [`change (${page.unit})`, "effect", (row) => (sure(row) ? "n gain" : "n"), (row) => change(scaled(row.effect), decimals)],
      ["95 % interval", null, "", (row) => (row.no_interval ? h("small", { title: row.no_interval }, "none")
        : interval(scaled(row.effect_low), scaled(row.effect_high), decimals))],
      ["adjusted p", "p_adjusted", "n", (row) => probability(row.p_adjusted)],
      ["q", "q", "n", (row) => probability(row.q)],
      ["Δ accuracy (points)", "accuracy_effect", "n", (row) => change(row.accuracy_effect === null ? null : 100 * row.accuracy_effect, 1)],
      ["relative latency", "relative_latency", "n", (row) => (row.relative_latency === null ? ABSENT : `${number(row.relative_latency, 2)} ×`)],
      ["remark", null, (row) => (row.unranked ? "message" : "message absent"), (row) => row.unranked ?? ""],
    ];
  }

  draw(page) {
    const table = byId("table"), columns = this.columns(page);
    replace(table.tHead, h("tr", null, columns.map(([name, key, kind]) => {
      const descending = this.view.sort.startsWith("-"), own = key !== null && key === this.view.sort.replace("-", "");
      return h("th", {
        scope: "col", class: kind === "n" || key === "effect" ? "n" : null,
        "aria-sort": own ? (descending ? "descending" : "ascending") : null,
      }, key ? h("button", { type: "button", data: { key: `sort ${key}` }, onclick: () => this.by(key) }, name) : name);
    })));
    replace(table.tBodies[0], page.configurations.map((row) => h("tr", { data: { task: row.task_id } }, columns.map(
      ([name, , kind, shown]) => h("td", { class: typeof kind === "function" ? kind(row) : kind, "data-name": name }, shown(row))))));
    this.mark(this.chosen);
    const last = page.offset + page.configurations.length;
    byId("shown").textContent = page.total ? `${count(page.offset + 1)} to ${count(last)} of ${count(page.total)}` : "No configuration is planned yet.";
    byId("fewer").hidden = page.offset === 0;
    byId("further").hidden = last >= page.total;
    this.downloads();
  }

  downloads() {
    const file = (format, text) => h("a", { href: address(`${this.base}/exports/${format}`, { metric: this.view.metric }), download: "" }, text);
    replace(byId("downloads"), "Files: ", file("csv", "configurations as CSV"), ", ", file("json", "as JSON"), ", ",
      file("mergekit", "the best as mergekit YAML"), ", ", file("exl3-layer-map", "as exllamav3 layer map"), ", ",
      h("a", { href: address(`${this.base}/rows`, { format: "csv" }), download: "" }, "raw rows as CSV"), ".");
  }

  by(key) {
    // Scores start with the largest; texts, ranks and p-values with the smallest.
    const down = ["effect", "accuracy_effect", "n_layers_run", "relative_latency"].includes(key);
    const turned = this.view.sort === key ? `-${key}` : this.view.sort === `-${key}` ? key : null;
    this.view.sort = turned ?? (down ? `-${key}` : key);
    this.go(0);
  }

  mark(task) {
    this.chosen = task;
    for (const row of byId("table").tBodies[0].rows) row.setAttribute("aria-selected", String(row.dataset.task === task));
  }
}
