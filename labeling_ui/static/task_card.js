// The labeling page. `element` holds task_card.html; `server` makes the three calls of task_card.py.
// Text from outside (prompts, responses, questions) is only ever put into textContent.
const $ = (selector) => element.querySelector(selector);
const page = $(".page");
const LETTERS = "ABCDEFGHI";
const ANCHORS = { 1: "terrible", 4: "acceptable", 7: "perfect" };
// Controls that could reorder or hide text: C0, C1 and the bidirectional overrides and isolates.
const CONTROL = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/;

let task = null;    // what the server sent
let ratings = [];   // 1..7 or null, by display place, as everything here
let tiers = [];     // the ranking: arrays of places, best first; places in one array tie
let answers = {};   // question key -> array of true, false, null
let active = 0;
let busy = false;
let shownAt = 0;    // seconds count only while the page is in front
let seconds = 0;

// --- small builders ----------------------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Verbatim text: textContent equals `text`, and a control character neither acts nor hides.
function setText(pre, text) {
  pre.replaceChildren();
  for (const part of text.split(new RegExp(`(${CONTROL.source})`))) {
    if (CONTROL.test(part)) {
      const code = "U+" + part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      pre.append(make("bdi", { class: "control", "data-code": code, title: code }, part));
    } else if (part) {
      pre.append(part);
    }
  }
}

const say = (text) => { $(".live").textContent = text; };
const complain = (text) => { $(".message").textContent = text; };
const label = (key) => key.replaceAll("_", " ");

// --- drawing -----------------------------------------------------------------------------------

function drawTask() {
  setText($(".prompt-text"), task.prompt);
  $(".responses").replaceChildren(...task.responses.map(responseCard));
  $(".instructions-text").textContent = task.instructions;
  $(".glossary").replaceChildren(...task.questions.map((question) =>
    make("div", {}, make("dt", {}, label(question.key)), make("dd", {}, question.text))));
  task.responses.forEach((_, place) => showRating(place));
  drawRanking();
  drawAnswers();
  activate(0, false);
}

function responseCard(text, place) {
  const name = LETTERS[place];
  const pre = make("pre", { dir: "auto" });
  setText(pre, text);
  const rating = make("fieldset", { class: "rating" },
    make("legend", { class: "sr" }, `Rating of response ${name}`));
  for (let value = 1; value <= 7; value++) {
    const input = make("input", { type: "radio", name: `rating-${place}`, value });
    input.setAttribute("aria-label", ANCHORS[value] ? `${value}, ${ANCHORS[value]}` : `${value}`);
    input.addEventListener("change", () => rate(place, value));
    rating.append(make("label", {}, input, `${value}`));
  }
  const anchors = make("div", { class: "anchors", "aria-hidden": "true" },
    ...Object.values(ANCHORS).map((word) => make("span", {}, word)));
  const questions = make("div", { class: "questions", role: "group", "aria-label": `Questions on ${name}` },
    ...task.questions.map((question) => {
      const button = make("button", { type: "button", class: "question", role: "checkbox",
        "data-key": question.key }, make("b"), label(question.key));
      button.addEventListener("click", () => cycleAnswer(place, question.key));
      return button;
    }));
  const card = make("article", { class: "response", "data-place": place, "aria-label": `Response ${name}` },
    make("span", { class: "letter", "aria-hidden": "true" }, name), pre,
    make("div", { class: "controls" }, make("div", { class: "rate-box" }, rating, anchors), questions));
  for (const event of ["pointerdown", "focusin"]) {
    card.addEventListener(event, () => activate(place, false));
  }
  return card;
}

function activate(place, scroll = true) {
  active = place;
  element.querySelectorAll("[data-place]").forEach((node) =>
    node.classList.toggle("active", Number(node.dataset.place) === place));
  if (scroll) $(`.response[data-place="${place}"]`).scrollIntoView({ block: "nearest" });
}

function showRating(place) {
  element.querySelectorAll(`[name="rating-${place}"]`).forEach((input) => {
    input.checked = Number(input.value) === ratings[place];
  });
}

function drawAnswers() {
  const wording = new Map(task.questions.map(({ key, text }) => [key, text]));
  element.querySelectorAll(".response").forEach((card) => {
    const place = Number(card.dataset.place);
    card.querySelectorAll(".question").forEach((button) => {
      const answer = answers[button.dataset.key][place];
      button.dataset.answer = answer === null ? "open" : answer ? "yes" : "no";
      button.title = `${wording.get(button.dataset.key)} ${answer === null ? "Not answered" : answer ? "Yes" : "No"}.`;
      button.setAttribute("aria-checked", answer === null ? "mixed" : String(answer));
    });
  });
  const open = Object.values(answers).flat().filter((answer) => answer === null).length;
  $(".open-questions").hidden = open === 0;
  $(".open-questions span").textContent = open === 1 ? "1 question not answered:" : `${open} questions not answered:`;
}

