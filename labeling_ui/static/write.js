// The page on which answers are written. Text from outside goes through setText (text.js) alone, or
// into a field's value.

const element = document;  // where text.js looks
const CHARACTERS = 20_000;
const LOOK_AGAIN_SECONDS = 15;
const LONG_PROMPT = 240;  // characters from which it is set as a text, not as a headline

const answer = $(".answer"), ownPrompt = $(".own-prompt");
let tab = "given";
let piece = null;       // what the server sent: a draft, or null where there is none
let startedFrom = null;
let listed = [];
let busy = false;
let lookTimer = null;
let shownAt = 0;        // seconds count only while the page is in front
let seconds = 0;

const say = (text) => { $(".live").textContent = text; };
// Not again what stands there already: it would be read out again.
const complain = (text) => { if ($(".message").textContent !== text) $(".message").textContent = text; };
const saved = (text) => { $(".saved").textContent = text; };
const length = (text) => [...text].length;  // as the server counts
const kindChosen = () => $(".kinds input:checked")?.value ?? "plain";

// --- drawing -------------------------------------------------------------------------------------

function receive(reply, { ended = false } = {}) {
  clearTimeout(lookTimer);
  forgetDraft(ended || !unsaved());
  drawCount(reply);
  drawMine(reply);
  piece = reply.piece;
  tab = reply.tab;
  showTab();
  $$(".tabs a").forEach((link) => {
    if (link.hash === `#${tab}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  document.body.dataset.state = piece ? "writing" : "none";
  $(".work").hidden = !piece;
  $(".none").hidden = Boolean(piece);
  $(".loading").hidden = true;
  $(".lost").hidden = true;
  if (!piece) {
    $(".none h2").focus();
    lookTimer = setTimeout(lookAgain, 1000 * LOOK_AGAIN_SECONDS);
    return;
  }
  drawPiece();
  takeFocus();
}

function drawPiece() {
  const draft = ownDraft();
  const shown = draft ?? piece;
  const given = piece.kind === "given";
  base = piece.saved;
  $(".given").hidden = !given;
  $(".own").hidden = given;
  $(".editing").hidden = !piece.edits;
  $('[data-do="skip"]').hidden = !given || piece.edits;
  toggleSkip(false);
  if (given) drawPrompt();
  else {
    ownPrompt.value = shown.prompt;
    $$(".kinds input").forEach((input) => { input.checked = input.value === shown.kind; });
  }
  answer.value = shown.response;
  startedFrom = shown.started_from;
  drawSampled();
  drawSizes();
  if (draft) keepDraft();  // what only this tab has
  seconds = 0;
  shownAt = performance.now();
}

function drawPrompt() {
  const pre = $(".prompt-text");
  $(".given .more")?.remove();
  showText(pre, piece.prompt, "the prompt");
  pre.classList.toggle("long", piece.prompt.length > LONG_PROMPT);
  pre.scrollTop = 0;
  // What scrolls can be reached by keys.
  if (pre.scrollHeight > pre.clientHeight + 1) {
    pre.setAttribute("tabindex", "0");
    pre.setAttribute("role", "region");
  } else {
    pre.removeAttribute("tabindex");
    pre.removeAttribute("role");
  }
}

// A keyboard that covers half the screen is not opened before the prompt was read.
function takeFocus() {
  const target = piece.kind === "given" ? answer : ownPrompt.value ? answer : ownPrompt;
  if (matchMedia("(pointer: coarse)").matches) $("#prompt-title").focus({ preventScroll: true });
  else target.focus({ preventScroll: true });
  window.scrollTo(0, 0);
  say(piece.edits ? "A finished answer, to edit." : piece.kind === "given" ? "The next prompt." : "A prompt of your own.");
}

function drawSampled() {
  $(".sampled").hidden = !piece.sampled.length;
  $(".sampled").open = false;
  $(".sampled summary").textContent = `Sampled answers (${piece.sampled.length})`;
  $(".answers").replaceChildren(...piece.sampled.map((text, place) => {
    const name = `answer ${place + 1}`;
    const card = make("article", { "aria-label": `Sampled ${name}` }, make("pre", { dir: "auto" }));
    showText(card.firstChild, text, name);
    if (length(text) > CHARACTERS) card.append(make("p", { class: "under" }, "Too long to start from."));
    else {
      const button = make("button", { type: "button", class: "plain" });
      const isWritten = () => Boolean(answer.value.trim());
      twice(button, "Start from this one", "Replace your text by it?", isWritten, () => startFrom(place));
      card.append(button);
    }
    return card;
  }));
  drawStart();
}

function drawStart() {
  [...$(".answers").children].forEach((card, place) => card.classList.toggle("start", place === startedFrom));
}

function startFrom(place) {
  answer.value = piece.sampled[place];
  startedFrom = place;
  written();
  drawStart();
  answer.focus();
  answer.setSelectionRange(0, 0);
  answer.scrollIntoView({ block: "nearest" });
  say("The answer is in the field.");
}

// A button that asks once more where something would be lost.
function twice(button, text, question, isAsked, act) {
  const name = button.getAttribute("aria-label");
  const rest = () => {
    button.textContent = text;
    button.classList.remove("asking");
    if (name) button.setAttribute("aria-label", name);
  };
  rest();
  button.addEventListener("click", () => {
    if (!isAsked() || button.classList.contains("asking")) {
      rest();
      return act();
    }
    button.textContent = question;
    button.classList.add("asking");
    button.removeAttribute("aria-label");
    say(question);
  });
  button.addEventListener("blur", rest);
}

function drawSizes() {
  for (const [field, size] of [[answer, $("#answer-size")], [ownPrompt, $("#prompt-size")]]) {
    const count = length(field.value);
    size.textContent = `${count.toLocaleString("en")} of ${CHARACTERS.toLocaleString("en")} characters`;
    size.classList.toggle("over", count > CHARACTERS);
  }
}

// Why it cannot be saved as it is; empty if it can.
function tooLong() {
  const over = length(answer.value) > CHARACTERS ? "answer"
    : piece.kind !== "given" && length(ownPrompt.value) > CHARACTERS ? "prompt" : "";
  const why = over && `The ${over} is longer than ${CHARACTERS.toLocaleString("en")} characters and is not saved.`;
  if (why) saved(why);
  return why;
}

function drawCount({ open }) {
  $(".count").replaceChildren(`${open} `, make("span", {}, open === 1 ? "prompt " : "prompts "), "open");
}

function drawMine({ finished, mine }, from = 0) {
  listed = [...listed.slice(0, from), ...finished];
  $(".mine").hidden = !mine;
  $(".mine h2").textContent = `Finished by you (${mine})`;
  $(".mine ol").replaceChildren(...listed.map(mineRow));
  $('[data-do="more"]').hidden = listed.length >= mine;
}

function mineRow(one) {
  const about = `the answer to “${one.prompt.slice(0, 60)}”`;
  const edit = make("button", { type: "button", class: "link", "aria-label": `Edit ${about}` }, "Edit");
  const withdraw = make("button", { type: "button", class: "link", "aria-label": `Withdraw ${about}` });
  edit.addEventListener("click", () => editFinished(one.id));
  twice(withdraw, "Withdraw", "Withdraw it for good?", () => true, () => withdrawFinished(one.id));
  const at = new Date(one.created_at).toLocaleDateString("en", { dateStyle: "medium" });
  return make("li", {}, setText(make("pre", { class: "asked", dir: "auto" }), one.prompt),
    setText(make("pre", { dir: "auto" }), one.response),
    make("p", { class: "under" }, make("span", {}, one.kind === "given" ? at : `${at} · own prompt, ${one.kind}`), edit, withdraw));
}

// --- what one does -------------------------------------------------------------------------------

function written() {
  if (!answer.value) startedFrom = null;
  drawSizes();
  drawStart();
  saved("");
  keepDraft();
}

async function submit() {
  if (!piece || busy) return;
  for (const [field, name] of piece.kind === "given" ? [[answer, "answer"]] : [[ownPrompt, "prompt"], [answer, "answer"]]) {
    if (field.value.trim()) continue;
    field.focus();
    return complain(`The ${name} is empty.`);
  }
  if (tooLong()) return complain(tooLong());
  const reply = await call("finish", { ...fields(), seconds: secondsInFront(), tab });
  if (!reply) return;
  receive(reply, { ended: true });
  say("Submitted. " + (piece ? "The next one." : ""));
}

async function skip(reason) {
  const reply = await call("skip", { id: piece.id, reason, tab });
  if (reply) receive(reply, { ended: true });
}

async function leave() {
  const reply = await call("leave", { id: piece.id, tab });
  if (reply) receive(reply, { ended: true });
}

async function editFinished(id) {
  await sendDraft();
  const reply = await call("edit", { id });
  if (reply) receive(reply);
}

async function withdrawFinished(id) {
  await sendDraft();
  const reply = await call("withdraw", { id, tab });
  if (!reply) return;
  if (reply.piece?.id !== piece?.id) return receive(reply);
  drawCount(reply);
  drawMine(reply);
  (reply.mine ? $(".mine h2") : answer).focus();
  say("Withdrawn.");
}

async function showMore() {
  const from = listed.length;
  const reply = await call("finished", { after: from });
  if (!reply) return;
  drawMine(reply, from);
  $$(".mine li")[from]?.querySelector("button").focus();
}

// In the background: what one does meanwhile goes on, and the focus stays where it is.
async function lookAgain() {
  clearTimeout(lookTimer);
  const reply = await post("next", { tab });
  if (piece || busy) return;
  if (reply?.signedOut) return signedOut();
  if (reply?.piece) return receive(reply);
  if (reply && !reply.error) drawCount(reply);
  lookTimer = setTimeout(lookAgain, 1000 * LOOK_AGAIN_SECONDS);
}

async function switchTab() {
  const wanted = location.hash === "#own" ? "own" : "given";
  if (wanted === tab && document.body.dataset.state !== "loading") return;
  await sendDraft();
  const reply = await call("next", { tab: wanted });
  if (reply) receive(reply);
}

function toggleSkip(show) {
  const was = !$(".skip-form").hidden;
  $(".skip-form").hidden = !show;
  $(".actions").hidden = show;
  if (show) {
    $("#reason").value = "";
    $(".reasons button").focus();
  } else if (was) $('[data-do="skip"]').focus({ preventScroll: true });
}

function secondsInFront() {
  if (document.hidden) return seconds;
  return seconds + (performance.now() - shownAt) / 1000;
}

// --- controls ------------------------------------------------------------------------------------

const ACTIONS = { submit, leave, look: () => { say("Looking again."); lookAgain(); }, more: showMore, skip: () => toggleSkip(true), "skip-cancel": () => toggleSkip(false) };
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.do) ACTIONS[button.dataset.do]();
  if (button?.dataset.reason) skip(button.dataset.reason);
});
for (const field of [answer, ownPrompt]) field.addEventListener("input", written);
$(".kinds").addEventListener("change", keepDraft);
$(".skip-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("#reason").value.trim()) return skip($("#reason").value);
  complain("Say why, in a few words.");
});

document.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Escape") return escape();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();  // nor held down so long that it submits what comes next
    if (!event.repeat && $(".skip-form").hidden) submit();
  }
});

// Escape: out of what was opened, or out of the field.
function escape() {
  if (!$(".skip-form").hidden) toggleSkip(false);
  else if (document.activeElement.matches("textarea")) document.activeElement.blur();
}

// What was typed just now goes before the session does.
$(".bar form").addEventListener("submit", async (event) => {
  if (!piece || !unsaved()) return;
  event.preventDefault();
  await Promise.race([sendDraft(), pause(2)]);
  event.target.submit();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) seconds += (performance.now() - shownAt) / 1000;
  else shownAt = performance.now();
  if (document.hidden) sendDraft(true);
});
window.addEventListener("pagehide", () => sendDraft(true));
window.addEventListener("hashchange", switchTab);
switchTab();
