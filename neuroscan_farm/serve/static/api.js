// The API, as this page uses it: the same addresses that scripts use.

const ROOT = "/api/v1";

// What the server said no to, in its own words: what is wrong, and the mend where there is one.
export class ApiError extends Error {
  constructor(status, body) {
    super(body?.error ?? `the server answered with status ${status}`);
    this.status = status;
    // A mend that names addresses of the API is for scripts: who reads it here has the page's own ways.
    this.mend = body?.mend && !/\b(GET|POST) \//.test(body.mend) ? body.mend : null;
    this.fields = body?.fields ?? null;
  }
}

// The server did not answer at all: it was stopped, or the network is away.
export class Unreachable extends Error {
  constructor() {
    super("The server does not answer.");
  }
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(ROOT + path, { credentials: "same-origin", cache: "no-cache", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    document.dispatchEvent(new CustomEvent("unreachable"));
    throw new Unreachable();
  }
  document.dispatchEvent(new CustomEvent("reached"));
  if (!answer.ok) {
    const body = await answer.json().catch(() => null);
    if (answer.status === 401) document.dispatchEvent(new CustomEvent("signin"));
    throw new ApiError(answer.status, body);
  }
  return answer;
}

function query(parameters) {
  const pairs = Object.entries(parameters ?? {}).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return pairs.length ? "?" + new URLSearchParams(pairs) : "";
}

export function address(path, parameters) {
  return ROOT + path + query(parameters);
}

export async function get(path, parameters, { signal } = {}) {
  const answer = await ask(path + query(parameters), { headers: { accept: "application/json" }, signal });
  return answer.json();
}

export async function post(path, body) {
  const options = { method: "POST", headers: { accept: "application/json" } };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["content-type"] = "application/json";
  }
  const answer = await ask(path, options);
  return answer.status === 204 ? null : answer.json();
}

export const run = (id) => `/runs/${encodeURIComponent(id)}`;