function drawRanking() {
  const list = $(".tiers");
  const rows = [];
  let rank = 1;
  tiers.forEach((tier, index) => {
    rows.push(gap(index), tierRow(tier, index, rank));
    rank += tier.length;
  });
  if (tiers.length) rows.push(gap(tiers.length));
  const focused = document.activeElement?.dataset?.focus;
  list.replaceChildren(...rows);
  if (focused) list.querySelector(`[data-focus="${focused}"]`)?.focus();
  const missing = ratings.flatMap((rating, place) => (rating === null ? [LETTERS[place]] : []));
  $(".unrated").textContent = missing.length ? `Not rated yet: ${missing.join(", ")}` : "";
  const byHand = JSON.stringify(tiers) !== JSON.stringify(tiersFromRatings());
  $(".hint").textContent = byHand ? "changed by hand" : "follows your ratings";
  $('[data-do="as-rated"]').hidden = !byHand;
  drawContradiction();
  const submit = $(".submit");
  submit.setAttribute("aria-disabled", String(missing.length > 0));
  submit.textContent = missing.length ? `Rate ${missing.length} more` : "Submit";
  activate(active, false);
}

function tierRow(tier, index, rank) {
  const place = make("span", { class: "place" }, `${rank}`);
  if (tier.length > 1) place.append(make("small", {}, "tie"));
  const row = make("li", { class: "tier" }, place, make("span", { class: "chips" }, ...tier.map(chip)));
  acceptDrop(row, (moved) => moveTo(moved, tiers[index], null));
  return row;
}

function chip(place) {
  const name = LETTERS[place];
  const button = make("button", { type: "button", class: "chip-name", "data-focus": `name-${place}`,
    "aria-label": `Response ${name}, rated ${ratings[place]}` },
    make("b", {}, name), make("span", {}, `${ratings[place]}`));
  button.addEventListener("click", () => activate(place));
  const node = make("span", { class: "chip", draggable: "true", "data-place": place }, button,
    mover(place, -1, "▲", `Move ${name} up`), mover(place, 1, "▼", `Move ${name} down`));
  node.addEventListener("dragstart", (event) => {
    event.dataTransfer.setData("text/plain", String(place));
    event.dataTransfer.effectAllowed = "move";
    node.classList.add("dragged");
    setTimeout(() => $(".tiers").classList.add("dragging"));
  });
  node.addEventListener("dragend", () => {
    node.classList.remove("dragged");
    $(".tiers").classList.remove("dragging");
  });
  return node;
}

function mover(place, step, sign, title) {
  const button = make("button", { type: "button", class: "chip-move", title, "aria-label": title,
    "data-focus": `${step}-${place}` }, sign);
  button.addEventListener("click", () => { activate(place, false); move(place, step); });
  return button;
}

function gap(index) {
  const node = make("li", { class: "gap", "aria-hidden": "true" });
  acceptDrop(node, (moved) => moveTo(moved, null, tiers[index] ?? null));
  return node;
}

function acceptDrop(node, drop) {
  node.addEventListener("dragover", (event) => { event.preventDefault(); node.classList.add("over"); });
  node.addEventListener("dragleave", () => node.classList.remove("over"));
  node.addEventListener("drop", (event) => {
    event.preventDefault();
    const place = Number(event.dataTransfer.getData("text/plain"));
    if (tiers.some((tier) => tier.includes(place))) drop(place);
  });
}

// What the store would refuse unless it is confirmed: ranked strictly better, rated strictly lower.
function contradiction() {
  for (let upper = 0; upper < tiers.length; upper++) {
    for (let lower = upper + 1; lower < tiers.length; lower++) {
      for (const a of tiers[upper]) for (const b of tiers[lower]) {
        if (ratings[a] < ratings[b]) return [a, b];
      }
    }
  }
  return null;
}

function drawContradiction() {
  const pair = contradiction();
  const box = $(".contradiction");
  const text = pair && `${LETTERS[pair[0]]} stands above ${LETTERS[pair[1]]}, but you rated it lower ` +
    `(${ratings[pair[0]]} and ${ratings[pair[1]]}).`;
  if (box.hidden || box.querySelector("p").textContent !== text) $(".confirm").checked = false;
  box.hidden = !pair;
  box.querySelector("p").textContent = text ?? "";
  const odd = tiers.find((tier) => new Set(tier.map((place) => ratings[place])).size > 1);
  $(".odd-tie").hidden = !odd;
  $(".odd-tie").textContent = odd
    ? `${odd.map((place) => LETTERS[place]).join(" and ")} tie though their ratings differ.` : "";
}

// --- judging -----------------------------------------------------------------------------------

