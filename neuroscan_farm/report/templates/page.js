(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const box = document.getElementById("figures"), across = document.getElementById("across");
  if (!box) return;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const buttons = [...document.querySelectorAll("#views button")];
  const body = document.querySelector("#all tbody");
  const more = document.getElementById("more");
  const changeDigits = page.decimals;
  // Column -> decimals; texts have none. The columns are: rank, configuration, path, layers run, change, low, high,
  // adjusted p, q, accuracy change, log-odds, accuracy, expected value, coverage, entropy, samples, remark.
  const decimals = [0, null, null, 0, changeDigits, changeDigits, changeDigits, 4, 4, 1, 3, 1, 3, 1, 3, 0, null];
  const ofChance = new Set([7, 8]); // p-values, written as everywhere else in the report
  const signed = new Set([4, 5, 6, 9]);
  const touch = matchMedia("(pointer: coarse)");
  let view = 0, column = 0, ascending = true, all = false;

  function draw(box, figures) {
    const soft = getComputedStyle(document.documentElement).getPropertyValue("--text").trim();
    for (const old of box.querySelectorAll(".plot")) Plotly.purge(old);
    box.replaceChildren();
    const plots = [];
    // All frames first: a figure takes its width from the grid, which depends on how many there are.
    for (const figure of figures) {
      const { frame, plot } = framed(figure);
      box.append(frame);
      plots.push([figure, plot]);
    }
    for (const [figure, plot] of plots) {
      const pooled = figure.data.map(
        (trace) => "customdata" in trace ? { ...trace, customdata: page.pool[trace.customdata] } : trace);
      const fit = { colour: soft, still: touch.matches, dark: dark.matches };
      const { data, layout } = fitted({ ...figure, data: pooled }, plot, fit);
      Plotly.newPlot(plot, data, layout, page.config);
    }
  }

  function drawFigures() {
    draw(box, page.views[view].figures);
  }

  function drawAcross() {
    if (across) draw(across, page.across);
  }

  function cell(text, kind) {
    const element = document.createElement("td");
    if (kind === "path") { // it may be broken after a comma, and never inside a number
      for (const piece of text.split(/(?<=,)/)) element.append(piece, document.createElement("wbr"));
    } else {
      element.textContent = text;
    }
    if (kind) element.className = kind;
    return element;
  }

  function written(value, index) {
    if (value === null) return "–";
    if (decimals[index] === null) return value;
    if (ofChance.has(index)) return value < 0.001 ? "< 0.001" : value.toFixed(value < 0.1 ? 3 : 2);
    const text = value.toFixed(decimals[index]);
    if (Number(text) === 0) return text.replace("-", "");
    return signed.has(index) && value > 0 ? "+" + text : text;
  }

  function drawTable() {
    const rows = page.views[view].rows.map((row, k) => [row[0], ...page.configurations[k], ...row.slice(1)]);
    // What is absent comes last in both directions.
    rows.sort((a, b) => {
      const x = a[column], y = b[column];
      if (x === null || y === null) return (x === null) - (y === null);
      const order = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
      return ascending ? order : -order;
    });
    const shown = all ? rows : rows.slice(0, page.rows_at_first);
    body.replaceChildren(...shown.map((row) => {
      const line = document.createElement("tr");
      line.append(...row.map((value, k) => cell(written(value, k), k === 2 ? "path" : decimals[k] === null ? "" : "n")));
      return line;
    }));
    more.hidden = shown.length === rows.length;
    more.textContent = `Show all ${rows.length}`;
    document.querySelectorAll("#all th").forEach((th, k) => {
      if (k === column) th.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      else th.removeAttribute("aria-sort");
    });
  }

  function show(index) {
    view = index;
    buttons.forEach((button, k) => button.setAttribute("aria-pressed", String(k === view)));
    document.getElementById("table-view").textContent = buttons.length ? buttons[view].textContent : "";
    drawFigures();
    drawTable();
  }

  buttons.forEach((button, k) => button.addEventListener("click", () => show(k)));
  document.querySelectorAll("#all th button").forEach((button) => button.addEventListener("click", () => {
    const next = Number(button.dataset.column);
    // Scores start with the largest; texts, ranks and p-values with the smallest.
    ascending = next === column ? !ascending : decimals[next] === null || [0, 7, 8].includes(next);
    column = next;
    drawTable();
  }));
  more.addEventListener("click", () => { all = true; drawTable(); });
  dark.addEventListener("change", () => { drawFigures(); drawAcross(); });
  document.querySelectorAll(".copy").forEach((button) => button.addEventListener("click", async () => {
    const text = button.parentElement.querySelector("pre").textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(button.parentElement.querySelector("pre"));
    }
  }));
  show(0);
  drawAcross();
})();
