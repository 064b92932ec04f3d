// One run: how it stands, its figures while rows arrive, the table, one cell, what failed.

import { get, post, run as pathOf } from "./api.js";
import { CellPanel } from "./cell.js";
import { byId, h, replace, say } from "./elements.js";
import { FigureView, plotly } from "./figure_view.js";
import { Gone, Live } from "./live.js";
import { Refusal } from "./refusal.js";
import { ConfigurationsTable } from "./configurations_table.js";
import { drawWords } from "./run_words.js";
import { count, duration, moment, number, plural, sentence, STATES } from "./words.js";

const id = document.body.dataset.run, base = pathOf(id);
const figures = new Map();  // name -> FigureView, in the order in which they stand
const drawn = new Map();  // name -> what it was drawn of
let detail = null, older;

const view = { probe: null, metric: null, significant: false, cell: null, sort: "rank", offset: 0 };
function readUrl() {
  const here = new URLSearchParams(location.search);
  view.probe = here.get("probe");
  view.metric = here.get("metric");
  view.significant = here.get("significant") === "1";
  view.cell = here.get("cell");
  view.sort = here.get("sort") ?? "rank";
  view.offset = Math.max(0, Number.parseInt(here.get("offset") ?? "0", 10) || 0);
}
readUrl();

const refusals = { head: new Refusal(byId("refused")), pick: new Refusal(byId("pick-refused")), retry: new Refusal(h("div")) };
const table = new ConfigurationsTable({ base, view, onopen: (row) => open(row.task_id), onpage: () => writeUrl({ undo: true }), onfail: (error) => live.trouble(error) });
const panel = new CellPanel(byId("cell"), { base, view, onclose: closed });

// `undo`: the browser's Back goes to how it was before.
function writeUrl({ undo = false } = {}) {
  const there = new URLSearchParams();
  if (view.probe && view.probe !== detail?.views[0]) there.set("probe", view.probe);
  if (view.metric && view.metric !== detail?.metric) there.set("metric", view.metric);
  if (view.significant) there.set("significant", "1");
  if (view.cell) there.set("cell", view.cell);
  if (view.sort !== "rank") there.set("sort", view.sort);
  if (view.offset) there.set("offset", view.offset);
  const url = location.pathname + (there.size ? `?${there}` : "");
  if (undo && url !== location.pathname + location.search) history.pushState(null, "", url);
  else history.replaceState(null, "", url);
}

async function refresh() {
  try {
    detail = await get(base);
  } catch (error) {
    throw error.status === 404 ? new Gone() : error;
  }
  drawHead();
  drawChoices();
  if (view.cell && !panel.task) await panel.open(view.cell, detail, { quiet: true });  // the URL named it
  const of = [view.probe, view.metric, view.significant].join(" ");
  const stamps = await Promise.all([
    drawFigures(of), table.refresh(detail, of), words(of), failures(of), panel.refresh(detail, of),
  ]);
  // The server reads a large run no oftener than it can bear: what is older than the rows is asked for again.
  clearTimeout(older);
  if (stamps.some((stamp) => stamp && stamp !== detail.rows_stamp)) older = setTimeout(() => live.wake(), 2000);
}

// ---- the head

function drawHead() {
  document.title = `${Math.floor(100 * detail.share)} % · ${detail.analysis} of ${detail.model} · neuroscan-farm`;
  byId("head").setAttribute("aria-busy", "false");
  byId("kicker").textContent = `${detail.analysis} · ${detail.id}`;
  byId("name").textContent = detail.model;
  const done = `${count(detail.tasks_finished)} of ${count(detail.tasks)} tasks measured${detail.plan_complete ? "" : ", and more may be planned"}`;
  const running = detail.state === "running";
  const parts = [`${detail.depth} layers, ranked by ${detail.metric}: ${done}`];
  if (running && detail.tasks_per_minute !== null) parts.push(`${number(detail.tasks_per_minute, 1)} a minute`);
  if (running && detail.eta_seconds !== null) parts.push(`${duration(detail.eta_seconds)} to go`);
  replace(byId("lead"), h("span", { class: `state ${detail.state}`, id: "state" }, detail.state), " ", parts.join(" · "));
  byId("bar").setAttribute("aria-valuenow", Math.floor(100 * detail.share));
  byId("bar").firstElementChild.style.width = `${100 * detail.share}%`;
  replace(byId("actions"), ["pause", "resume", "cancel"].filter((what) => detail.can.includes(what)).map(
    (what) => h("button", { type: "button", data: { key: what }, onclick: (event) => act(what, event.target) }, WORDS[what])),
    h("div", { class: "hint" }, says(), detail.workers.length ? ` Worked on by ${detail.workers.join(", ")}.` : null));
  facts();
}

// The run is not there: nothing of it can be shown, and nothing done with it.
function gone() {
  clearTimeout(older);
  document.title = `${id} is not there · neuroscan-farm`;
  for (const part of byId("main").children) part.hidden = part.id !== "head";
  for (const part of byId("head").children) part.hidden = !["kicker", "name", "lead"].includes(part.id);
  byId("head").setAttribute("aria-busy", "false");
  byId("kicker").textContent = "run";
  byId("name").textContent = id;
  replace(byId("lead"), h("span", { id: "gone", role: "alert" }, detail
    ? "This run is not there any more: it was deleted, renamed or moved. "
    : "There is no run of this name; it may have been deleted, renamed or moved. "),
    h("a", { href: "/" }, "See the runs that are there"), ".");
}

