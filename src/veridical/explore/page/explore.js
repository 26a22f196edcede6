"use strict";
// Whatever is chosen starts a new view. Maps are asked for one after another; answers to an earlier view are dropped
// here, and the server stops computing them.

const BASE = location.pathname;
const PAGE = crypto.getRandomValues(new Uint32Array(2)).reduce((text, part) => text + part.toString(36), "p");
const WAIT = 180; // milliseconds without a change before maps are asked for
const POLL = 400;
const KNOWN = 600; // answers that are kept for the way back
const byId = (id) => document.getElementById(id);

let state = null;
let view = 0;
let timer = 0;
let running = false; // a manipulation
let stalled = false; // maps wait for its end
const chosen = { image: 0, target: null };
const known = new Map();
const cells = new Map();

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

async function call(what, body) {
  const options = { cache: "no-store" };
  if (body !== undefined) {
    Object.assign(options, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    });
  }
  let reply;
  try {
    reply = await fetch(`${BASE}/${what}`, options);
  } catch {
    throw Object.assign(new Error("The server does not answer; is the command still running?"), { status: 0 });
  }
  const content = await reply.json();
  if (!reply.ok) throw Object.assign(new Error(content.error), { status: reply.status });
  return content;
}

const tell = (id, text) => { if (byId(id).textContent !== text) byId(id).textContent = text; };
const percent = (value) => (value === null ? "" : `${(100 * value).toFixed(1)} %`);
const number = (value, digits = 2) => (value === null || value === undefined ? "not measured" : value.toFixed(digits));

// What is asked for.

function beta() {
  const place = Number(byId("beta").value);
  return place === 0 ? null : Number((100 * Math.pow(200, -(place - 1) / 39)).toPrecision(3));
}

function smoothing() {
  if (!state.live) return {};
  const noise = Number(byId("noise").value);
  return noise > 0 ? { beta: beta(), noise, samples: Number(byId("samples").value) } : { beta: beta() };
}

const wanted = () => ({ image: chosen.image, target: chosen.target, ...smoothing() });

// Maps.

function fill(method, answer) {
  const { cell, picture, foot } = cells.get(method.name);
  cell.setAttribute("aria-busy", "false");
  if (answer.error) {
    picture.replaceChildren(make("p", { textContent: answer.error }));
    foot.textContent = "no map";
    return;
  }
  const alt = `Map of ${method.name} for ${state.images[chosen.image].name}, explaining ${answer.label}`;
  picture.replaceChildren(make("img", { src: answer.picture, alt }));
  const range = answer.limit === null ? "" : `range ${answer.limit.toPrecision(2)}`;
  foot.textContent = answer.seconds === undefined ? range : `${range}, ${answer.seconds.toFixed(2)} s`;
}

function keep(key, answer) {
  known.set(key, answer);
  if (known.size > KNOWN) known.delete(known.keys().next().value);
}

async function mapOf(method, request, mine) {
  const key = JSON.stringify([method.name, request]);
  if (known.has(key)) return known.get(key);
  try {
    const answer = await call("map", { ...request, method: method.name, page: PAGE, view: mine });
    keep(key, answer);
    return answer;
  } catch (error) {
    if (error.status === 422) {
      keep(key, { error: error.message });
      return { error: error.message };
    }
    if (error.status === 409 || error.status === 503) return { later: error.message };
    return { error: error.message };
  }
}

async function drawAll() {
  const mine = ++view;
  const request = wanted();
  document.documentElement.dataset.drawn = "";
  for (const { cell } of cells.values()) cell.setAttribute("aria-busy", "true");
  let done = 0;
  let failed = 0;
  for (const method of state.methods) {
    tell("working", `${method.name}: ${done} of ${state.methods.length} maps are drawn`);
    const answer = await mapOf(method, request, mine);
    if (mine !== view) return;
    if (answer.later) {
      stalled = true;
      tell("working", running ? "Maps wait until the manipulation has ended." : answer.later);
      if (!running) setTimeout(() => { if (stalled && !running && mine === view) drawAll(); }, 1500);
      return;
    }
    fill(method, answer);
    done += 1;
    failed += answer.error ? 1 : 0;
  }
  stalled = false;
  tell("working", "");
  const reason = failed ? `, ${failed} methods give none; the reason is in their place` : "";
  tell("status", `${done - failed} of ${state.methods.length} maps${reason}`);
  document.documentElement.dataset.drawn = String(mine);
}

function changed() {
  view += 1; // answers that are on their way are for something else
  clearTimeout(timer);
  timer = setTimeout(drawAll, WAIT);
}

// Image and class.

function describe(explained) {
  const chance = percent(explained.probability);
  return chance ? `${explained.label} (${chance})` : explained.label;
}

function showClasses() {
  const image = state.images[chosen.image];
  const listed = [...image.classes];
  if (chosen.target !== null && !listed.some((one) => one.target === chosen.target)) {
    listed.push({ target: chosen.target, label: state.labels[chosen.target], probability: null });
  }
  byId("classes").replaceChildren(...listed.map((one, place) => {
    const button = make("button", { type: "button", textContent: describe(one) });
    const pressed = chosen.target === null ? place === 0 : chosen.target === one.target;
    button.setAttribute("aria-pressed", String(pressed));
    button.addEventListener("click", () => choose(one.target));
    return button;
  }));
}

