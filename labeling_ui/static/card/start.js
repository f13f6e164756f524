// --- controls ----------------------------------------------------------------------------------

function toggle(name, show) {
  const panel = $(`.panel.${name}`);
  panel.hidden = show === undefined ? !panel.hidden : !show;
  $(`[data-do="${name}"]`).setAttribute("aria-expanded", String(!panel.hidden));
}

function toggleInstructions() {
  toggle("instructions");
  instructionsWanted = !$(".panel.instructions").hidden;
  if (task) rememberInstructions();
}

function toggleSkip(show) {
  const was = !$(".skip-form").hidden;
  $(".skip-form").hidden = !show;
  $(".side").classList.toggle("skipping", show);
  if (show) $(".reasons button").focus();
  else if (was) $('[data-do="skip"]').focus({ preventScroll: true });
}

function showHelp() {
  if (!$(".help").open) $(".help").showModal();
}

const ACTIONS = {
  instructions: toggleInstructions,
  help: showHelp,
  "help-close": () => $(".help").close(),
  undo,
  look: () => call("next_task", {}),
  "as-rated": rankAsRated,
  skip: () => toggleSkip(true),
  "skip-cancel": () => toggleSkip(false),
  "go-on": goOnFromFeedback,
  submit,
};
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.do) ACTIONS[button.dataset.do]();
  if (button?.dataset.reason) skip(button.dataset.reason);
});
$("textarea").addEventListener("input", keepDraft);
$(".confirm").addEventListener("change", keepDraft);
$$(".confidence input").forEach((input) => {
  let was = false;
  input.closest("label").addEventListener("pointerdown", () => { was = input.checked; });
  input.addEventListener("click", () => { if (was) input.checked = was = false; keepDraft(); });
  input.addEventListener("keydown", (event) => {
    if (event.key !== " " || !input.checked) return;
    event.preventDefault();
    input.checked = false;
    keepDraft();
  });
  input.addEventListener("change", keepDraft);
});

const TEXT_FIELDS = "textarea, select, [contenteditable], input:not([type=radio]):not([type=checkbox])";
const KEYS_OFF = "labeling-keys-off";

function showKeys() {
  const on = localStorage.getItem(KEYS_OFF) === null;
  $(".keys-on").checked = on;
  page.classList.toggle("with-keys", on);
}
showKeys();
$(".keys-on").addEventListener("change", (event) => {
  if (event.target.checked) localStorage.removeItem(KEYS_OFF);
  else localStorage.setItem(KEYS_OFF, "1");
  showKeys();
});

// On some keyboards the digits need Shift; the key of a digit means it all the same.
function digitOf(event) {
  if (/^[1-7]$/.test(event.key)) return Number(event.key);
  return event.shiftKey ? 0 : Number(/^Digit([1-7])$/.exec(event.code)?.[1] ?? 0);
}

function onKey(event) {
  if (!element.isConnected || event.isComposing || $(".help").open) return;
  if (event.key === "Escape") return leave();
  const inText = event.target.closest?.(TEXT_FIELDS);
  // A key held down too long must not rate the next response, submit the next task, or take back all.
  if (event.repeat && !inText && !/^([jk]|Arrow.*|Tab|Page.*|Home|End| )$/.test(event.key)) {
    return event.preventDefault();
  }
  if (!task) return keyAtTheEnd(event);
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    return event.repeat || !$(".skip-form").hidden ? undefined : submit();
  }
  if (inText || busy) return;
  if (event.altKey && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
    event.preventDefault();
    return move(active, event.key === "ArrowUp" ? -1 : 1);
  }
  if (event.ctrlKey || event.altKey || event.metaKey || !$(".keys-on").checked) return;
  const key = event.shiftKey ? event.key : event.key.toLowerCase();  // as without Caps Lock
  const digit = digitOf(event), last = task.responses.length - 1;
  const question = task.questions[QUESTION_KEYS.indexOf(key)];
  if (digit) {
    rate(active, digit);
    activate(Math.min(active + 1, last));
  } else if (key === "j") activate(Math.min(active + 1, last));
  else if (key === "k") activate(Math.max(active - 1, 0));
  else if (key === "t") nextTied();
  else if (key === "u") undo();
  else if (key === "i") toggleInstructions();
  else if (key === "n") $("textarea").focus();
  else if (key === "?") showHelp();
  else if (question) cycleAnswer(active, question.key);
  else return;
  event.preventDefault();
  takeFocusAlong();
}

// Who works with Tab and with keys finds the focus at the response that the keys mean.
function takeFocusAlong() {
  const card = document.activeElement?.closest?.(".response");
  if (!card || Number(card.dataset.place) === active) return;
  const ratings = $$(`[name="rating-${active}"]`);
  (ratings.find((input) => input.checked) ?? ratings[0]).focus({ preventScroll: true });
}

// Escape: out of what was opened, or out of the note.
function leave() {
  if ($(".menu").open) {
    $(".menu").open = false;
    $(".menu summary").focus();
  } else if (!$(".skip-form").hidden) toggleSkip(false);
  else if (document.activeElement === $("textarea")) $("textarea").blur();
}

// The task that is before us comes back later, with its draft.
async function undo() {
  if ($('[data-do="undo"]').hidden || busy) return;
  await sendDraft();
  call("undo", {});
}

function keyAtTheEnd(event) {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) return goOnFromFeedback();
  if (event.ctrlKey || event.altKey || event.metaKey || !$(".keys-on").checked) return;
  if (event.key.toLowerCase() === "u") undo();
  else if (event.key === "?") showHelp();
}

for (const kind of ["pointerdown", "focusin"]) {
  document.addEventListener(kind, (event) => {
    if (!event.target.closest?.(".menu")) $(".menu").open = false;
  });
}
// What was typed just now goes before the session does.
$(".menu form").addEventListener("submit", async (event) => {
  if (!task || !unsaved()) return;
  event.preventDefault();
  const form = event.target;
  await Promise.race([sendDraft(), pause(2)]);
  form.submit();
});
document.addEventListener("keydown", onKey);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) seconds += (performance.now() - shownAt) / 1000;
  else shownAt = performance.now();
  if (document.hidden) sendDraft(true);
});
window.addEventListener("pagehide", () => sendDraft(true));

call("next_task", {});
