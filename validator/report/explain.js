"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const tokens = [...byId("tokens").children];
  const HUES = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a900", "#868e96"];
  const most = Math.max(1e-9, ...data.surprisal.filter((s) => s !== null));
  let at = data.chosen, mode = "fiedler", picked = -1;

  const named = (i) => data.tokens[i].trim() || "␣";
  const mix = (colour, share) => `color-mix(in srgb, ${colour} ${share}%, transparent)`;
  const signed = (value) => [value >= 0 ? "var(--more)" : "var(--less)", Math.abs(value)];

  // Colour and strength in [0, 1] of a token at the layer shown.
  function tint(i) {
    const layer = data.layers[at];
    if (mode === "clusters") return [HUES[layer.clusters[i]], 0.8];
    if (mode === "surprisal") return ["var(--less)", (data.surprisal[i] ?? 0) / most];
    const [colour, size] = signed(layer.fiedler[i]);
    return [colour, size / 100];
  }

  function svg(name, attributes, parent, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  }

  function cleared(id, label) {
    const found = byId(id);
    found.replaceChildren();
    found.setAttribute("aria-label", label);
    return found;
  }

  function colourTokens() {
    tokens.forEach((token, i) => {
      const [colour, strength] = tint(i);
      token.style.background = mix(colour, Math.round(45 * strength));
      token.style.borderBottomColor = mode === "clusters" ? colour : "transparent";
    });
  }

  function legend() {
    const place = byId("legend"), layer = data.layers[at], parts = [];
    const add = (colour, text) => {
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = colour;
      parts.push(swatch, text);
    };
    if (mode === "clusters") {
      for (let k = 0; k < layer.k; k++)
        add(HUES[k], `cluster ${k + 1}: ${layer.clusters.filter((c) => c === k).length} tokens`);
    } else if (mode === "surprisal") {
      add(mix("var(--less)", 45), `surprisal up to ${most.toFixed(2)} nats`);
    } else {
      add(mix("var(--more)", 45), "above 0");
      add(mix("var(--less)", 45), "below 0");
      parts.push(`; Fiedler value ${layer.value}: the nearer to 0, the nearer the graph is to two parts`);
    }
    place.replaceChildren(...parts);
  }

  function detail() {
    const layer = data.layers[at];
    if (picked < 0) return;
    const surprisal = data.surprisal[picked];
    const near = layer.edges.filter((e) => e.includes(picked)).slice(0, 3)
      .map((e) => `“${named(e[0] === picked ? e[1] : e[0])}”`);
    byId("detail").textContent =
      `Token ${picked + 1} of ${tokens.length}, “${named(picked)}”, layer ${layer.layer}: ` +
      `Fiedler vector ${(layer.fiedler[picked] / 100).toFixed(2)} of its largest entry, ` +
      `cluster ${layer.clusters[picked] + 1} of ${layer.k}` +
      (surprisal === null ? "" : `, surprisal ${surprisal.toFixed(2)} nats`) +
      (near.length ? `; strongest edges to ${near.join(", ")}.` : "; none of the edges drawn is its own.");
  }

  function drawGraph() {
    const layer = data.layers[at];
    const place = cleared("graph",
      `Attention graph of layer ${layer.layer}: ${tokens.length} tokens in ${layer.k} clusters`);
    const point = (i) => [24 + layer.xy[i][0] * 0.352, 286 - layer.xy[i][1] * 0.262];
    layer.edges.forEach(([i, j], e) => {
      const [x1, y1] = point(i), [x2, y2] = point(j), own = i === picked || j === picked;
      svg("line", { x1, y1, x2, y2, class: own ? "near" : "edge",
        "stroke-width": (0.4 + layer.weights[e] / 50).toFixed(2),
        "stroke-opacity": own ? 0.95 : (0.08 + layer.weights[e] / 180).toFixed(2) }, place);
    });
    tokens.forEach((_, i) => {
      const [cx, cy] = point(i), [colour, strength] = tint(i);
      const disc = svg("circle", { cx, cy, r: (2.2 + 0.55 * Math.sqrt(layer.size[i])).toFixed(1),
        class: i === picked ? "picked" : "" }, place);
      disc.style.fill = `color-mix(in srgb, ${colour} ${Math.round(15 + 85 * strength)}%, var(--paper))`;
      disc.style.stroke = i === picked ? "currentColor" : colour;
      svg("title", {}, disc, `${i + 1}: ${named(i)}`);
      disc.addEventListener("click", () => pick(i, false));
    });
    // Names where they do not lie on one another; the token that was picked comes first.
    const taken = [];
    for (const i of new Set(picked < 0 ? layer.named : [picked, ...layer.named])) {
      const name = named(i).slice(0, 12), [x, y] = point(i), width = 6.2 * name.length;
      const free = (left) => left > 0 && left + width < 400 &&
        !taken.some(([l, r, t]) => left < r && left + width > l && Math.abs(t - y) < 12);
      const end = x > 330 || !free(x + 9), left = end ? x - 9 - width : x + 9;
      if (!free(left)) continue;
      taken.push([left, left + width, y]);
      svg("text", { x: end ? x - 9 : x + 9, y: y + 4, class: "halo", "text-anchor": end ? "end" : "start" }, place, name);
    }
  }

  function axis(place, y, scale) {
    svg("line", { x1: 40, y1: y, x2: 390, y2: y, class: "axis" }, place);
    for (let tick = 0; tick <= data.top + 1e-9; tick += data.top > 1 ? 0.5 : 0.25)
      svg("text", { x: scale(tick), y: y + 14, "text-anchor": "middle" }, place, String(tick));
    svg("text", { x: 215, y: y + 28, "text-anchor": "middle" }, place, "eigenvalue");
  }

  function drawHistogram() {
    const layer = data.layers[at], place = cleared("histogram",
      `Histogram of the eigenvalues of layer ${layer.layer}, beside content-free graphs`);
    const top = Math.max(...layer.histogram, ...data.null.high, 1);
    const scale = (x) => 40 + (350 * x) / data.top, height = (n) => (190 * n) / top;
    const width = 350 / data.bins;
    layer.histogram.forEach((n, b) => {
      const x = 40 + b * width, low = data.null.low[b], high = data.null.high[b];
      svg("rect", { x: x + 1, y: 210 - height(n), width: width - 2, height: height(n), class: "own",
        "fill-opacity": 0.75 }, place);
      if (high > 0) svg("rect", { x, y: 210 - height(high), width, class: "faint",
        height: Math.max(height(high - low), 1.5) }, place);
    });
    axis(place, 210, scale);
    svg("text", { x: 34, y: 24, "text-anchor": "end" }, place, String(top));
    svg("text", { x: 34, y: 213, "text-anchor": "end" }, place, "0");
  }

  function drawQuantiles() {
    if (!byId("quantiles")) return;
    const layer = data.layers[at], place = cleared("quantiles",
      `Eigenvalue quantiles of layer ${layer.layer}, beside valid traces and content-free graphs`);
    const scale = (x) => 40 + (350 * Math.min(x, data.top)) / data.top;
    const bar = (pair, y, height, attributes) => pair && svg("rect", { x: scale(pair[0]), y, height,
      width: Math.max(scale(pair[1]) - scale(pair[0]), 3), ...attributes }, place);
    data.levels.forEach((level, q) => {
      const y = 8 + 24 * q, [low, high] = layer.valid[q] ?? [NaN, NaN], own = layer.quantiles[q];
      svg("text", { x: 34, y: y + 12, "text-anchor": "end" }, place, `${+(100 * level).toFixed(1)}%`);
      bar(layer.valid[q], y + 1, 9, { class: "own", "fill-opacity": 0.4 });
      bar(data.null.quantiles[q], y + 11, 5, { class: "faint" });
      const inside = own >= low && own <= high;
      const dot = svg("circle", { cx: scale(own), cy: y + 5.5, r: 4 }, place);
      dot.style.fill = inside ? "var(--ink)" : "var(--less)";
      svg("title", {}, dot, `${own}${inside ? "" : ", outside the band of valid traces"}`);
    });
    axis(place, 8 + 24 * data.levels.length, scale);
  }

  function draw() {
    const layer = data.layers[at];
    byId("layer").value = at;
    byId("layer").setAttribute("aria-valuetext", `layer ${layer.layer}`);
    byId("layer-name").textContent = layer.layer;
    document.querySelectorAll(".heat th[data-layer]").forEach((head) =>
      head.classList.toggle("now", Number(head.dataset.layer) === layer.layer));
    colourTokens(); legend(); detail(); drawGraph(); drawHistogram(); drawQuantiles();
  }

  function pick(i, focus) {
    if (picked === i) return;
    tokens.forEach((token, k) => {
      token.setAttribute("aria-selected", String(k === i));
      token.tabIndex = k === i ? 0 : -1;
    });
    picked = i;
    if (focus) tokens[i].focus();
    detail(); drawGraph();
  }

  const show = (next) => { at = Math.min(Math.max(next, 0), data.layers.length - 1); draw(); };
  byId("layer").addEventListener("input", (event) => show(Number(event.target.value)));
  document.querySelectorAll("input[name=colour]").forEach((radio) =>
    radio.addEventListener("change", () => { mode = radio.value; draw(); }));
  tokens.forEach((token, i) => {
    token.addEventListener("click", () => pick(i, true));
    token.addEventListener("focus", () => pick(i, false));
  });
  byId("tokens").addEventListener("keydown", (event) => {
    const last = tokens.length - 1, from = Math.max(picked, 0);
    const moves = { ArrowRight: from + 1, ArrowLeft: from - 1, Home: 0, End: last };
    if (event.key in moves) pick(Math.min(Math.max(moves[event.key], 0), last), true);
    else if (event.key === "ArrowUp") show(at + 1);
    else if (event.key === "ArrowDown") show(at - 1);
    else return;
    event.preventDefault();
  });
  draw();
})();
