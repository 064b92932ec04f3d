// One configuration in full: its path drawn, its effect on every sample, what it costs, its files.

import { address, get, post } from "./api.js";
import { h, pieces, replace, say } from "./elements.js";
import { pathPicture } from "./path_picture.js";
import { Refusal } from "./refusal.js";
import { samplePicture } from "./sample_picture.js";
import { ABSENT, bytes, change, interval, number, parameters, plural, probability } from "./words.js";

export class CellPanel {
  constructor(place, { base, view, onclose }) {
    Object.assign(this, { place, base, view, onclose, detail: null, task: null, of: null, job: null });
    this.refusal = new Refusal(h("div", { id: "materialize-refused" }));
    place.addEventListener("keydown", (event) => { if (event.key === "Escape") this.close(); });
  }

  async open(task, run, { quiet = false } = {}) {
    if (task !== this.task) { this.job = null; this.refusal.clear(); }
    this.task = task;
    this.back = quiet ? null : document.activeElement;
    this.place.hidden = false;
    if (!this.detail) replace(this.place, h("p", { class: "hint" }, "Reading …"));
    await this.load(run);
    if (quiet) return;
    this.place.focus({ preventScroll: true });
    if (matchMedia("(max-width: 1079px)").matches) this.place.scrollIntoView({ behavior: "smooth", block: "start" });
  }

  async refresh(run, of) {
    if (!this.task) return null;
    const wanted = `${this.task} ${of}`;
    if (this.of !== `${wanted} ${run.rows_stamp}`) {
      await this.load(run);
      this.of = `${wanted} ${this.detail?.stamp}`;
    }
    return this.detail?.stamp ?? null;
  }

  async load(run) {
    const task = this.task;
    let found;
    try {
      found = await get(`${this.base}/configurations/${encodeURIComponent(task)}`, { metric: this.view.metric });
    } catch (error) {
      if (error.status !== 404) throw error;
      replace(this.place, this.closing("Configuration"), h("p", { class: "failure" }, error.message));
      return;
    }
    if (task !== this.task) return;  // another one was opened meanwhile
    this.detail = found;
    this.draw(run);
  }

  close() {
    this.task = this.detail = this.job = null;
    this.refusal.clear();
    this.place.hidden = true;
    this.place.replaceChildren();
    this.onclose();
    this.back?.isConnected && this.back.focus({ preventScroll: true });
  }

  closing(title, under) {
    return h("header", null, h("div", null, h("h2", null, title), under),
      h("button", { type: "button", class: "close", "aria-label": "close", data: { key: "close" }, onclick: () => this.close() }, "×"));
  }

  draw(run) {
    const detail = this.detail, { scale, decimals } = detail;
    const own = detail.views.find((row) => row.probe === this.view.probe) ?? detail.views[0];
    const scaled = (value) => (value === null || value === undefined ? null : value * scale);
    const opened = this.place.querySelector("details")?.open;
    const scroll = this.place.scrollTop;
    replace(this.place,
      this.closing(detail.label, h("small", null, own.rank === null ? `no rank: ${own.unranked}` : `rank ${own.rank}`)),
      h("p", { class: own.effect > 0 ? "big gain" : "big" }, change(scaled(own.effect), decimals), " ", h("small", null, detail.unit)),
      h("p", { class: "hint" }, own.no_interval ? `no interval: ${own.no_interval}`
        : `95 %: ${interval(scaled(own.effect_low), scaled(own.effect_high), decimals)}`,
        ` · adjusted p ${probability(own.p_adjusted)} · q ${probability(own.q)}`),
      h("h3", null, "Path"), pathPicture(detail), h("p", { class: "path" }, pieces(detail.path)),
      h("h3", null, "Effect on each sample"), this.samples(scaled),
      h("h3", null, "Cost"), this.cost(own),
      h("h3", null, "Take it along"), this.files(run),
      this.listing(scaled, opened));
    this.place.scrollTop = scroll;
  }

  samples(scaled) {
    const { detail } = this, { scale, decimals } = detail, groups = Map.groupBy?.(detail.samples, (one) => one.probe) ?? grouped(detail.samples);
    const shown = [...groups].filter(([probe]) => this.view.probe === "*" || probe === this.view.probe).map(([probe, samples]) => {
      const row = detail.views.find((one) => one.probe === probe);
      const picture = samplePicture(samples, { mean: row?.effect ?? null, scale, decimals, name: probe });
      const failed = samples.filter((one) => one.outcome !== null && one.outcome !== "ok").length;
      return h("div", { class: "probe-effect" },
        h("p", null, h("span", null, probe), h("span", null, `${change(scaled(row?.effect), decimals)} (${plural(samples.filter((one) => one.effect !== null).length, "sample")}${failed ? `, ${failed} failed` : ""})`)),
        picture ?? h("p", { class: "hint" }, row?.unranked ?? "not measured yet"));
    });
    return [shown, h("p", { class: "hint" }, "One bar a sample, the best first; up is better than the untouched model; the dashed line is the mean.")];
  }

