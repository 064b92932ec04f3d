// A path as a picture: a line for each run of ascending layers, each layer at its place, and arrows between the lines.

import { svg } from "./elements.js";

const WIDTH = 390, LEFT = 2, LINE = 36, BOX = 20, TOP = 4;

// `detail` has depth, steps, runs ([first, end) each), skipped, and path.
export function pathPicture(detail) {
  const { depth, skipped } = detail;
  const size = (WIDTH - 2 * LEFT) / depth, at = (layer) => LEFT + layer * size;
  const lines = linesOf(detail.steps);
  const height = TOP + lines.length * LINE + 6;
  const picture = svg("svg", {
    class: "path-picture", viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": `path ${detail.path}: ${told(lines, skipped)}`,
  });
  const met = new Set();
  lines.forEach((line, k) => {
    const y = TOP + k * LINE;
    for (const step of line) {
      const layer = step % 10000, part = Math.floor(step / 10000);
      const again = met.has(layer);
      met.add(layer);
      const words = `layer ${layer}${part ? `, only its ${part === 1 ? "attention" : "mlp"}` : ""}${again ? ", once more" : ""}`;
      picture.append(svg("rect", {
        class: `layer${part ? " part" : again ? " repeated" : ""}`, x: at(layer), y: part === 2 ? y + BOX / 2 : y,
        width: size, height: part ? BOX / 2 : BOX, rx: Math.min(2, size / 4),
      }, svg("title", null, words)));
    }
    if (k > 0) picture.append(...jump(lines[k - 1], line, y, at, size));
    label(picture, line, y, at, size);
  });
  for (const layer of skipped) {
    picture.append(svg("rect", { class: "skipped", x: at(layer) + 1, y: TOP + 1, width: Math.max(1, size - 2), height: BOX - 2 },
      svg("title", null, `layer ${layer} is left out`)));
  }
  const y = height - 4;
  picture.append(svg("text", { x: at(0), y }, "0"), svg("text", { x: at(depth), y, "text-anchor": "end" }, String(depth - 1)),
    svg("text", { x: WIDTH / 2, y, "text-anchor": "middle" }, "layer"));
  return picture;
}

// Runs that go on behind a gap stay on the line: only a step back, or to the same layer, begins a new one.
function linesOf(steps) {
  const lines = [];
  for (const step of steps) {
    const line = lines.at(-1);
    if (line && step % 10000 > line.at(-1) % 10000) line.push(step);
    else lines.push([step]);
  }
  return lines;
}

function jump(before, line, y, at, size) {
  const from = at((before.at(-1) % 10000) + 1) - size / 2, to = at(line[0] % 10000) + size / 2;
  const start = y - LINE + BOX, end = y - 1, middle = (start + end) / 2;
  return [
    svg("path", { class: "jump", d: `M${from},${start} V${middle} H${to} V${end - 4}` }),
    svg("path", { class: "tip", d: `M${to - 4},${end - 6} L${to + 4},${end - 6} L${to},${end} Z` }),
  ];
}

// Says at each piece of a line which layers it is, where there is room.
function label(picture, line, y, at, size) {
  let first = line[0] % 10000;
  line.forEach((step, k) => {
    const last = step % 10000;
    if (k + 1 < line.length && line[k + 1] % 10000 === last + 1) return;
    const text = first === last ? String(first) : `${first} to ${last}`;
    if ((last - first + 1) * size >= 7 * text.length) {
      picture.append(svg("text", { class: "inside", x: (at(first) + at(last + 1)) / 2, y: y + BOX - 6, "text-anchor": "middle" }, text));
    }
    if (k + 1 < line.length) first = line[k + 1] % 10000;
  });
}

function told(lines, skipped) {
  const runs = lines.map((line) => `layers ${line[0] % 10000} to ${line.at(-1) % 10000}`).join(", then back to ");
  return runs + (skipped.length ? `; left out: ${skipped.join(", ")}` : "");
}
