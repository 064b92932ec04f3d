"use strict";
// How one figure is placed and fitted. The report's page has it inside, the live page as a module: keep it free of both.

const NARROW = 560;  // pixels; below, a grid's colours are explained above it instead of beside it

const LEGEND_TOP = 68;  // pixels from a grid to its legend, with the ticks and the axis' title between them

const INK = "#14171c";  // of outlines, as figures have them: made for light pages

// A frame with the figure's title, its subtitle, and an empty place for the plot.
function framed(figure) {
  const frame = document.createElement("figure");
  const title = document.createElement("h3"), subtitle = document.createElement("p"), plot = document.createElement("div");
  title.textContent = figure.title;
  subtitle.textContent = figure.subtitle;
  plot.className = "plot";
  if (figure.wide) frame.className = "wide";
  frame.append(title, subtitle, plot);
  return { frame, title, subtitle, plot };
}

// Data and layout for the place where the plot stands; sets the place's height too. A grid is square: on a narrow page
// it takes the whole width. With `still`, a finger scrolls the page and draws no zoom box; the buttons still zoom.
function fitted(figure, plot, { colour, still, dark }) {
  const width = plot.clientWidth, narrow = figure.square && width < NARROW;
  const margin = { ...figure.layout.margin, t: figure.layout.updatemenus ? 70 : 34 };
  if (narrow) Object.assign(margin, { l: 44, r: 10, t: 92 });
  // The legend of a grid stands under the axis' title, in as much room as its lines take.
  const lines = figure.square && figure.layout.showlegend !== false ? legendLines(figure, width - margin.l - margin.r) : 0;
  if (lines) margin.b = LEGEND_TOP + 20 * lines + 8;
  const square = narrow ? width - margin.l - margin.r + margin.t + margin.b
    : Math.max(340, Math.min(figure.layout.height + 80, width - 56)) + Math.max(0, margin.b - 90);
  const height = figure.square ? square : figure.layout.height;
  plot.style.height = height + "px";
  const layout = {
    ...figure.layout, height, margin, paper_bgcolor: "rgba(0,0,0,0)", font: { ...figure.layout.font, color: colour },
    modebar: { bgcolor: "rgba(0,0,0,0)" },
  };
  if (lines) layout.legend = { ...figure.layout.legend, y: -LEGEND_TOP / (height - margin.t - margin.b), yanchor: "top" };
  if (still) layout.dragmode = false;
  const above = 1 + 8 / (height - margin.t - margin.b);
  const data = figure.data.map((trace) => {
    const own = { ...trace };
    if (narrow && own.colorbar) own.colorbar = {
      ...own.colorbar, ...roomy(own.colorbar), orientation: "h", x: 0.5, xanchor: "center", y: above, yanchor: "bottom",
      thickness: 9, len: 1, title: { ...own.colorbar.title, side: "top" }, tickfont: { size: 10 },
    };
    // Cells without a change are pale: on a dark page they would outshine the others.
    const pale = own.type === "heatmap" ? !own.colorbar : own.marker?.symbol === "square" && own.x?.[0] === null;
    if (dark && pale) own.opacity = 0.4;
    if (dark && own.mode === "lines" && own.line?.color === INK) own.line = { ...own.line, color: colour };
    return own;
  });
  return { data, layout: structuredClone(layout) };
}

// How many lines the legend will take: Plotly puts all on one, or in columns as wide as the widest.
function legendLines(figure, width) {
  const wide = figure.data.filter((trace) => trace.name && trace.showlegend !== false && trace.type !== "heatmap")
    .map((trace) => 45 + 6.6 * trace.name.length);
  if (wide.reduce((sum, one) => sum + one, 0) <= width) return Math.min(1, wide.length);
  return Math.ceil(wide.length / Math.max(1, Math.floor(width / Math.max(...wide))));
}

// The ticks of a colour bar that lies down: its labels are long, so those that are close to the named level give way.
function roomy({ tickvals, ticktext }) {
  const named = ticktext.findIndex((text) => text.includes("noise")), room = 0.45 * Math.max(...tickvals.map(Math.abs));
  const kept = tickvals.map((value, k) => k).filter(
    (k) => named < 0 || k === named || Math.abs(tickvals[k] - tickvals[named]) > room);
  return { tickvals: kept.map((k) => tickvals[k]), ticktext: kept.map((k) => ticktext[k]) };
}