// A rating puts its response where the rating belongs; whatever else was moved by hand stays.
function rate(place, value) {
  if (ratings[place] === value) return;
  ratings[place] = value;
  showRating(place);
  removeFromTiers(place);
  const equal = tiers.find((tier) => tier.some((other) => ratings[other] === value));
  if (equal) {
    equal.push(place);
    equal.sort((a, b) => a - b);
  } else {
    const below = tiers.findIndex((tier) => Math.max(...tier.map((other) => ratings[other])) < value);
    tiers.splice(below < 0 ? tiers.length : below, 0, [place]);
  }
  drawRanking();
  say(`${LETTERS[place]} rated ${value}, ${standing(place)}.`);
  keepDraft();
}

function tiersFromRatings() {
  const values = [...new Set(ratings.filter((rating) => rating !== null))].sort((a, b) => b - a);
  return values.map((value) => ratings.flatMap((rating, place) => (rating === value ? [place] : [])));
}

function rankAsRated() {
  tiers = tiersFromRatings();
  drawRanking();
  say("The ranking follows the ratings again.");
  keepDraft();
}

function removeFromTiers(place) {
  tiers = tiers.map((tier) => tier.filter((other) => other !== place)).filter((tier) => tier.length);
}

function standing(place) {
  const index = tiers.findIndex((tier) => tier.includes(place));
  const rank = 1 + tiers.slice(0, index).flat().length;
  const tied = tiers[index].filter((other) => other !== place).map((other) => LETTERS[other]);
  return `rank ${rank}` + (tied.length ? `, tied with ${tied.join(" and ")}` : "");
}

// Joins the tier `into`, or makes a tier of its own before the tier `before` (null: at the end).
function moveTo(place, into, before) {
  if (into?.includes(place) || (before?.length === 1 && before[0] === place)) return drawRanking();
  tiers.forEach((tier) => { if (tier.includes(place)) tier.splice(tier.indexOf(place), 1); });
  if (into) {
    into.push(place);
    into.sort((a, b) => a - b);
  } else {
    tiers.splice(before ? tiers.indexOf(before) : tiers.length, 0, [place]);
  }
  tiers = tiers.filter((tier) => tier.length);
  drawRanking();
  say(`${LETTERS[place]}: ${standing(place)}.`);
  keepDraft();
}

// One step: out of a tie to the side one goes, or, from a tier of one's own, into the next one.
function move(place, step) {
  const index = tiers.findIndex((tier) => tier.includes(place));
  if (index < 0) return;
  if (tiers[index].length > 1) moveTo(place, null, tiers[step < 0 ? index : index + 1] ?? null);
  else if (tiers[index + step]) moveTo(place, tiers[index + step], null);
}

function cycleAnswer(place, key) {
  const next = new Map([[null, true], [true, false], [false, null]]);
  answers[key][place] = next.get(answers[key][place]);
  drawAnswers();
  keepDraft();
}

function answerRestNo() {
  for (const key of Object.keys(answers)) answers[key] = answers[key].map((answer) => answer ?? false);
  drawAnswers();
  say("All open questions are answered with no.");
  keepDraft();
}

// --- a draft for this tab, so that a reload loses nothing ---------------------------------------

const draftKey = () => `labeling-${page.dataset.run}-${task.task_id}`;

function keepDraft() {
  const draft = { responses: task.responses, ratings, tiers, answers, note: $("textarea").value };
  try { sessionStorage.setItem(draftKey(), JSON.stringify(draft)); } catch { /* no room: no draft */ }
}

function takeDraft() {
  try {
    const draft = JSON.parse(sessionStorage.getItem(draftKey()));
    const same = draft && JSON.stringify([draft.responses, Object.keys(draft.answers)]) ===
      JSON.stringify([task.responses, Object.keys(answers)]);
    if (same) ({ ratings, tiers, answers } = draft);
    return same ? draft.note : "";
  } catch { return ""; }
}

// --- calls -------------------------------------------------------------------------------------

async function call(name, data) {
  if (busy) return;
  busy = true;
  page.classList.add("busy");
  complain("");
  try {
    const reply = await server[name](data);
    if (!reply || !reply.progress) {
      complain(reply?.error ?? "Not saved: the application does not answer. Your work is still " +
        "here: see whether it runs in the terminal, then try again.");
      return;
    }
    if (task) sessionStorage.removeItem(draftKey());
    receive(reply);
  } finally {
    busy = false;
    page.classList.remove("busy");
  }
}

