// --- the task ------------------------------------------------------------------------------------

const page = $(".page");
const LETTERS = "ABCDEFGHI";
const ANCHORS = { 1: "terrible", 4: "acceptable", 7: "perfect" };
const QUESTION_KEYS = "asdfgqwerzx";  // by the order of the questions; not those of other acts
const FEW_QUESTIONS = 4;              // so many are shown under every response, not the active alone
const FOLD = { lines: 12, characters: 900 };
const FOLD_PROMPT = { lines: 24, characters: 2000 };
const LONG_PROMPT = 240;              // characters from which it is set as a text, not as a headline
const LOOK_AGAIN_SECONDS = 15;
const OTHER_REASON = "something else";

let task = null;    // what the server sent
let ratings = [];   // 1..7 or null, by display place, as everything here
let tiers = [];     // the ranking: arrays of places, best first; places in one array tie
let answers = {};   // question key -> array of true (yes), false (no), null (doesn't apply)
let active = 0;
let busy = false;
let shownAt = 0;    // seconds count only while the page is in front
let seconds = 0;
let lookTimer = null;

const say = (text) => { $(".live").textContent = text; };
// Not again what stands there already: it would be read out again.
const complain = (text) => { if ($(".message").textContent !== text) $(".message").textContent = text; };
const label = (key) => key.replaceAll("_", " ");

// --- drawing -----------------------------------------------------------------------------------

function drawTask() {
  drawPrompt();
  $(".responses").replaceChildren(...task.responses.map(responseCard));
  page.classList.toggle("many-questions", task.questions.length > FEW_QUESTIONS);
  $(".instructions-text").textContent = task.instructions;
  $(".instructions-meta").textContent = `For ${task.purpose === "evaluation" ? "a final evaluation" : "training"}, version ${task.version}.`;
  $(".glossary").replaceChildren(...task.questions.map((question) =>
    make("div", {}, make("dt", {}, label(question.key)), make("dd", {}, question.text))));
  $(".question-keys").hidden = !task.questions.length;
  task.responses.forEach((_, place) => showRating(place));
  drawRanking();
  drawAnswers();
  activate(0, false);
}

function drawPrompt() {
  const pre = $(".prompt-text");
  pre.classList.toggle("long", task.prompt.length > LONG_PROMPT);
  pre.classList.remove("folded");
  $$(".prompt .unfold, .prompt .more").forEach((button) => button.remove());
  fold(pre, task.prompt, "the prompt", FOLD_PROMPT);
}

function responseCard(text, place) {
  const name = LETTERS[place];
  const pre = make("pre", { dir: "auto" });
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
    ...task.questions.map((question, index) => questionButton(place, question, QUESTION_KEYS[index])));
  const [compare, difference] = comparison(place);
  const beside = task.questions.length > FEW_QUESTIONS ? [compare, questions] : [questions, compare];
  const card = make("article", { class: "response", "data-place": place, "aria-label": `Response ${name}` },
    make("span", { class: "letter", "aria-hidden": "true" }, name), make("div", { class: "text" }, pre),
    make("div", { class: "controls" }, make("div", { class: "rate-box" }, rating, anchors), ...beside, difference));
  fold(pre, text, name, FOLD);
  card.addEventListener("click", () => activate(place, false));
  // Not at the press of a button: what moved under it would be released on something else.
  card.addEventListener("focusin", (event) => { if (event.target.matches(":focus-visible")) activate(place, false); });
  return card;
}

function questionButton(place, question, key) {
  const button = make("button", { type: "button", class: "question", role: "checkbox", "data-key": question.key },
    make("b", { "aria-hidden": "true" }), make("span", {}, label(question.key)));
  if (key) button.append(make("kbd", { "aria-hidden": "true" }, key));
  button.addEventListener("click", () => cycleAnswer(place, question.key));
  return button;
}

