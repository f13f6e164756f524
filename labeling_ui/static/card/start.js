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

function showHelp() {
  if (!$(".help").open) $(".help").showModal();
}

const ACTIONS = {
  instructions: () => toggle("instructions"),
  help: showHelp,
  "help-close": () => $(".help").close(),
  undo: () => call("undo", {}),
  look: () => call("next_task", {}),
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
$(".confirm").addEventListener("change", keepDraft);
$$(".confidence input").forEach((input) => {
  let was = false;
  input.closest("label").addEventListener("pointerdown", () => { was = input.checked; });
  input.addEventListener("click", () => { if (was) input.checked = was = false; keepDraft(); });
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

function onKey(event) {
  if (!element.isConnected || event.isComposing || $(".help").open) return;
  if (!task) return keyAtTheEnd(event);
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
  else if (event.key === "t") nextTied();
  else if (event.key === "u") undo();
  else if (event.key === "?") showHelp();
  else if (task.questions[QUESTION_KEYS.indexOf(event.key)]) {
    cycleAnswer(active, task.questions[QUESTION_KEYS.indexOf(event.key)].key);
  } else return;
  event.preventDefault();
  if (document.activeElement?.name?.startsWith("rating-")) document.activeElement.blur();
}

function undo() {
  if (!$('[data-do="undo"]').hidden) call("undo", {});
}

function keyAtTheEnd(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || !$(".keys-on").checked) return;
  if (event.key === "u") undo();
  else if (event.key === "?") showHelp();
}
document.addEventListener("keydown", onKey);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) seconds += (performance.now() - shownAt) / 1000;
  else shownAt = performance.now();
  if (document.hidden) sendDraft(true);
});
window.addEventListener("pagehide", () => sendDraft(true));

call("next_task", {});
