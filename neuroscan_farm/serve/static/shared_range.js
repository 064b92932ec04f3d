// Two figures that are to be compared by their colours: the same colour must be the same change in both.

import { change } from "./words.js";

const ROOM = 0.2;  // of the half of a colour bar: labels that are closer would touch

// The figures with one range of colours, that of the figure which has the larger; `limit` is its end, null where there
// is nothing to share: another unit, or no colours.
export function shared(figures) {
  const bars = figures.map(coloured);
  if (bars.some((bar) => !bar) || new Set(bars.map((bar) => bar.colorbar.title.text)).size > 1) return { figures, limit: null };
  const limit = Math.max(...bars.map((bar) => bar.zmax));
  const ranged = (figure, bar) => ({
    ...figure,
    data: figure.data.map((trace) => (trace.type === "heatmap" && trace.zmin === -bar.zmax && trace.zmax === bar.zmax
      ? { ...trace, zmin: -limit, zmax: limit, ...(trace === bar ? { colorbar: ticked(bar, figure, limit) } : {}) } : trace)),
  });
  return { figures: figures.map((figure, k) => (bars[k].zmax === limit ? figure : ranged(figure, bars[k]))), limit };
}

// The trace that has the colour bar.
function coloured(figure) {
  return figure.data.find((trace) => trace.type === "heatmap" && trace.colorbar && trace.showscale !== false);
}

const KINDS = { f4: Float32Array, f8: Float64Array };

// The numbers of a grid: rows of them, or, as Plotly writes arrays of numpy, their bytes.
function numbers(grid) {
  if (Array.isArray(grid)) return grid.flat();
  return [...new KINDS[grid.dtype](Uint8Array.from(atob(grid.bdata), (letter) => letter.charCodeAt(0)).buffer)];
}

// The colour bar with the ticks of another range, as the report's figures have them; its mark of noise stays.
function ticked({ colorbar }, figure, limit) {
  const digits = Math.max(2 - Math.floor(Math.log10(limit)), 0);
  const sizes = figure.data.filter((trace) => trace.type === "heatmap" && trace.colorscale && trace.zmid === 0)
    .flatMap((trace) => numbers(trace.z)).filter((value) => Number.isFinite(value));
  let ticks = [-limit, -limit / 2, 0, limit / 2, limit].map((end) => [end, end ? change(end, digits) : "0"]);
  if (sizes.some((value) => value < -limit * (1 + 1e-9))) ticks[0][1] = `≤ ${ticks[0][1]}`;
  if (sizes.some((value) => value > limit * (1 + 1e-9))) ticks[4][1] = `≥ ${ticks[4][1]}`;
  const said = colorbar.ticktext.map((text) => /noise ([+-][0-9.]+)/.exec(text)).find(Boolean);
  if (said) {
    const noise = Number(said[1]);
    if (noise > limit) ticks.push([(1 - ROOM) * limit, `▲ ${said[0]}`]);
    else if (noise < ROOM * limit) ticks[2][1] = `0, ${said[0]}`;
    else ticks = [...ticks.filter(([end]) => Math.abs(end - noise) >= ROOM * limit), [noise, said[0]]];
  }
  return { ...colorbar, tickvals: ticks.map(([value]) => value), ticktext: ticks.map(([, text]) => text) };
}