  cost(own) {
    const of = (name, value) => [h("dt", null, name), h("dd", null, value)];
    return h("dl", null,
      of("layers run", `${own.n_layers_run} (${change(own.added_layers, 0)})`),
      of("parameters in a merged file", parameters(own.added_parameters)),
      of("keys and values", own.added_kv_bytes_per_token === null ? ABSENT : `${own.added_kv_bytes_per_token > 0 ? "+" : ""}${bytes(own.added_kv_bytes_per_token)} a token`),
      of("time of a forward pass", own.relative_latency === null ? ABSENT : `${number(own.relative_latency, 2)} × (counted, not measured)`));
  }

  files(run) {
    const { detail } = this;
    if (!detail.whole) return h("p", { class: "hint" }, "A layer runs in part here, which no merged checkpoint can do.");
    const file = (format, name, text) => h("a", {
      class: "button", href: address(`${this.base}/exports/${format}`, { path: detail.path, metric: this.view.metric }), download: name, data: { key: format } }, text);
    const name = `${run.id}-${detail.path.replaceAll(/[^0-9]+/g, "-")}`;
    const write = h("button", {
      type: "button", data: { key: "materialize" }, disabled: !run.can_materialize, onclick: (event) => this.materialize(event.target),
    }, "Materialize");
    return [
      h("div", { class: "actions" }, file("mergekit", `${name}.mergekit.yaml`, "YAML"), file("exl3-layer-map", `${name}.txt`, "Layer map"), write),
      this.refusal.place,
      h("p", { class: "hint", id: "job", role: "status" }, this.job ?? (run.can_materialize ? "YAML is for mergekit; materialize writes the checkpoint on the server."
        : "YAML is for mergekit. This server writes no checkpoints: start it with NEUROSCAN_SERVE_MATERIALIZE=FOLDER, or use neuroscan-farm materialize.")),
    ];
  }

  async materialize(button) {
    button.disabled = true;
    this.refusal.clear();
    try {
      let job = await post(`${this.base}/materialize`, { path: this.detail.path });
      this.told(job);
      while (job.state === "running") {
        await new Promise((done) => { setTimeout(done, 1000); });
        const { jobs } = await get(`${this.base}/materialize`);
        job = jobs.find((one) => one.id === job.id) ?? { ...job, state: "interrupted", says: "the server forgot it" };
        this.told(job);
      }
    } catch (error) {
      this.refusal.show("Materialize", error);
    }
    button.disabled = false;
  }

  told(job) {
    this.job = `${job.state}: ${job.says}${job.folder ? ` (${job.folder})` : ""}`;
    const place = this.place.querySelector("#job");
    if (place) place.textContent = this.job;
    if (job.state !== "running") say(this.job);
  }

  listing(scaled, opened) {
    const { detail } = this;
    const samples = detail.samples.filter((one) => this.view.probe === "*" || one.probe === this.view.probe);
    const list = h("details", { open: opened || null }, h("summary", null, `All ${samples.length} samples`));
    const fill = () => {
      if (list.querySelector("table")) return;
      const said = (right) => (right === null ? ABSENT : right ? "right" : "wrong");
      list.append(h("div", { class: "scroll" }, h("table", null,
        h("thead", null, h("tr", null, ["change", "sample", "answer", "before", "now", "top token"].map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", null, [...samples].sort((a, b) => (b.effect ?? -Infinity) - (a.effect ?? -Infinity)).map((one) => h("tr", null,
          h("td", { class: "n" }, change(scaled(one.effect), detail.decimals)),
          h("td", { class: "message", title: one.prompt }, (one.prompt ?? one.sample_id).slice(0, 160), one.detail ? h("small", null, ` ${one.outcome}: ${one.detail}`) : null),
          h("td", null, one.answer ?? ABSENT), h("td", null, said(one.baseline_correct)), h("td", null, said(one.correct)),
          h("td", null, one.top_token ?? ABSENT)))))));
    };
    list.addEventListener("toggle", () => { if (list.open) fill(); });
    if (opened) fill();
    return list;
  }
}

function grouped(samples) {
  const groups = new Map();
  for (const one of samples) groups.set(one.probe, [...(groups.get(one.probe) ?? []), one]);
  return groups;
}
