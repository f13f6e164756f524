// --- calls: the five functions of task_card.py ----------------------------------------------------

const PAGE = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16)).join("");
const RETRY_SECONDS = [1, 2, 4, 8, 15];
const ANSWER_SECONDS = 20;  // what takes longer counts as no answer

// The reply; null where the application does not answer. `leaving`: the page may go meanwhile.
async function post(name, data, leaving = false) {
  const card = window.gradio_config.components.find(({ props }) => props.elem_id === "task-card");
  try {
    const response = await fetch("/label/gradio_api/component_server", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ data, component_id: card.id, fn_name: name, session_hash: PAGE }),
      keepalive: leaving,
      signal: AbortSignal.timeout(1000 * ANSWER_SECONDS),
    });
    if (response.status === 401) return { signedOut: true };
    if (response.status === 413) return { error: "This is too long to be saved. Fix: shorten the note." };
    return response.ok ? await response.json() : null;
  } catch { return null; }
}

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

// Calls until there is an answer. What was submitted already is not submitted twice: the server
// knows the task by its lease. Meanwhile nothing can be changed, for it would not be in the call.
async function call(name, data) {
  if (busy) return;
  const focused = document.activeElement;
  setBusy(true);
  complain("");
  let reply = null;
  for (let attempt = 0; !reply; attempt++) {
    reply = await post(name, data);
    if (reply) break;
    complain(task
      ? "Not saved yet: the application does not answer. Your work is still here; trying again …"
      : "The application does not answer; trying again …");
    await pause(RETRY_SECONDS[Math.min(attempt, RETRY_SECONDS.length - 1)]);
  }
  setBusy(false);
  complain("");
  if (reply.gone) return goOn(reply.error);
  if (reply.signedOut || reply.error) {
    focused?.focus({ preventScroll: true });
    if (reply.signedOut) return signedOut();
    sendDraft();
    return complain(reply.error);
  }
  forgetDraft(name !== "undo" || !unsaved());
  receive(reply);
}

function setBusy(on) {
  busy = on;
  page.classList.toggle("busy", on);
  $(".task").inert = on;
}

// The task is not this labeler's any more: says why, and takes the next.
async function goOn(why) {
  await call("next_task", {});
  complain(why.split(" Fix:")[0]);
}

function signedOut() {
  complain("You are signed out. Your draft is kept. ");
  $(".message").append(make("a", { href: "/sign-in" }, "Sign in again"));
}

// --- drafts: on the server while one works, and in this tab until the server has it --------------

const DRAFT_MILLISECONDS = 400;
let draftSeq = 0;
let draftTimer = null;
let draftTries = 0;
let changes = 0;  // how often the draft was changed, and up to which of these the server has it
let kept = 0;

const unsaved = () => kept < changes;
const draftKey = () => `labeling-${task.lease}`;

function currentDraft() {
  return { at: Date.now(), ratings, tiers, answers, note: $("textarea").value, confidence: confidence(),
    confirmed: $(".confirm").checked };
}

function keepDraft() {
  if (!task) return;
  changes++;
  try { sessionStorage.setItem(draftKey(), JSON.stringify(currentDraft())); } catch { /* no room */ }
  clearTimeout(draftTimer);
  draftTimer = setTimeout(sendDraft, DRAFT_MILLISECONDS);
}

async function sendDraft(leaving = false) {
  clearTimeout(draftTimer);
  if (!task || !unsaved()) return;
  const { lease } = task, sent = changes;
  const reply = await post("save_draft", { lease, page: PAGE, seq: ++draftSeq, draft: currentDraft() }, leaving);
  if (task?.lease !== lease) return;
  if (reply?.saved) return draftIsKept(sent);
  if (busy) return;  // what is under way comes back to it
  if (!reply) {
    saved("Not saved yet: the application does not answer. Trying again …");
    const seconds = RETRY_SECONDS[Math.min(draftTries++, RETRY_SECONDS.length - 1)];
    clearTimeout(draftTimer);
    draftTimer = setTimeout(sendDraft, 1000 * seconds);
    return;
  }
  draftTries = 0;
  if (reply.signedOut) return signedOut();
  if (reply.gone) return goOn(reply.error);
  saved(reply.error);
}

function draftIsKept(sent) {
  kept = Math.max(kept, sent);
  draftTries = 0;
  if (unsaved()) return;
  saved("Draft saved");
  sessionStorage.removeItem(draftKey());
}

const saved = (text) => { $(".saved").textContent = text; };

// Without its `copy` in this tab too, which the server may not have, it is found again.
function forgetDraft(copy = true) {
  clearTimeout(draftTimer);
  kept = changes;
  saved("");
  if (task && copy) sessionStorage.removeItem(draftKey());
}

// What this tab has and the server never confirmed, or null.
function ownDraft() {
  try { return JSON.parse(sessionStorage.getItem(draftKey())); } catch { return null; }
}

// The later of the server's draft and this tab's, as far as it fits the task; null if there is none.
function laterDraft(own) {
  const drafts = [own, task.draft].filter((draft) => draft && fits(draft));
  return drafts.sort((a, b) => (b.at ?? 0) - (a.at ?? 0))[0] ?? null;
}

function fits(draft) {
  const isList = (values, isFine) =>
    Array.isArray(values) && values.length === task.responses.length && values.every(isFine);
  return isList(draft.ratings, (rating) => rating === null || [1, 2, 3, 4, 5, 6, 7].includes(rating)) &&
    task.questions.every(({ key }) => isList(draft.answers?.[key], (answer) => [true, false, null].includes(answer)));
}

// The ranking of a draft; of one that was a submission, from its ranks. One that does not rank just
// what was rated gives way to the ranking by the ratings.
function draftTiers({ tiers: found, ranks }) {
  if (Array.isArray(ranks)) {
    const levels = [...new Set(ranks)].sort((a, b) => a - b);
    found = levels.map((rank) => ranks.flatMap((other, place) => (other === rank ? [place] : [])));
  }
  const isWhole = Array.isArray(found) && found.every((tier) => Array.isArray(tier) && tier.length) &&
    `${found.flat().sort()}` === `${tiersFromRatings().flat().sort()}`;
  return isWhole ? found : tiersFromRatings();
}
