// The browser of items. Data lies in the page as compressed blocks: `overview` names the tasks, `i0` lists task 0's
// responses, `d0-3` holds the fourth hundred of them in full. A block is unpacked when it is looked at, the list has
// elements for the visible rows only, and whatever a model wrote becomes text, never markup.
"use strict";

const ROW = 28;
const element = (id) => document.getElementById(id);
const unpacked = new Map();
let tasks = [], index = [], shown = [], chosen = -1, newest = 0;

function block(name) {
  if (!unpacked.has(name)) {
    const bytes = Uint8Array.from(atob(element(name).textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    unpacked.set(name, new Response(stream).json());
  }
  return unpacked.get(name);
}

function make(tag, text, kind) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function fill(select, choices) {
  select.replaceChildren(...choices.map(([value, text]) => {
    const option = make("option", text);
    option.value = value;
    return option;
  }));
}

const outcomeOf = (row) => (row.score >= 1 ? "right" : row.score <= 0 ? "wrong" : "partly");
const matches = (row, outcome) =>
  outcome === "all" || (outcome === "problem" ? row.problem !== "" : outcome.startsWith("problem: ")
    ? row.problem === outcome.slice(9) : outcomeOf(row) === outcome);

async function openTask() {
  const number = Number(element("task").value), rows = await block(`i${number}`);
  if (number !== Number(element("task").value)) return;  // another one was chosen meanwhile
  index = rows.map(([item, repeat, group, score, problem, question], place) =>
    ({ item, repeat, group, score, problem, question, place }));
  const problems = [...new Set(index.map((row) => row.problem).filter(Boolean))].sort();
  const groups = [...new Set(index.map((row) => row.group).filter(Boolean))].sort();
  fill(element("outcome"), [["all", "all"], ["right", "right"], ["wrong", "wrong"], ["partly", "partly right"],
    ["problem", "any problem"], ...problems.map((name) => [`problem: ${name}`, name])]);
  fill(element("group"), [["", "all"], ...groups.map((name) => [name, name])]);
  element("words").value = "";
  filter();
}

function filter() {
  const outcome = element("outcome").value, group = element("group").value;
  const words = element("words").value.toLowerCase();
  shown = index.filter((row) => matches(row, outcome) && (!group || row.group === group)
    && (!words || `${row.item} ${row.question}`.toLowerCase().includes(words)));
  const total = index.length.toLocaleString("en");
  element("count").textContent = `${shown.length.toLocaleString("en")} of ${total} responses`;
  chosen = -1;
  element("list").scrollTop = 0;
  draw();
}

function draw() {
  const list = element("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
  const last = Math.min(shown.length, first + Math.ceil(list.clientHeight / ROW) + 10);
  const space = make("div");
  space.style.height = `${shown.length * ROW}px`;
  const rows = [];
  for (let place = first; place < last; place++) {
    const row = shown[place], made = make("div", undefined, `row${place === chosen ? " chosen" : ""}`);
    made.style.top = `${place * ROW}px`;
    made.setAttribute("role", "option");
    made.setAttribute("aria-selected", String(place === chosen));
    const outcome = outcomeOf(row);
    const mark = row.problem ? "problem" : outcome;
    made.append(make("span", row.problem ? `${outcome} !` : outcome, `mark ${mark}`),
      `${row.item}${row.repeat ? ` #${row.repeat + 1}` : ""}  ${row.question}`);
    made.title = row.problem;
    made.onclick = () => choose(place);
    rows.push(made);
  }
  list.replaceChildren(space, ...rows);
}

const text = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

function part(name, value) {
  return value === "" || value === undefined || value === null ? [] : [make("h3", name), make("pre", text(value))];
}

function prompt(value) {
  if (!Array.isArray(value)) return part("prompt", value);
  return value.flatMap((message) => part(`prompt: ${message.role}`, message.content));
}

async function choose(place) {
  chosen = place;
  const row = shown[place], task = Number(element("task").value), asked = ++newest;
  const rows = await block(`d${task}-${Math.floor(row.place / 100)}`);
  if (asked !== newest) return;
  const one = rows[row.place % 100];
  const scores = Object.entries(one.scores).map(([name, score]) => `${name} ${score}`).join(", ");
  const head = `${one.item}, answer ${one.repeat + 1}: ${scores}${one.problem ? `; ${one.problem}` : ""}`;
  element("detail").replaceChildren(make("p", head), ...part("extracted", one.extracted || "(nothing)"),
    ...part("right answer", one.gold), ...part("grader's note", one.note), ...part("question", one.question),
    ...part(`response (${one.tokens} tokens, ${one.finish})`, one.text || "(empty)"), ...prompt(one.prompt),
    ...part("details", Object.keys(one.details).length ? one.details : ""), ...part("group", one.group),
    ...part("cluster", one.cluster === one.item ? "" : one.cluster));
  element("detail").scrollTop = 0;
  draw();
}

function onKey(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || !shown.length) return;
  event.preventDefault();
  const place = Math.min(shown.length - 1, Math.max(0, chosen + step)), list = element("list");
  if (place * ROW < list.scrollTop) list.scrollTop = place * ROW;
  if ((place + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (place + 1) * ROW - list.clientHeight;
  choose(place);
}

async function start() {
  tasks = await block("overview");
  fill(element("task"), tasks.map((name, number) => [String(number), name]));
  element("task").onchange = openTask;
  for (const id of ["outcome", "group"]) element(id).onchange = filter;
  element("words").oninput = filter;
  element("list").onscroll = draw;
  element("list").onkeydown = onKey;
  document.querySelector("form").onsubmit = (event) => event.preventDefault();
  window.onresize = draw;
  await openTask();
}

start();