function choose(target) {
  chosen.target = target;
  tell("class-problem", "");
  const focused = byId("classes").contains(document.activeElement);
  showClasses();
  if (focused) byId("classes").querySelector("[aria-pressed=true]").focus();
  changed();
}

function chooseByText() {
  const text = byId("other-class").value.trim();
  if (!text) return;
  const lower = text.toLowerCase();
  const leading = /^(\d+)(?::|$)/.exec(text);
  let found = leading ? Number(leading[1]) : state.labels.findIndex((label) => label.toLowerCase() === lower);
  if (found < 0) found = state.labels.findIndex((label) => label.toLowerCase().includes(lower));
  if (found < 0 || found >= state.labels.length) {
    tell("class-problem", `There is no class ${text}; type part of a label, or 0 to ${state.labels.length - 1}.`);
    return;
  }
  choose(found);
}

function chooseImage(place) {
  chosen.image = place;
  chosen.target = null;
  byId("other-class").value = "";
  tell("class-problem", "");
  showClasses();
  showOthers();
  changed();
}

function showImages() {
  byId("images").replaceChildren(...state.images.map((image, place) => {
    const input = make("input", { type: "radio", name: "image", value: String(place), checked: place === 0 });
    input.addEventListener("change", () => chooseImage(place));
    const picture = make("img", { src: image.picture, alt: "" });
    return make("label", {}, input, picture, make("span", { textContent: image.name }));
  }));
}

function showGrid() {
  byId("grid").replaceChildren(...state.methods.map((method) => {
    const picture = make("div", { className: "picture" });
    const foot = make("p", { className: "foot" });
    const cell = make("li", {}, make("h3", { textContent: method.name, title: method.description }), picture, foot);
    if (method.verdict) {
      const verdict = make("p", { className: "verdict", textContent: method.verdict });
      verdict.dataset.verdict = method.verdict;
      foot.before(verdict);
    }
    cell.setAttribute("aria-busy", "true");
    cells.set(method.name, { cell, picture, foot });
    return cell;
  }));
}

// Sliders.

function showSliders() {
  const value = beta();
  const noise = Number(byId("noise").value);
  const texts = {
    beta: value === null ? "off" : String(value),
    noise: noise > 0 ? noise.toFixed(2) : "off",
    samples: byId("samples").value,
  };
  for (const [id, text] of Object.entries(texts)) {
    tell(`${id}-value`, text);
    byId(id).setAttribute("aria-valuetext", text);
  }
  byId("samples").disabled = noise === 0;
}

// Manipulation.

function showOthers() {
  const options = state.images.map((image, place) => make("option", { value: String(place), textContent: image.name }));
  const before = byId("other").value;
  byId("other").replaceChildren(...options.filter((_, place) => place !== chosen.image));
  if (before !== "" && Number(before) !== chosen.image) byId("other").value = before;
}

function showAttacked() {
  byId("attacked").replaceChildren(...state.methods.map((method) => make("option", {
    value: method.name,
    textContent: method.differentiable ? method.name : `${method.name} (without a derivative)`,
    disabled: !method.differentiable,
  })));
}

function setRunning(now) {
  running = now;
  const alone = state.images.length < 2;
  byId("start").disabled = now || alone;
  byId("stop").disabled = !now;
  if (alone) tell("attack-status", "A manipulation needs a second image, whose map is the target.");
}

const FRAMES = {
  clean: "image before", image: "image", change: "change, amplified", original: "map before", map: "map",
  target: "target map",
};

function showFrames(pictures) {
  const place = byId("frames");
  for (const [name, title] of Object.entries(FRAMES)) {
    const found = pictures[name];
    let item = place.querySelector(`[data-name=${name}]`);
    if (!found) {
      if (item) item.remove();
      continue;
    }
    if (!item) {
      item = make("li", {}, make("h3", { textContent: title }),
        make("div", { className: "picture" }, make("img", { alt: title })), make("p"));
      item.dataset.name = name;
      const order = Object.keys(FRAMES);
      const after = [...place.children].find((one) => order.indexOf(one.dataset.name) > order.indexOf(name));
      place.insertBefore(item, after || null);
    }
    const source = found.picture || found;
    const picture = item.querySelector("img");
    if (picture.src !== source) picture.src = source;
    item.querySelector("p").textContent = found.factor ? `times ${Number(found.factor.toPrecision(1))}` : "";
  }
}

function line(points, steps, name) {
  const path = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  const x = (step) => 34 + (356 * step) / Math.max(1, steps);
  const y = (pcc) => 12 + 120 * (1 - Math.max(-0.2, Math.min(1, pcc))) / 1.2;
  path.setAttribute("points", points.map((one) => `${x(one.step).toFixed(1)},${y(one.pcc).toFixed(1)}`).join(" "));
  path.setAttribute("class", name);
  return path;
}

