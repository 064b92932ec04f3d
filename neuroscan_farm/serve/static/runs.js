// The list of runs: filters in the URL, rows that follow what happens.

import { get } from "./api.js";
import { byId, h, notice, replace } from "./elements.js";
import { Live } from "./live.js";
import { ABSENT, count, duration, moment, number, plural, STATES } from "./words.js";

const PAGE = 50;
const form = byId("filters"), body = byId("runs").tBodies[0];
const fields = [...form.elements].filter((field) => field.name);
const chosen = new Set();
let offset = 0;

function readUrl() {
  const here = new URLSearchParams(location.search);
  for (const field of fields) field.value = here.get(field.name) ?? "";
  offset = Math.max(0, Number.parseInt(here.get("offset") ?? "0", 10) || 0);
}

function filters() {
  return Object.fromEntries(fields.map((field) => [field.name, field.value.trim()]).filter(([, value]) => value));
}

// `undo`: the browser's Back goes to how it was before.
function writeUrl({ undo = false } = {}) {
  const there = new URLSearchParams({ ...filters(), ...(offset ? { offset } : {}) });
  const url = location.pathname + (there.size ? `?${there}` : "");
  if (undo && url !== location.pathname + location.search) history.pushState(null, "", url);
  else history.replaceState(null, "", url);
}

async function refresh() {
  const page = await get("/runs", { ...filters(), limit: PAGE, offset });
  if (offset && !page.runs.length) { offset = 0; writeUrl(); return refresh(); }
  draw(page);
}

function draw(page) {
  byId("runs").setAttribute("aria-busy", "false");
  byId("runs").hidden = !page.runs.length;
  replace(body, page.runs.map(row));
  const active = page.runs.filter((run) => run.state === "running").length;
  byId("runs-lead").textContent = page.total === page.all
    ? `${plural(page.all, "run")}${active ? `, ${active} being measured now` : ""}`
    : `${count(page.total)} of ${plural(page.all, "run")} fit the filters`;
  replace(byId("empty"), blank(page), page.left_out.map((one) => notice(`${one.id} cannot be read: ${one.error}`)));
  byId("pages").hidden = page.total <= PAGE;
  byId("newer").disabled = page.offset === 0;
  byId("older").disabled = page.offset + page.runs.length >= page.total;
  byId("where").textContent = `${page.offset + 1} to ${page.offset + page.runs.length} of ${page.total}`;
  byId("pick").hidden = page.all < 2;
}

function blank(page) {
  if (page.runs.length) return null;
  if (page.all === 0) {
    return h("div", { class: "blank" }, h("strong", null, "There are no runs yet."),
      h("p", null, h("a", { href: "/new" }, "Submit a run"), " here, or type ",
        h("code", null, "neuroscan-farm run -c configs/demo.yaml"), " in the folder that holds the runs."));
  }
  return h("div", { class: "blank" }, h("strong", null, "No run fits the filters."),
    h("p", null, h("button", { type: "button", onclick: () => { form.reset(); } }, "Show all runs")));
}

function row(run) {
  const best = run.best;
  const gain = best && best.effect > 0 && best.p_adjusted !== null && best.p_adjusted < 0.05;
  const box = h("input", {
    type: "checkbox", "aria-label": `compare ${run.id}`, data: { key: `pick ${run.id}` },
    onchange: (event) => { pick(run.id, event.target.checked); },
  });
  box.checked = chosen.has(run.id);
  return h("tr", { data: { run: run.id } },
    h("td", { class: "id" },
      h("label", { class: "switch" }, box, h("span", null,
        h("a", { href: `/run/${encodeURIComponent(run.id)}`, data: { key: `open ${run.id}` } }, run.id),
        h("small", null, `${run.analysis} of ${run.model} (${run.depth} layers) · ${run.probes.join(", ")} · ${moment(run.created)}`)))),
    h("td", { "data-name": "state" }, h("span", { class: `state ${run.state}`, title: run.says ?? STATES[run.state] }, run.state)),
    h("td", { "data-name": "progress" },
      h("span", null, `${count(run.tasks_finished)} of ${count(run.tasks)}${run.plan_complete ? "" : " so far"}`,
        run.tasks_failed ? h("span", { class: "loss" }, `, ${run.tasks_failed} failed`) : null),
      bar(run)),
    h("td", { class: run.state === "running" ? "n" : "n absent", "data-name": "tasks a minute" }, run.state === "running" ? number(run.tasks_per_minute, 1) : ABSENT),
    h("td", { class: run.state === "running" ? "n" : "n absent", "data-name": "time to go" }, run.state === "running" ? duration(run.eta_seconds) : ABSENT),
    h("td", { class: best ? null : "absent", "data-name": "best configuration", title: best ? `path ${best.path}` : run.no_best }, best ? best.label : ABSENT),
    h("td", { class: best ? (gain ? "n gain" : "n") : "n absent", "data-name": "change" },
      best ? h("span", null, best.effect_text, " ", h("small", null, best.unit)) : ABSENT),
    h("td", { class: best ? null : "absent", "data-name": "95 % interval" }, best ? best.interval_text : ABSENT));
}

function bar(run) {
  const fill = h("span");
  fill.style.width = `${100 * run.share}%`;
  return h("div", { class: "bar", role: "img", "aria-label": `${Math.floor(100 * run.share)} % done` }, fill);
}

function pick(id, wanted) {
  if (wanted) chosen.add(id); else chosen.delete(id);
  while (chosen.size > 2) chosen.delete(chosen.values().next().value);
  for (const box of body.querySelectorAll("input[type=checkbox]")) {
    box.checked = chosen.has(box.closest("tr").dataset.run);
  }
  byId("compare").disabled = chosen.size !== 2;
}

byId("pick").addEventListener("submit", (event) => {
  event.preventDefault();
  const [a, b] = chosen;
  location.href = `/compare?${new URLSearchParams({ a, b })}`;
});

readUrl();
const live = new Live("/events", refresh);
let typed, typing = false, rested;
// What is typed in one go is one step of the browser's history, whatever the number of its letters.
function filtered() {
  offset = 0;
  writeUrl({ undo: !typing });
  typing = true;
  clearTimeout(rested);
  rested = setTimeout(() => { typing = false; }, 1000);
  clearTimeout(typed);
  typed = setTimeout(() => live.wake(true), 150);
}
form.addEventListener("input", filtered);
form.addEventListener("change", () => { typing = false; });
form.addEventListener("reset", () => setTimeout(filtered));
form.addEventListener("submit", (event) => { event.preventDefault(); filtered(); });
addEventListener("popstate", () => { typing = false; readUrl(); live.wake(true); });
for (const [id, step] of [["newer", -PAGE], ["older", PAGE]]) {
  byId(id).addEventListener("click", () => { offset = Math.max(0, offset + step); writeUrl({ undo: true }); live.wake(true); });
}
