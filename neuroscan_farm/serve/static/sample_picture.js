// The effects of one configuration on each sample of one probe: sorted bars around zero, with the mean.

import { svg } from "./elements.js";
import { change } from "./words.js";

const WIDTH = 400, HEIGHT = 74, PAD = 3;

// `samples` have sample_id, effect, prompt; those without an effect are left out. `scale` is that of the texts.
export function samplePicture(samples, { mean, scale, decimals, name }) {
  const shown = samples.filter((one) => one.effect !== null).sort((a, b) => b.effect - a.effect);
  if (!shown.length) return null;
  const low = Math.min(0, ...shown.map((one) => one.effect)), high = Math.max(0, ...shown.map((one) => one.effect));
  const span = high - low || 1, at = (value) => PAD + ((high - value) / span) * (HEIGHT - 2 * PAD);
  const step = WIDTH / shown.length, gap = Math.min(2, step * 0.2);
  const better = shown.filter((one) => one.effect > 0).length, worse = shown.filter((one) => one.effect < 0).length;
  const picture = svg("svg", {
    class: "samples", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img",
    "aria-label": `${name}: ${better} of ${shown.length} samples better, ${worse} worse`,
  });
  shown.forEach((one, k) => {
    const top = Math.min(at(one.effect), at(0)), height = Math.max(1, Math.abs(at(one.effect) - at(0)));
    const kind = one.effect > 0 ? "better" : one.effect < 0 ? "worse" : "same";
    picture.append(svg("rect", { class: kind, x: k * step + gap / 2, y: one.effect ? top : at(0) - 0.5, width: step - gap, height },
      svg("title", null, `${one.sample_id}: ${change(one.effect * scale, decimals)}${one.prompt ? `\n${one.prompt.slice(0, 300)}` : ""}`)));
  });
  picture.append(svg("line", { class: "zero", x1: 0, x2: WIDTH, y1: at(0), y2: at(0), "vector-effect": "non-scaling-stroke" }));
  if (mean !== null) {
    picture.append(svg("line", { class: "mean", x1: 0, x2: WIDTH, y1: at(mean), y2: at(mean), "vector-effect": "non-scaling-stroke" },
      svg("title", null, `mean ${change(mean * scale, decimals)}`)));
  }
  return picture;
}
