// What the report says of a run in words: notices, the baseline, chance, confirmation. All of it is the server's text.

import { byId, h, notice, replace } from "./elements.js";

const HEADS = [
  ["probe", "probe"], ["log-odds", "log_odds"], ["log-probability", "log_p_correct"], ["accuracy", "accuracy"],
  ["expected value", "expected_score"], ["coverage", "coverage"], ["entropy (nats)", "entropy"], ["samples", "samples"],
];

export function drawWords(found) {
  const place = byId("notices"), said = JSON.stringify(found.notices);
  if (place.dataset.said !== said) {
    place.dataset.said = said;
    replace(place, found.notices.length > 2 ? h("details", { class: "notice", open: matchMedia("(min-width: 761px)").matches },
      h("summary", null, `${found.notices.length} remarks on what these numbers can tell`),
      h("ul", null, found.notices.map((text) => h("li", null, text)))) : found.notices.map((text) => notice(text)));
  }
  const section = byId("words");
  const paragraphs = [found.noise && h("p", { class: "said" }, found.noise)];
  for (const text of [found.chance, found.controls, found.circuit, found.cross_probe, found.across_probes]) {
    if (text) paragraphs.push(h("p", { class: "honest" }, text));
  }
  replace(section,
    h("h2", null, "What it comes to"),
    found.baseline.length ? [
      h("p", { class: "hint" }, "The baseline: the untouched model, measured by the same code as every other path."),
      h("div", { class: "scroll" }, h("table", { class: "cards" },
        h("thead", null, h("tr", null, HEADS.map(([name], k) => h("th", { scope: "col", class: k && k < 7 ? "n" : null }, name)))),
        h("tbody", null, found.baseline.map((row) => h("tr", null, HEADS.map(
          ([name, key], k) => h("td", { class: k === 0 ? "id" : k < 7 ? "n" : null, "data-name": name }, row[key]))))))),
    ] : h("p", { class: "hint" }, "The baseline is not measured yet, so there are no changes against it."),
    paragraphs,
    found.confirmation.length ? [h("h3", null, "On samples that had no part in the choice"),
      found.confirmation.map((text) => h("p", { class: "honest" }, text))] : null);
  section.hidden = false;
}
