// Two runs side by side, on relative depth. Pointing at a cell of one shows its counterpart in the other.

import { get, run as pathOf } from "./api.js";
import { byId, h, pieces, replace } from "./elements.js";
import { FigureView } from "./figure_view.js";
import { shared } from "./shared_range.js";
import { ABSENT, change, count, interval, number, plural, probability } from "./words.js";

const form = byId("choose"), AT_FIRST = 50;
let runs = [], comparison = null, views = [], all = false, comparing = 0;

function option(run) {
  return h("option", { value: run.id }, `${run.id} (${run.model}, ${run.depth} layers)`);
}

async function start() {
  runs = (await get("/runs", { limit: 1000 })).runs;
  for (const name of ["a", "b"]) replace(form.elements[name], h("option", { value: "" }, "choose"), runs.map(option));
  await readUrl();
}

// Compares what the address names; a run that is not in the list is asked for, and named if it is not there.
async function readUrl() {
  const here = new URLSearchParams(location.search), missing = [];
  for (const name of ["a", "b"]) {
    const id = here.get(name) ?? "", choice = form.elements[name];
    if (id && ![...choice.options].some((one) => one.value === id)) {
      try {
        choice.append(option(await get(pathOf(id))));
      } catch (error) {
        if (error.status === undefined) throw error;
        missing.push(error.status === 404 ? `There is no run ${id}; it may have been deleted, renamed or moved.` : error.message);
      }
    }
    choice.value = id;
    if (choice.value !== id) choice.value = "";
  }
  await compare({ wanted: here.get("probe"), missing });
}

// The address follows the form; the browser's Back goes to what was compared before.
function writeUrl() {
  const chosen = ["a", "b", "probe"].map((name) => [name, form.elements[name].value]);
  const url = `${location.pathname}?${new URLSearchParams(chosen.filter(([, value]) => value))}`;
  if (url !== location.pathname + location.search) history.pushState(null, "", url);
}

async function compare({ wanted = form.elements.probe.value, missing = [] } = {}) {
  const a = form.elements.a.value, b = form.elements.b.value, asked = comparing += 1;
  const said = byId("said-of-both");
  for (const id of ["side", "matched"]) byId(id).hidden = true;
  if (missing.length) {
    replace(said, h("div", { class: "failure", role: "alert" }, missing.map((text) => h("p", null, text)), h("p", null, "Choose another run above.")));
    return;
  }
  if (!a || !b) {
    replace(said, h("div", { class: "blank" }, h("strong", null, runs.length < 2 ? "There are not two runs yet." : "Choose two runs."),
      h("p", null, runs.length < 2 ? h("a", { href: "/new" }, "Submit a run") : "They must be of the same analysis and metric, and share a probe.")));
    return;
  }
  replace(said, h("p", { class: "hint", role: "status" }, "Comparing …"));
  try {
    const found = await get("/compare", { a, b });
    if (asked !== comparing) return;  // others were chosen meanwhile
    comparison = found;
  } catch (error) {
    if (asked !== comparing) return;
    replace(said, h("p", { class: "failure", role: "alert" }, error.message, error.mend ? ` ${error.mend}` : ""));
    return;
  }
  const probes = comparison.views.map((one) => one.probe);
  replace(form.elements.probe, probes.map((one) => h("option", { value: one }, one === "*" ? "mean over the probes" : one)));
  form.elements.probe.value = probes.includes(wanted) ? wanted : probes[0];
  await show();
}

async function show() {
  const view = comparison.views.find((one) => one.probe === form.elements.probe.value);
  all = false;
  drawWords(view);
  const first = await get(`${pathOf(form.elements.a.value)}/configurations`, { probe: view.probe, limit: 1 });
  drawTable(view, first);
  await drawFigures(view, first);
}

function drawWords(view) {
  const [a, b] = comparison.runs;
  const told = (name, one) => h("li", null, h("strong", null, `${name}  `), one.run_id, `: ${one.model}, ${one.total_layers} layers, ${count(one.tasks_measured)} of ${count(one.tasks_planned)} tasks measured; ${plural(one.without_counterpart, "configuration")} without a counterpart`);
  replace(byId("said-of-both"),
    h("ul", null, told("A", a), told("B", b)),
    h("p", { class: "said" }, `${plural(view.configurations.length, "configuration")} ${view.configurations.length === 1 ? "has" : "have"} a change in both, matched by ${comparison.matched_by}. `,
      view.correlation === null ? "" : `Their changes correlate by ${number(view.correlation, 2)} (Pearson), their order by ${number(view.rank_correlation, 2)} (Spearman).`));
}

// ---- figures