// What the state means. A refusal may have a line for each sample: the first says what it is about.
function says() {
  const [first, ...rest] = (detail.says ?? STATES[detail.state]).split("\n");
  if (!rest.length) return sentence(first);
  const opened = byId("actions").querySelector("details")?.open;
  return [sentence(first), h("details", { open: opened || null }, h("summary", { data: { key: "says" } }, `and ${plural(rest.length, "line")} more`), h("pre", null, rest.join("\n")))];
}

const WORDS = { pause: "Pause", resume: "Resume", cancel: "Cancel", retry: "Retry what failed" };

async function act(what, button, refusal = refusals.head) {
  if (what === "cancel" && !confirm("Cancel this run? What is measured stays, and Resume takes it up again.")) return;
  button.disabled = true;
  refusal.clear();
  try {
    await post(`${base}/${what}`);
    say(`${WORDS[what]}: done.`);
  } catch (error) {
    refusal.show(WORDS[what], error);
  }
  button.disabled = false;
  live.wake(true);
}

function facts() {
  const of = (name, value) => h("div", null, h("dt", null, name), h("dd", null, value));
  const failed = Object.entries(detail.outcomes).map(([name, rows]) => `${count(rows)} ${name}`).join(", ");
  replace(byId("facts").querySelector("dl"),
    of("kind of model", detail.model_type), of("fingerprint", detail.model_fingerprint), of("run", detail.run_id),
    of("probes", detail.probes.map((probe) => `${probe} (${detail.n_samples[probe]} samples)`).join(", ")),
    of("rows", failed || "none yet"), of("started", moment(detail.created)), of("where", detail.location),
    of("carried out by", detail.executor === "local" ? "this server's machine" : "the farm's workers"),
    of("deaths of workers", count(detail.deaths)),
    of("versions", Object.entries(detail.versions).map(([name, version]) => `${name} ${version}`).join(", ")),
    detail.additions.map((one) => of("added", `${one.probes.join(", ")}: ${one.state}, ${one.tasks_finished} of ${one.tasks} tasks`)));
}

// ---- probe, metric, mask

function drawChoices() {
  if (!detail.views.includes(view.probe)) view.probe = detail.views[0];
  if (!detail.metrics.includes(view.metric)) view.metric = detail.metric;
  const probes = detail.views.map((one) => [one, one === "*" ? `mean of ${detail.views.length - 1} probes` : one]);
  fill(byId("probe"), probes, view.probe);
  fill(byId("metric"), detail.metrics.map((one) => [one, one]), view.metric);
  byId("significant").checked = view.significant;
  byId("choices").hidden = false;
  byId("table-view").textContent = probes.length > 1 ? probes.find(([value]) => value === view.probe)[1] : "";
}

function fill(select, choices, value) {
  const said = JSON.stringify(choices);
  if (select.dataset.said !== said) {
    replace(select, choices.map(([one, text]) => h("option", { value: one }, text)));
    select.dataset.said = said;
  }
  select.value = value;
}

function changed() {
  view.probe = byId("probe").value;
  view.metric = byId("metric").value;
  view.significant = byId("significant").checked;
  view.offset = 0;
  writeUrl({ undo: true });
  byId("figures").classList.add("stale");
  live.wake(true);
}

// Back and Forward.
async function returned() {
  readUrl();
  table.of = null;
  if (!view.cell && panel.task) panel.close();
  else if (view.cell && detail && view.cell !== panel.task) await panel.open(view.cell, detail, { quiet: true }).then(mark, () => {});
  live.wake(true);
}
addEventListener("popstate", returned);
for (const name of ["probe", "metric", "significant"]) byId(name).addEventListener("change", changed);

// ---- figures

async function drawFigures(of) {
  const box = byId("figures");
  if (drawnOf === `${of} ${detail.rows_stamp}`) return detail.rows_stamp;
  const { probe, metric, significant } = view;  // as they are now: a person may change them meanwhile
  const seen = await get(`${base}/figures`, { probe, metric });
  for (const [name, one] of figures) {
    if (!seen.figures.some((head) => head.name === name)) { one.remove(); figures.delete(name); drawn.delete(name); }
  }
  if (!seen.figures.length) replace(box, h("div", { class: "waiting" }, h("p", null, waitingText())));
  else box.querySelector(".waiting")?.remove();
  place(seen.figures);
  for (const head of seen.figures) {
    if (drawn.get(head.name) === `${of} ${seen.stamp}`) continue;
    const figure = await get(`${base}/figures/${encodeURIComponent(head.name)}`, { probe, metric, significant: significant || null });
    await figures.get(head.name).show(figure);
    drawn.set(head.name, `${of} ${figure.stamp}`);
  }
  box.classList.remove("stale");
  box.setAttribute("aria-busy", "false");
  mark();
  drawnOf = `${of} ${seen.stamp}`;
  return seen.stamp;
}
let drawnOf = null;