function receive(reply) {
  const { done, open, skipped } = reply.progress;
  const total = done + open + skipped;
  page.dataset.run = reply.run;
  $(".run").textContent = reply.run;
  $(".count").textContent = `${done} done, ${open} open` + (skipped ? `, ${skipped} skipped` : "");
  $(".meter i").style.width = `${total ? (100 * (done + skipped)) / total : 0}%`;
  $(".meter").setAttribute("aria-valuemax", total);
  $(".meter").setAttribute("aria-valuenow", done + skipped);
  task = reply.task;
  page.dataset.state = task ? "task" : "end";
  $(".task").hidden = !task;
  $(".end").hidden = Boolean(task);
  if (!task) return showEnd(reply);
  ratings = task.responses.map(() => null);
  tiers = [];
  answers = Object.fromEntries(task.questions.map(({ key }) => [key, task.responses.map(() => null)]));
  $("textarea").value = takeDraft();
  toggleSkip(false);
  drawTask();
  if (done + skipped === 0) toggle("instructions", true);
  seconds = 0;
  shownAt = performance.now();
  window.scrollTo(0, 0);
  say(`Task ${done + skipped + 1} of ${total}, ${task.responses.length} responses.`);
}

function showEnd({ progress: { done, skipped }, next_command }) {
  for (const name of ["instructions", "keys"]) toggle(name, false);
  $(".end-count").textContent = `${done} ${done === 1 ? "task" : "tasks"} labeled` +
    (skipped ? `, ${skipped} skipped.` : ".");
  $(".command").textContent = next_command;
  $(".end h2").focus();
}

function submit() {
  if (!task) return;
  const missing = ratings.findIndex((rating) => rating === null);
  if (missing >= 0) { activate(missing); return complain(`Response ${LETTERS[missing]} is not rated yet.`); }
  const confirmed = $(".confirm").checked;
  if (contradiction() && !confirmed) {
    $(".confirm").focus();
    return complain("Ranking and ratings contradict each other: confirm it, or change one of them.");
  }
  const ranks = ratings.map((_, place) =>
    1 + tiers.slice(0, tiers.findIndex((tier) => tier.includes(place))).flat().length);
  call("submit_task", { task_id: task.task_id, ratings, ranks, answers, note: $("textarea").value || null,
    confirmed: contradiction() !== null && confirmed, seconds: secondsInFront() });
}

function skip(reason) {
  call("skip_task", { task_id: task.task_id, reason, note: $("textarea").value || null });
}

function secondsInFront() {
  if (document.hidden) return seconds;
  return seconds + (performance.now() - shownAt) / 1000;
}

// --- controls ----------------------------------------------------------------------------------

function toggle(name, show) {
  const panel = $(`.panel.${name}`);
  panel.hidden = show === undefined ? !panel.hidden : !show;
  $(`[data-do="${name}"]`).setAttribute("aria-expanded", String(!panel.hidden));
}

function toggleSkip(show) {
  $(".skip-form").hidden = !show;
  $(".side").classList.toggle("skipping", show);
  if (show) $(".reasons button").focus();
}

const ACTIONS = {
  instructions: () => toggle("instructions"),
  keys: () => toggle("keys"),
  "rest-no": answerRestNo,
  "as-rated": rankAsRated,
  skip: () => toggleSkip(true),
  "skip-cancel": () => toggleSkip(false),
  submit,
};
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.do) ACTIONS[button.dataset.do]();
  if (button?.dataset.reason) skip(button.dataset.reason);
});
$("textarea").addEventListener("input", keepDraft);

const TEXT_FIELDS = "textarea, select, [contenteditable], input:not([type=radio]):not([type=checkbox])";
const KEYS_OFF = "labeling-keys-off";
$(".keys-on").checked = localStorage.getItem(KEYS_OFF) === null;
$(".keys-on").addEventListener("change", (event) => {
  if (event.target.checked) localStorage.removeItem(KEYS_OFF);
  else localStorage.setItem(KEYS_OFF, "1");
});

function onKey(event) {
  if (!task || !element.isConnected || event.isComposing) return;
  // A key held down too long must not rate the next response, or submit the next task.
  if (event.repeat && (event.key === "Enter" || /^[1-7]$/.test(event.key))) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    return submit();
  }
  if (event.target.closest?.(TEXT_FIELDS)) return;
  if (event.altKey && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
    event.preventDefault();
    return move(active, event.key === "ArrowUp" ? -1 : 1);
  }
  if (event.ctrlKey || event.altKey || event.metaKey || !$(".keys-on").checked) return;
  const last = task.responses.length - 1;
  if (/^[1-7]$/.test(event.key)) {
    rate(active, Number(event.key));
    activate(Math.min(active + 1, last));
  } else if (event.key === "j") activate(Math.min(active + 1, last));
  else if (event.key === "k") activate(Math.max(active - 1, 0));
  else if (event.key === "n") answerRestNo();
  else return;
  event.preventDefault();
  if (document.activeElement?.name?.startsWith("rating-")) document.activeElement.blur();
}
document.addEventListener("keydown", onKey);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) seconds += (performance.now() - shownAt) / 1000;
  else shownAt = performance.now();
});

call("next_task", {});
