"use strict";
// One participant's page. An answer is kept in the browser until the server has confirmed it, and it may be sent
// any number of times: the server counts the first one.

const BASE = location.pathname;
const PREFIX = `veridical-study:${BASE}:`;
const PAUSE = 250; // milliseconds after a pair appears in which a second tap of the last one may still arrive
const AHEAD = 12; // pairs that are loaded in advance, so that a lost connection does not stop anybody
const byId = (id) => document.getElementById(id);

const waiting = new Map(); // position -> side: answers without the server's confirmation
let study = null;
let current = null;
let readyAt = Infinity;
let pause = 1000;
let timer = 0;
let sending = false;
let broken = "";
const loaded = new Map();

function keep(position, side) {
  waiting.set(position, side);
  try { localStorage.setItem(PREFIX + position, side); } catch { /* private mode: memory alone */ }
}

function forget(position) {
  waiting.delete(position);
  try { localStorage.removeItem(PREFIX + position); } catch { /* as above */ }
}

function recall() {
  try {
    for (const key of Object.keys(localStorage)) {
      if (key.startsWith(PREFIX)) waiting.set(Number(key.slice(PREFIX.length)), localStorage.getItem(key));
    }
  } catch { /* as above */ }
}

const pictureOf = (name) => `${BASE}/pictures/${name}.png`;

function call(what, body) {
  const options = { cache: "no-store", signal: AbortSignal.timeout(10000) };
  if (body !== undefined) {
    Object.assign(options, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    });
  }
  return fetch(`${BASE}/${what}`, options);
}

function show(id) {
  for (const section of document.querySelectorAll("section")) section.hidden = section.id !== id;
  byId("footer").hidden = !study || !study.consented;
}

function paragraphs(place, texts) {
  place.replaceChildren(...texts.map((text) => {
    const paragraph = document.createElement("p");
    paragraph.textContent = text;
    return paragraph;
  }));
}

function tell() {
  const count = study ? study.questions.length : 0;
  const done = study ? study.questions.filter((question) => question.answered).length : 0;
  byId("progress").max = Math.max(1, count);
  byId("progress").value = done;
  byId("progress-text").textContent = `${done} of ${count} answered`;
  const held = waiting.size;
  let text = broken;
  if (!text && held && pause > 1000) {
    text = `No connection. ${held} answer(s) are kept on this device and will be sent; keep this page open.`;
  }
  if (byId("status").textContent !== text) byId("status").textContent = text;
  byId("done-text").textContent = held
    ? "Your last answers are being saved …" : "All your answers are saved. You can close this page.";
  document.documentElement.dataset.waiting = String(held);
}

async function send() {
  if (sending || broken) return;
  sending = true;
  clearTimeout(timer);
  try {
    while (waiting.size) {
      const [position, side] = waiting.entries().next().value;
      const reply = await call("answer", { position, side });
      if (reply.ok || reply.status === 409) {
        forget(position);
        pause = 1000;
      } else if (reply.status >= 400 && reply.status < 500) {
        broken = `The study did not take an answer: ${(await reply.text()).trim()}`;
        return;
      } else {
        throw new Error(`status ${reply.status}`);
      }
      tell();
    }
  } catch {
    pause = Math.min(pause * 2, 15000);
    timer = setTimeout(send, pause);
  } finally {
    sending = false;
    tell();
  }
}

function choose(side) {
  if (!current || performance.now() < readyAt) return;
  const question = current;
  current = null;
  readyAt = Infinity;
  question.answered = true;
  keep(question.position, side);
  send();
  advance();
}

function load(name) {
  if (!loaded.has(name)) {
    const picture = new Image();
    picture.src = pictureOf(name);
    loaded.set(name, picture);
  }
}

async function ask(question) {
  current = question;
  readyAt = Infinity;
  const task = study.tasks.find((one) => one.name === question.task);
  byId("question").textContent = task.question;
  const [left, right, shown] = [byId("left").firstChild, byId("right").firstChild, byId("shown")];
  shown.hidden = !question.shown;
  show("asking");
  tell();
  const wanted = [[left, question.left], [right, question.right]];
  if (question.shown) wanted.push([shown, question.shown]);
  try {
    for (const [element, name] of wanted) element.src = pictureOf(name);
    await Promise.all(wanted.map(([element]) => element.decode()));
  } catch {
    if (current !== question) return;
    byId("status").textContent = "The next pictures cannot be loaded. Trying again …";
    setTimeout(() => { if (current === question) ask(question); }, 1500);
    return;
  }
  if (current !== question) return;
  readyAt = performance.now() + PAUSE;
  document.documentElement.dataset.asking = String(question.position);
  const next = study.questions.filter((one) => !one.answered && one !== question).slice(0, AHEAD);
  for (const one of next) for (const name of [one.left, one.right, one.shown]) if (name) load(name);
}

function introduce(task) {
  const number = study.tasks.indexOf(task) + 1;
  byId("task-number").textContent = `Task ${number} of ${study.tasks.length}`;
  byId("task-title").textContent = task.title;
  paragraphs(byId("instructions"), task.instructions);
  byId("examples").replaceChildren(...task.examples.map((example) => {
    const figure = document.createElement("figure");
    const picture = document.createElement("img");
    const caption = document.createElement("figcaption");
    picture.src = pictureOf(example.picture);
    picture.alt = example.text;
    caption.textContent = example.text;
    caption.setAttribute("aria-hidden", "true");
    figure.append(picture, caption);
    return figure;
  }));
  const first = study.questions.find((question) => question.task === task.name);
  for (const name of [first.left, first.right, first.shown]) if (name) load(name);
  task.introduced = true;
  show("introduction");
  tell();
  byId("start").focus();
}

function advance() {
  const next = study.questions.find((question) => !question.answered);
  if (!next) {
    current = null;
    show("done");
    tell();
    byId("thanks").focus();
    return;
  }
  const task = study.tasks.find((one) => one.name === next.task);
  const begun = study.questions.some((question) => question.task === next.task && question.answered);
  if (!task.introduced && !begun) introduce(task);
  else ask(next);
}

async function agree() {
  try {
    const reply = await call("consent", {});
    if (!reply.ok) throw new Error(`status ${reply.status}`);
  } catch {
    byId("status").textContent = "No connection. Please try again in a moment.";
    return;
  }
  byId("status").textContent = "";
  study.consented = true;
  advance();
}

async function begin() {
  try {
    const reply = await call("state");
    if (!reply.ok) throw new Error(`status ${reply.status}`);
    study = await reply.json();
  } catch {
    byId("status").textContent = "No connection. Trying again …";
    setTimeout(begin, 2000);
    return;
  }
  byId("status").textContent = "";
  recall();
  for (const question of study.questions) if (waiting.has(question.position)) question.answered = true;
  document.title = study.title;
  byId("title").textContent = study.title;
  paragraphs(byId("consent-text"), study.consent);
  if (study.consented) {
    send();
    advance();
  } else {
    show("consent");
    byId("title").focus();
  }
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  if (event.repeat) { // a key that is held down answers once
    if (["ArrowLeft", "ArrowRight", "Enter", " "].includes(event.key)) event.preventDefault();
    return;
  }
  if (!current) return;
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    event.preventDefault();
    choose(event.key === "ArrowLeft" ? "left" : "right");
  }
});
byId("left").addEventListener("click", () => choose("left"));
byId("right").addEventListener("click", () => choose("right"));
byId("start").addEventListener("click", () => {
  advance();
  byId("question").focus();
});
byId("agree").addEventListener("click", agree);
window.addEventListener("online", send);
begin();