async function drawFigures(view, { decimals, scale, unit }) {
  views.forEach((one) => one.remove());
  views = [];
  const box = byId("figures");
  replace(box);
  const ids = [form.elements.a.value, form.elements.b.value];
  const names = await Promise.all(ids.map((id) => get(`${pathOf(id)}/figures`, { probe: view.probe })));
  const common = names[0].figures.map((one) => one.name).find((name) => /^(heatmap|interactions|ablation)-/.test(name)
    && names[1].figures.some((other) => other.name === name));
  byId("side").hidden = !common;
  if (!common) return;
  const { figures, limit } = shared(await Promise.all(ids.map((id) => get(`${pathOf(id)}/figures/${encodeURIComponent(common)}`, { probe: view.probe }))));
  byId("shared").textContent = limit === null ? "" : `Both have the same range of colours, ±${number(limit, Math.max(decimals, 2 - Math.floor(Math.log10(limit))))} ${unit}: a colour is the same change in both.`;
  const twin = twins(view);
  for (const [k, figure] of figures.entries()) {
    const other = 1 - k;
    const follow = (point) => {
      const match = point && twin[k].get(`${point.y},${point.x}`);
      views[k]?.choose(point ? [point.x, point.y] : null);
      views[other]?.choose(match ? [match.block[1], match.block[0]] : null);
      byId("counterpart").textContent = !match ? "" : `${"AB"[k]} (${point.y}, ${point.x}) ${change(match.own.effect * scale, decimals)}  ·  `
        + `${"AB"[other]} (${match.block[0]}, ${match.block[1]}) ${change(match.other.effect * scale, decimals)} ${unit}`;
    };
    const one = new FigureView({ onhover: common.startsWith("heatmap") ? (point) => point && follow(point) : null, onpick: common.startsWith("heatmap") ? follow : null });
    one.place = (frame) => box.append(frame);
    views.push(one);
    await one.show(relative({ ...figure, title: `${"AB"[k]} · ${figure.title}`, wide: false }, comparison.runs[k].total_layers, common));
  }
}

// The axes of a figure as shares of the depth: the ticks say per cent, the cells stay where they are.
function relative(figure, depth, name) {
  const square = !name.startsWith("ablation"), shares = [0, 0.25, 0.5, 0.75, 1];
  const ticks = (low, high) => ({ tickvals: shares.map((share) => low + share * (high - low)), ticktext: shares.map((share) => `${100 * share} %`), tickmode: "array" });
  const layout = structuredClone(figure.layout);
  const heat = name.startsWith("heatmap");
  Object.assign(layout.xaxis, heat ? ticks(0.5, depth + 0.5) : ticks(-0.5, depth - 0.5));
  if (square) Object.assign(layout.yaxis, ticks(-0.5, depth - 0.5));
  return { ...figure, layout };
}

// For each run: the cell "i,j" -> the counterpart's block, and both sides.
function twins(view) {
  const found = [new Map(), new Map()];
  for (const both of view.configurations) {
    const blocks = both.map((one) => blockOf(one.path));
    if (!blocks[0] || !blocks[1]) continue;
    for (const k of [0, 1]) found[k].set(blocks[k].join(","), { block: blocks[1 - k], own: both[k], other: both[1 - k] });
  }
  return found;
}

// [i, j] where a path runs one block twice: `0..6,3..13` is (3, 7).
function blockOf(path) {
  const parts = path.split(",").map((part) => part.split("..").map(Number)).map(([first, last = first]) => [first, last]);
  if (parts.length !== 2 || parts[0][0] !== 0 || parts[1][0] > parts[0][1]) return null;
  return [parts[1][0], parts[0][1] + 1];
}

// ---- the table

function drawTable(view, { decimals, scale, unit }) {
  const scaled = (value) => (value === null ? null : value * scale);
  const name = (one) => { const block = blockOf(one.path); return block ? `(${block[0]}, ${block[1]})` : pieces(one.path); };
  const heads = ["A", "B"].flatMap((run) => [[`rank ${run}`, "n"], [`configuration ${run}`, ""], [`change ${run} (${unit})`, "n"], [`95 % interval ${run}`, ""], [`adjusted p ${run}`, "n"]]);
  const table = byId("table");
  replace(table.tHead, h("tr", null, heads.map(([text, kind]) => h("th", { scope: "col", class: kind || null }, text))));
  const shown = all ? view.configurations : view.configurations.slice(0, AT_FIRST);
  replace(table.tBodies[0], shown.map((both) => h("tr", null, both.flatMap((one) => [
    one.rank ?? ABSENT, name(one), change(scaled(one.effect), decimals), interval(scaled(one.effect_low), scaled(one.effect_high), decimals), probability(one.p_adjusted),
  ]).map((value, k) => h("td", { class: heads[k][1] || null, "data-name": heads[k][0] }, value)))));
  byId("more").hidden = shown.length === view.configurations.length;
  byId("more").textContent = `Show all ${view.configurations.length}`;
  byId("more").onclick = () => { all = true; drawTable(view, { decimals, scale, unit }); };
  byId("matched").hidden = !view.configurations.length;
}

function guarded(work) {
  return () => work().catch((error) => replace(byId("trouble"), h("div", { class: "failure", role: "alert" },
    error.message, " ", h("button", { type: "button", onclick: () => location.reload() }, "Try again"))));
}

form.addEventListener("submit", (event) => event.preventDefault());
for (const name of ["a", "b"]) form.elements[name].addEventListener("change", guarded(async () => { writeUrl(); await compare(); }));
form.elements.probe.addEventListener("change", guarded(async () => {
  writeUrl();
  await show();
}));
byId("swap").addEventListener("click", guarded(async () => {
  [form.elements.a.value, form.elements.b.value] = [form.elements.b.value, form.elements.a.value];
  writeUrl();
  await compare();
}));
addEventListener("popstate", guarded(readUrl));
document.addEventListener("reached", () => { document.documentElement.dataset.connection = "live"; });
document.addEventListener("unreachable", () => { document.documentElement.dataset.connection = "lost"; });
guarded(start)();