// The text in `pre`; of a long one the beginning. Nothing is cut from it.
function fold(pre, text, name, limit) {
  showText(pre, text, name);
  const lines = text.split("\n").length;
  if (lines <= limit.lines && text.length <= limit.characters) return;
  const size = lines > limit.lines ? `${lines} lines` : `${text.length.toLocaleString("en")} characters`;
  const button = make("button", { type: "button", class: "link unfold", "aria-expanded": "false" });
  const show = (whole) => {
    pre.classList.toggle("folded", !whole);
    button.textContent = whole ? "Show less" : `Show all of ${name} (${size})`;
    button.setAttribute("aria-expanded", String(whole));
  };
  button.addEventListener("click", () => show(pre.classList.contains("folded")));
  show(false);
  pre.after(button);
}

// Another response beside this one, word by word, on request.
function comparison(place) {
  const name = LETTERS[place];
  const select = make("select", { class: "compare", "aria-label": `Compare ${name} with` }, make("option", { value: "" }, "Compare with …"),
    ...task.responses.flatMap((_, other) => (other === place ? [] : [make("option", { value: other }, LETTERS[other])])));
  const shown = make("div", { class: "difference", role: "region", "aria-label": `Difference of ${name}`, hidden: "" });
  select.addEventListener("change", () => {
    shown.hidden = select.value === "";
    if (shown.hidden) return;
    const other = Number(select.value);
    shown.replaceChildren(
      make("p", {}, make("del", {}, `only in ${LETTERS[other]}`), " ", make("ins", {}, `only in ${name}`)),
      differenceNode(task.responses[other], task.responses[place]));
  });
  return [select, shown];
}

// The response that keys rate. What opens or closes above it does not move it on the screen.
function activate(place, scroll = true) {
  const card = $(`.response[data-place="${place}"]`);
  const before = card.getBoundingClientRect().top;
  active = place;
  $$("[data-place]").forEach((node) => node.classList.toggle("active", Number(node.dataset.place) === place));
  window.scrollBy({ top: card.getBoundingClientRect().top - before, behavior: "instant" });
  if (scroll) $(`.response[data-place="${place}"]`).scrollIntoView({ block: "nearest" });
}

function showRating(place) {
  element.querySelectorAll(`[name="rating-${place}"]`).forEach((input) => {
    input.checked = Number(input.value) === ratings[place];
  });
}

function drawAnswers() {
  const wording = new Map(task.questions.map(({ key, text }) => [key, text]));
  $$(".question").forEach((button) => {
    const answer = answers[button.dataset.key][Number(button.closest(".response").dataset.place)];
    const said = answer === null ? "doesn't apply" : answer ? "yes" : "no";
    button.dataset.answer = said;
    button.title = `${wording.get(button.dataset.key)} ${said[0].toUpperCase()}${said.slice(1)}.`;
    button.setAttribute("aria-label", `${label(button.dataset.key)}: ${said}`);
    button.setAttribute("aria-checked", answer === null ? "mixed" : String(answer));
  });
}

// --- judging -----------------------------------------------------------------------------------

function cycleAnswer(place, key) {
  const next = new Map([[false, true], [true, null], [null, false]]);
  answers[key][place] = next.get(answers[key][place]);
  drawAnswers();
  say($(`.response[data-place="${place}"] [data-key="${CSS.escape(key)}"]`).getAttribute("aria-label"));
  keepDraft();
}

const confidence = () => $(".confidence input:checked")?.value ?? null;

function showConfidence(value) {
  $$(".confidence input").forEach((input) => { input.checked = input.value === value; });
}

// The next response that ties with another, from the active one on.
function nextTied() {
  const tied = ratings.flatMap((_, place) => (tiers.some((tier) => tier.length > 1 && tier.includes(place)) ? [place] : []));
  const next = tied.find((place) => place > active) ?? tied[0];
  if (next === undefined) return say("No ties.");
  activate(next);
  say(`${LETTERS[next]}, ${standing(next)}.`);
}

// --- what comes from the server ------------------------------------------------------------------