function showCurve(curve, steps) {
  const measured = curve.filter((one) => one.pcc !== null);
  const parts = [
    line([{ step: 0, pcc: 1 }, { step: 0, pcc: -0.2 }], 1, "axis"),
    line([{ step: 0, pcc: 0 }, { step: 1, pcc: 0 }], 1, "axis"),
    line(measured.filter((one) => one.smoothed), steps, "smooth"),
    line(measured.filter((one) => !one.smoothed), steps, "net"),
  ];
  for (const [text, at, to] of [["1", 22, 16], ["0", 22, 116], ["0", 34, 150], [String(steps), 366, 150]]) {
    const label = document.createElementNS("http://www.w3.org/2000/svg", "text");
    label.setAttribute("x", at);
    label.setAttribute("y", to);
    label.textContent = text;
    parts.push(label);
  }
  byId("curve").replaceChildren(...parts);
  const last = measured.filter((one) => !one.smoothed).at(-1);
  const now = last ? `; of the network at step ${last.step}: ${number(last.pcc)}` : "";
  const dashed = measured.some((one) => one.smoothed) ? " Dashed: on the softplus network of the attack." : "";
  tell("curve-title", `Correlation with the target map, by step${now}.${dashed}`);
}

function showFigures(figures) {
  const { before, after } = figures;
  const rows = after === undefined ? [] : [
    ["correlation with the target map", `${number(before.to_target.pcc)} before, ${number(after.to_target.pcc)} after`],
    ["correlation with the map before", number(after.to_original.pcc)],
    ["class", `${after.output.class_kept ? "kept" : "changed to"} ${after.output.label_after}`],
    ["change of its probability", number(after.output.probability_change, 4)],
    ["largest change of a pixel", `${number(255 * after.image.linf, 1)} of 255`],
    ["PSNR", `${number(after.image.psnr, 1)} dB`],
    ["kept step", String(figures.kept_step)],
    ["seconds", number(figures.seconds, 1)],
  ];
  byId("figures").replaceChildren(...rows.flatMap(([name, text]) => [
    make("dt", { textContent: name }), make("dd", { textContent: text }),
  ]));
}

function showProgress(progress) {
  byId("attack-view").hidden = progress.phase === "idle" || (progress.phase === "failed" && !progress.curve.length);
  byId("progress").max = Math.max(1, progress.steps);
  byId("progress").value = progress.step;
  byId("progress-text").textContent = `Step ${progress.step} of ${progress.steps}`;
  showFrames(progress.pictures);
  showCurve(progress.curve, progress.steps);
  showFigures(progress.figures);
}

async function watch() {
  try {
    const progress = await call("manipulation");
    showProgress(progress);
    document.documentElement.dataset.attack = progress.phase;
    if (progress.phase === "running") {
      if (!running) setRunning(true);
      setTimeout(watch, POLL);
      return;
    }
    if (progress.phase === "failed") tell("attack-status", `It could not be done: ${progress.message}`);
    if (progress.phase === "done") {
      const why = progress.figures.interrupted ? "Stopped; the best image until then is shown." : "Done.";
      tell("attack-status", `${why} Correlation with the target ${number(progress.figures.after.to_target.pcc)}.`);
    }
    const ended = running;
    setRunning(false);
    if (ended && stalled) drawAll();
  } catch (error) {
    tell("attack-status", error.message);
    if (running) setTimeout(watch, 2000);
  }
}

async function begin(event) {
  event.preventDefault();
  const request = {
    ...wanted(), method: byId("attacked").value, other: Number(byId("other").value), steps: Number(byId("steps").value),
  };
  setRunning(true);
  tell("attack-status", "Running.");
  try {
    await call("manipulate", request);
  } catch (error) {
    setRunning(false);
    tell("attack-status", error.message);
    return;
  }
  watch();
}

async function stop() {
  byId("stop").disabled = true;
  tell("attack-status", "Stopping after this step …");
  try {
    await call("stop", {});
  } catch (error) {
    tell("attack-status", error.message);
  }
}

async function load() {
  try {
    state = await call("state");
  } catch (error) {
    tell("status", error.message);
    return;
  }
  document.documentElement.dataset.live = String(state.live);
  document.title = `Explore ${state.name}`;
  byId("name").textContent = state.name;
  byId("notes").replaceChildren(...state.notes.map((text) => make("li", { textContent: text })));
  byId("labels").replaceChildren(...state.labels.map((label, place) => make("option", { value: `${place}: ${label}` })));
  showImages();
  showClasses();
  showGrid();
  if (state.live) {
    showAttacked();
    showOthers();
    showSliders();
    setRunning(false);
    watch();
  }
  drawAll();
}

for (const id of ["beta", "noise", "samples"]) {
  byId(id).addEventListener("input", () => {
    showSliders();
    changed();
  });
}
byId("other-class").addEventListener("change", chooseByText);
byId("attack").addEventListener("submit", begin);
byId("stop").addEventListener("click", stop);
load();
