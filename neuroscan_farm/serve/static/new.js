// The submit form: puts the request together, sends it, and shows what is wrong beside the field that is wrong.

import { get, post } from "./api.js";
import { byId, h, replace } from "./elements.js";
import { sentence } from "./words.js";

const form = byId("submit"), own = new Map();  // file name -> probe

function analysis() {
  return form.querySelector('input[name="analysis"]:checked').value;
}

function showAnalysis() {
  for (const section of form.querySelectorAll("[data-analysis]")) section.hidden = section.dataset.analysis !== analysis();
}

// ---- the request

function request() {
  const asked = { analysis: analysis(), model: byId("model").value.trim(), probes: probes() };
  const metric = byId("metric").value;
  if (metric !== byId("metric").dataset.default) asked.metric = metric;
  const parts = [form.querySelector(`[data-analysis="${asked.analysis}"]`), form.querySelector("section > details")];
  for (const part of parts) {
    for (const field of part.querySelectorAll("[data-field]")) {
      const value = valueOf(field);
      if (value !== undefined) put(asked, field.dataset.field.split("."), value);
    }
  }
  return asked;
}

function valueOf(field) {
  const kind = field.dataset.kind, control = field.querySelector("input, select, textarea");
  if (kind === "switch") return control.checked || undefined;
  if (kind === "choices") {
    const boxes = [...field.querySelectorAll("input")];
    const same = boxes.every((box) => box.checked === "chosen" in box.dataset);
    return same ? undefined : boxes.filter((box) => box.checked).map((box) => box.value);
  }
  const text = control.value.trim();
  if (!text || text === control.dataset.default) return undefined;
  if (kind === "lines") return text.split("\n").map((line) => line.trim()).filter(Boolean);
  // What is no number is sent as it is: the server says what it takes.
  return ["integer", "number"].includes(kind) && Number.isFinite(Number(text)) ? Number(text) : text;
}

function put(asked, [name, ...rest], value) {
  if (!rest.length) asked[name] = value;
  else put((asked[name] ??= {}), rest, value);
}

function probes() {
  const named = [...form.querySelectorAll('[data-field="probes"] input[type=checkbox]:checked')].map((box) => box.value);
  return [...named, ...own.values()];
}

// ---- probes of one's own

byId("probe-files").addEventListener("change", async (event) => {
  for (const file of event.target.files) {
    try {
      if (file.size > 900_000) throw new Error("it is larger than 900 kB; put it below a folder of NEUROSCAN_SERVE_PROBES");
      own.set(file.name, JSON.parse(await file.text()));
      mark("probes", null);
    } catch (error) {
      mark("probes", `${file.name}: ${error.message}`);
    }
  }
  event.target.value = "";
  drawOwn();
});

function drawOwn() {
  replace(byId("own-probes"), [...own].map(([name, probe]) => h("li", null,
    `${probe.name ?? "?"} (${name}, ${probe.samples?.length ?? "no"} samples) `,
    h("button", { type: "button", class: "link", onclick: () => { own.delete(name); drawOwn(); } }, "remove"))));
}

// ---- sending

function mark(name, text) {
  const shown = [...form.querySelectorAll(`[data-field="${CSS.escape(name)}"]`)].filter((field) => !field.closest("[hidden]"));
  for (const field of shown) {
    const place = field.querySelector(".error");
    field.classList.toggle("wrong", Boolean(text));
    if (place) { place.textContent = text ?? ""; place.hidden = !text; }
    for (const control of field.querySelectorAll("input, select, textarea")) {
      if (text) control.setAttribute("aria-invalid", "true");
      else control.removeAttribute("aria-invalid");
    }
  }
  return shown[0];
}

function clear() {
  byId("form-error").replaceChildren();
  for (const field of form.querySelectorAll("[data-field].wrong")) mark(field.dataset.field, null);
}

// Shows each message at its field, and all that has no field on top; opens what hides a wrong field, and goes to the first.
function show(error) {
  const rest = [];
  let first = null;
  for (const [name, text] of Object.entries(error.fields ?? {})) {
    // `parameters.blocks.0` is one of the lines of `parameters.blocks`.
    const field = mark(name, text) ?? mark(name.split(".").slice(0, 2).join("."), text) ?? mark(name.split(".")[0], text);
    if (field) { field.closest("details")?.setAttribute("open", ""); first ??= field; } else rest.push(`${name}: ${text}`);
  }
  if (!first || rest.length) {
    rest.unshift(...(first ? [] : [error.message, error.mend].filter(Boolean)));
    replace(byId("form-error"), h("p", { class: "failure", role: "alert" }, [...new Set(rest)].join(" ")));
  }
  if (first) first.querySelector("input, select, textarea")?.focus();
  else byId("form-error").scrollIntoView({ block: "center" });
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  clear();
  const asked = request();
  if (!asked.model) return show({ message: "", fields: { model: "name a model; demo is the bundled one" } });
  if (!asked.probes.length) return show({ message: "", fields: { probes: "choose at least one probe" } });
  byId("send").disabled = true;
  byId("sending").textContent = "Planning …";
  try {
    const made = await post("/runs", asked);
    byId("sending").textContent = made.says;
    location.href = `/run/${encodeURIComponent(made.id)}`;
  } catch (error) {
    byId("sending").textContent = "";
    show(error);
  }
  byId("send").disabled = false;
});
for (const radio of form.querySelectorAll('input[name="analysis"]')) radio.addEventListener("change", showAnalysis);
showAnalysis();
document.documentElement.dataset.connection = "live";

try {
  const options = await get("/options");
  replace(byId("models"), options.models.map((one) => h("option", { value: one.model }, one.name)));
  byId("lead").textContent = `${sentence(options.says)} The same request again opens the run that is there.`;
  const there = new Set([...form.querySelectorAll('[data-field="probes"] input[type=checkbox]')].map((box) => box.value));
  form.querySelector(".boxes").append(...options.probes.filter((one) => !there.has(one.name)).map((one) => h("label", { class: "switch" },
    h("input", { type: "checkbox", value: one.name }), h("span", null, h("strong", null, one.name), " ", h("small", null, one.description)))));
  byId("model-hint").textContent = options.models.length > 1 || options.hub_models.length
    ? `one of ${options.models.map((one) => one.model).join(", ")}${options.hub_models.length ? `; or a hub id like ${options.hub_models.join(", ")}` : ""}`
    : "demo is the bundled model; to offer your own, start the server with NEUROSCAN_SERVE_MODELS=FOLDER";
} catch (error) {
  replace(byId("form-error"), h("p", { class: "failure", role: "alert" }, error.message));
  document.documentElement.dataset.connection = "lost";
}
