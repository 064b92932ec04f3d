// Numbers and states as people read them. What is absent is a dash, never 0.

export const ABSENT = "–";

export function number(value, decimals = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return ABSENT;
  const text = value.toFixed(decimals);
  return Number(text) === 0 ? text.replace("-", "") : text;
}

export function change(value, decimals = 3) {
  const text = number(value, decimals);
  return text !== ABSENT && value > 0 && Number(text) !== 0 ? "+" + text : text;
}

export function interval(low, high, decimals = 3) {
  return low === null || low === undefined ? ABSENT : `${change(low, decimals)} to ${change(high, decimals)}`;
}

// A p-value or a false discovery rate, by the report's rule: `p_text` in report/metric_text.py.
export function probability(value) {
  if (value === null || value === undefined) return ABSENT;
  return value < 0.001 ? "< 0.001" : value.toFixed(value < 0.1 ? 3 : 2);
}

export function count(value) {
  return value === null || value === undefined ? ABSENT : value.toLocaleString("en");
}

export function plural(value, one, many = one + "s") {
  return `${count(value)} ${value === 1 ? one : many}`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return ABSENT;
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

export function bytes(value) {
  if (value === null || value === undefined) return ABSENT;
  const units = ["B", "kB", "MB", "GB", "TB"];
  let size = Math.abs(value), unit = 0;
  while (size >= 1000 && unit < units.length - 1) { size /= 1000; unit += 1; }
  return `${value < 0 ? "-" : ""}${size.toFixed(size < 10 && unit ? 1 : 0)} ${units[unit]}`;
}

export function parameters(value) {
  if (value === null || value === undefined) return ABSENT;
  const size = Math.abs(value), sign = value > 0 ? "+" : value < 0 ? "-" : "";
  if (size >= 1e9) return `${sign}${(size / 1e9).toFixed(2)} billion`;
  if (size >= 1e6) return `${sign}${(size / 1e6).toFixed(1)} million`;
  return `${sign}${size.toLocaleString("en")}`;
}

export function moment(text) {
  const date = new Date(text);
  return Number.isNaN(date.getTime()) ? text : date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

// What the server says in half a sentence, as a whole one.
export function sentence(text) {
  const said = text.trim();
  return said ? said[0].toUpperCase() + said.slice(1) + (/[.!?]$/.test(said) ? "" : ".") : "";
}

// What a state means, for people who see it for the first time.
export const STATES = {
  running: "being measured now",
  queued: "waits for a worker of the farm",
  stopped: "nobody measures it now; resume goes on where it stopped",
  paused: "paused; resume goes on where it stopped",
  cancelled: "cancelled; what is measured stays, and resume takes it up again",
  finished: "all that was planned is measured",
  damaged: "its files cannot be read",
  refused: "cannot be measured as it is; the failures say why",
};
