// The farm's workers, and what this machine does by itself where there is no farm.

import { get, post } from "./api.js";
import { byId, h, replace, say } from "./elements.js";
import { Live } from "./live.js";
import { Refusal } from "./refusal.js";
import { ABSENT, bytes, duration, plural, sentence } from "./words.js";

const body = byId("workers").tBodies[0], refusal = new Refusal(byId("refused"));

async function refresh() {
  const found = await get("/workers");
  byId("workers").setAttribute("aria-busy", "false");
  byId("workers").hidden = !found.workers.length;
  byId("lead").textContent = found.broker === "up"
    ? `${plural(found.workers.length, "worker")} on the farm, ${found.workers.filter((one) => one.run).length} at work.`
    : "No farm: this machine carries runs out itself, one at a time.";
  replace(body, found.workers.map(row));
  replace(byId("empty"), blank(found), local(found.local));
}

function row(worker) {
  const state = worker.draining ? "draining" : worker.state === "ready" && worker.run ? "working" : worker.state;
  const late = worker.heartbeat_age > 20;
  return h("tr", null,
    h("td", { class: "id" }, worker.name, h("small", null, `${worker.host} · up ${duration(worker.up_seconds)} · version ${worker.version}`)),
    h("td", { "data-name": "state" }, h("span", { class: `state ${state}` }, state)),
    h("td", { "data-name": "device" }, worker.device),
    h("td", { "data-name": "model held", class: "message" }, worker.model ?? ABSENT),
    h("td", { "data-name": "memory", class: "n" }, worker.memory_mb === null ? ABSENT : bytes(worker.memory_mb * 1e6)),
    h("td", { "data-name": "works on", class: "message" }, worker.run
      ? [h("a", { href: `/run/${encodeURIComponent(worker.run)}`, data: { key: `run ${worker.name}` } }, worker.run),
        h("small", null, ` shard ${worker.shard ?? ABSENT}${worker.task ? `, task ${worker.task}` : ""}`)]
      : "waits for work"),
    h("td", { "data-name": "for", class: "n" }, duration(worker.busy_seconds)),
    h("td", { "data-name": "heartbeat", class: late ? "n loss" : "n" }, `${duration(worker.heartbeat_age)} ago`),
    h("td", null, h("button", {
      type: "button", data: { key: `drain ${worker.name}` }, disabled: worker.draining, onclick: (event) => drain(worker, event.target),
      title: "finishes its shard and leaves",
    }, worker.draining ? "Draining" : "Drain")));
}

async function drain(worker, button) {
  if (!confirm(`Drain ${worker.name}? It finishes its shard and leaves.`)) return;
  button.disabled = true;
  refusal.clear();
  try {
    await post(`/workers/${encodeURIComponent(worker.name)}/drain`);
    say(`${worker.name} finishes its shard and leaves.`);
  } catch (error) {
    refusal.show(`Drain of ${worker.name}`, error);
  }
  live.wake(true);
}

function blank(found) {
  if (found.workers.length) return null;
  return h("div", { class: "blank" },
    h("strong", null, found.broker === "up" ? "The farm has no workers." : "No broker answers."),
    h("p", null, found.broker === "up" ? ["Start one with ", h("code", null, "neuroscan-farm worker"), ". Runs wait until then."] : sentence(found.says)));
}

function local(work) {
  if (!work.running && !work.queue.length) return null;
  const link = (id) => h("a", { href: `/run/${encodeURIComponent(id)}` }, id);
  return h("div", null, h("h2", null, "This machine"),
    h("p", null, work.running ? ["It measures ", link(work.running), "."] : "It measures nothing now."),
    work.queue.length ? h("p", null, "In line: ", work.queue.map((id, k) => [k ? ", " : "", link(id)])) : null);
}

const live = new Live("/workers/events", refresh);
setInterval(() => live.wake(), 3000);  // heartbeats change without an event