function waitingText() {
  if (detail.state === "refused") return "Nothing was measured: the failures below say why.";
  if (detail.state === "running") return "The first rows arrive when the model is loaded and proven; this fills by itself.";
  if (detail.state === "queued") return sentence(detail.says ?? "nothing is measured yet: the run waits for a worker");
  return "Nothing is measured yet. Resume begins.";
}

// Frames for all figures, in their order.
function place(heads) {
  heads.forEach((head, k) => {
    if (figures.has(head.name)) return;
    const one = new FigureView({ onpick: (point) => pick(head.name, point) });
    one.place = (frame) => {
      const after = heads.slice(k + 1).map((later) => figures.get(later.name)?.frame).find(Boolean);
      byId("figures").insertBefore(frame, after ?? null);
    };
    figures.set(head.name, one);
    one.build({ ...head, subtitle: "" });
  });
}

// ---- one cell

// A heatmap's cell is a block (x = j, y = i); a map's cell is two layers; all else says its path, or its label.
async function pick(name, point) {
  const asked = { probe: view.probe, metric: view.metric, limit: 1 };
  const said = Array.isArray(point.customdata) ? point.customdata.map(plain) : [];
  const block = /^\((\d+), (\d+)\)(?: ×(\d+))?$/.exec(said[0] ?? plain(point.customdata ?? ""));
  if (block) asked.block = `${block[1]},${block[2]}${block[3] ? `x${block[3]}` : ""}`;
  else if (name.startsWith("heatmap")) asked.block = `${point.y},${point.x}`;
  else if (name.startsWith("interactions")) asked.path = without(point.x, point.y);
  else if (/^[0-9.,:a-z]+$/.test(said[2] ?? "")) asked.path = said[2];
  else return;
  refusals.pick.clear();
  try {
    const found = await get(`${base}/configurations`, asked);
    if (found.configurations.length) await open(found.configurations[0].task_id);
    else say("This cell is not in the plan.");
  } catch (error) {
    refusals.pick.show("This cell", error);
  }
}

function plain(text) {
  return new DOMParser().parseFromString(String(text).split("<br>")[0], "text/html").body.textContent;
}

// The path that leaves out these layers, as the API writes paths: `0..2,4..13`.
function without(...gone) {
  const pieces = [];
  for (let layer = 0, first = null; layer <= detail.depth; layer += 1) {
    const runs = layer < detail.depth && !gone.includes(layer);
    if (runs) first ??= layer;
    else if (first !== null) {
      pieces.push(first === layer - 1 ? `${first}` : `${first}..${layer - 1}`);
      first = null;
    }
  }
  return pieces.join(",");
}

async function open(task) {
  view.cell = task;
  writeUrl();
  await panel.open(task, detail);
  mark();
}

function closed() {
  view.cell = null;
  writeUrl();
  mark();
}

function mark() {
  const block = panel.detail?.block;
  for (const [name, one] of figures) {
    if (name.startsWith("heatmap")) one.choose(view.cell && block ? [block.j, block.i] : null);
  }
  table.mark(view.cell);
}

// ---- what the report says, and what failed

let wordsOf = null, failuresOf = null;

async function words(of) {
  if (wordsOf === `${of} ${detail.rows_stamp}`) return detail.rows_stamp;
  const found = await get(`${base}/findings`, { metric: view.metric });
  drawWords(found);
  wordsOf = `${of} ${found.stamp}`;
  return found.stamp;
}

async function failures(of) {
  if (failuresOf === `${of} ${detail.stamp}`) return null;
  const found = await get(`${base}/failures`);
  failuresOf = `${of} ${detail.stamp}`;
  const section = byId("failures");
  section.hidden = !found.groups.length;
  replace(section,
    h("h2", null, "Failures"),
    h("p", { class: "hint" }, "Failed samples have no scores; a configuration that lacks samples has no rank. ",
      found.can_retry ? "Retry forgets the failed rows and the deaths, and measures these tasks again." : ""),
    found.can_retry ? h("p", null, h("button", { type: "button", data: { key: "retry" }, onclick: (event) => act("retry", event.target, refusals.retry) },
      found.tasks_failed ? `Retry ${plural(found.tasks_failed, "failed task")}` : "Try again")) : null,
    refusals.retry.place,
    h("div", { class: "scroll" }, h("table", { class: "cards" },
      h("thead", null, h("tr", null, ["outcome", "what was said", "configurations or attempts", "samples", "such as"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", null, found.groups.map((group) => h("tr", null,
        h("td", { "data-name": "outcome" }, group.outcome), h("td", { class: "message whole" }, group.message),
        h("td", { class: "n", "data-name": "configurations or attempts" }, count(group.configurations)),
        h("td", { class: "n", "data-name": "samples" }, group.samples ? count(group.samples) : "–"),
        h("td", { "data-name": "such as" }, group.example)))))));
  return found.stamp;
}

plotly().catch(() => {});  // on its way while the first answers come
const live = new Live(`${base}/events`, refresh, { pace: 1000, ongone: gone });