function receive(reply) {
  if (reply.feedback) return showFeedback(reply);
  const { done, open, skipped } = reply.progress;
  const total = done + open + skipped;
  const before = page.dataset.state;
  clearTimeout(lookTimer);
  drawBar(reply, total);
  if (task) rememberInstructions();
  task = reply.task;
  page.dataset.state = task ? "task" : "end";
  $(".task").hidden = !task;
  $(".end").hidden = Boolean(task);
  $(".feedback").hidden = true;
  if (!task) return showEnd(reply, before);
  active = 0;
  ratings = task.responses.map(() => null);
  tiers = [];
  answers = Object.fromEntries(task.questions.map(({ key }) => [key, task.responses.map(() => false)]));
  const own = ownDraft();
  const draft = laterDraft(own);
  if (draft) {
    ratings = draft.ratings;
    task.questions.forEach(({ key }) => { answers[key] = draft.answers[key]; });
    tiers = draftTiers(draft);
  }
  $("textarea").value = draft?.note ?? task.draft?.note ?? "";
  showConfidence(draft?.confidence ?? null);
  toggleSkip(false);
  drawTask();
  drawPractice(reply.practice);
  $(".confirm").checked = Boolean(draft?.confirmed) && contradiction() !== null;
  toggle("instructions", instructionsWanted || localStorage.getItem(INSTRUCTIONS_SEEN) !== instructionsTold());
  if (draft && draft === own) keepDraft();  // what only this tab has
  if (before !== "loading") $(".prompt h2").focus({ preventScroll: true });
  seconds = 0;
  shownAt = performance.now();
  window.scrollTo(0, 0);
  const begun = task.draft?.from ? "Taken back: " : "";
  const place = reply.practice ? `Practice ${reply.practice[0]} of ${reply.practice[1]}`
    : `Task ${Math.min(total, done + skipped + 1)} of ${total}`;
  say(`${begun}${place}, ${task.responses.length} responses.`);
}

// Instructions open by themselves until a task was ended or they were closed: once for each version.
const INSTRUCTIONS_SEEN = "labeling-instructions";
let instructionsWanted = false;
const instructionsTold = () => `${task.purpose} ${task.version}`;

function rememberInstructions() {
  localStorage.setItem(INSTRUCTIONS_SEEN, instructionsTold());
}

function drawBar(reply, total) {
  const { done, open, skipped, mine } = reply.progress;
  $(".run").textContent = reply.run;
  $(".user").textContent = reply.user;
  $(".count").textContent = `${done} done, ${open} open` + (skipped ? `, ${skipped} skipped` : "");
  $(".yours").textContent = mine ? `${mine} by you` : "";
  $(".meter i").style.width = `${total ? (100 * (done + skipped)) / total : 0}%`;
  $(".meter").setAttribute("aria-valuemax", total);
  $(".meter").setAttribute("aria-valuenow", done + skipped);
  $('[data-do="undo"]').hidden = !reply.can_undo;
  $$(".leads").forEach((link) => { link.hidden = reply.role === "labeler"; });
}

function showEnd({ progress: { done, open, skipped, mine }, next_command }, before) {
  toggle("instructions", false);
  const waiting = open > 0;
  $(".tick").textContent = waiting ? "…" : "✓";
  $(".end h2").textContent = waiting ? "Nothing for you just now" : "All done";
  const skips = skipped ? `, ${skipped} skipped.` : ".";
  $(".end-count").textContent = waiting
    ? `${open} ${open === 1 ? "task is" : "tasks are"} before other labelers. This page looks again by itself.`
    : `${done} ${done === 1 ? "task" : "tasks"} labeled${skips}`;
  $(".mine").textContent = `${mine} of them by you. Thank you!`;
  $(".mine").hidden = waiting || !mine;
  $(".next").hidden = waiting || !next_command;
  $(".command").textContent = next_command ?? "";
  $('[data-do="look"]').hidden = !waiting;
  if (before !== "end") $(".end h2").focus();  // not while one looks again: the focus may be elsewhere
  if (waiting) lookTimer = setTimeout(() => call("next_task", {}), 1000 * LOOK_AGAIN_SECONDS);
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
  call("submit_task", { lease: task.lease, ratings, ranks: ranksOf(tiers), answers, note: $("textarea").value || null,
    confidence: confidence(), confirmed: contradiction() !== null && confirmed, seconds: secondsInFront() });
}

function skip(reason) {
  if (reason === OTHER_REASON && !$("textarea").value.trim()) {
    $("textarea").focus();
    return complain("Say why in the note, then choose it again.");
  }
  call("skip_task", { lease: task.lease, reason, note: $("textarea").value || null });
}

function secondsInFront() {
  if (document.hidden) return seconds;
  return seconds + (performance.now() - shownAt) / 1000;
}
