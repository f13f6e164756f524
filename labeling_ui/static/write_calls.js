// Calls of the page on which answers are written, and its drafts. Loaded before write.js.

const BODY_BYTES = 64 * 1024;
const RETRY_SECONDS = [1, 2, 4, 8, 15];
const ANSWER_SECONDS = 20;  // what takes longer counts as no answer
const DRAFT_MILLISECONDS = 400;
const PAGE = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16)).join("");
const pause = (time) => new Promise((resolve) => setTimeout(resolve, 1000 * time));

// --- calls ---------------------------------------------------------------------------------------

// The reply; null where the application does not answer. `leaving`: the page may go meanwhile.
async function post(name, data, leaving = false) {
  const body = JSON.stringify(data);
  if (new TextEncoder().encode(body).length > BODY_BYTES) return { error: "This is too long to be saved. Please shorten it." };
  try {
    const response = await fetch(`/write/${name}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body,
      keepalive: leaving,
      signal: AbortSignal.timeout(1000 * ANSWER_SECONDS),
    });
    if (response.status === 401) return { signedOut: true };
    if (response.status === 413) return { error: "This is too long to be saved. Please shorten it." };
    return response.ok ? await response.json() : null;
  } catch { return null; }
}

// Calls until there is an answer; what was finished already is not finished twice. Meanwhile nothing
// can be changed, for it would not be in the call. Returns the reply, or null if it was a refusal.
async function call(name, data) {
  if (busy) return null;
  const focused = document.activeElement;
  setBusy(true);
  complain("");
  let reply = null;
  for (let attempt = 0; !reply; attempt++) {
    reply = await post(name, data);
    if (reply) break;
    complain(piece
      ? "Not saved yet: the application does not answer. Your work is still here; trying again …"
      : "The application does not answer; trying again …");
    await pause(RETRY_SECONDS[Math.min(attempt, RETRY_SECONDS.length - 1)]);
  }
  setBusy(false);
  complain("");
  if (!reply.gone && !reply.signedOut && !reply.error) return reply;
  if (reply.gone) await goOn(reply.error);
  else if (reply.signedOut) signedOut();
  else {
    sendDraft();
    complain(reply.error);
  }
  if (!reply.gone) focused?.focus({ preventScroll: true });
  return null;
}

function setBusy(on) {
  busy = on;
  document.body.classList.toggle("busy", on);
  $("main").inert = on;
  if (!on && document.body.dataset.state !== "loading") showTab();
}

const showTab = () => history.replaceState(null, "", `#${tab}`);

// It is not this labeler's any more: says why, keeps the text in sight, and takes the next.
async function goOn(why) {
  const text = piece && answer.value.trim() ? answer.value : "";
  forgetDraft();
  const reply = await call("next", { tab });
  if (reply) receive(reply);
  if (text) {
    setText($(".lost pre"), text);
    $(".lost").hidden = false;
  }
  complain(why);
}

function signedOut() {
  complain("You are signed out. Your draft is kept. ");
  $(".message").append(make("a", { href: "/sign-in" }, "Sign in again"));
}

// --- drafts: on the server while one writes, and in this tab until the server has it -------------

let draftSeq = 0;
let draftTimer = null;
let draftTries = 0;
let changes = 0;   // how often the draft was changed, and up to which of these the server has it
let kept = 0;
let base = null;   // page and number of the draft that the server is known to have

const unsaved = () => kept < changes;
const draftKey = () => `writing-${piece.id}`;

function fields() {
  const written = { id: piece.id, response: answer.value, started_from: startedFrom };
  return piece.kind === "given" ? written : { ...written, prompt: ownPrompt.value, kind: kindChosen() };
}

function keepDraft() {
  if (!piece) return;
  changes++;
  try { sessionStorage.setItem(draftKey(), JSON.stringify({ page: PAGE, base, ...fields() })); } catch { /* no room */ }
  clearTimeout(draftTimer);
  draftTimer = setTimeout(sendDraft, DRAFT_MILLISECONDS);
}

async function sendDraft(leaving = false) {
  clearTimeout(draftTimer);
  if (!piece || !unsaved() || tooLong()) return;
  const { id } = piece, sent = changes, seq = ++draftSeq;
  const reply = await post("draft", { page: PAGE, seq, ...fields() }, leaving === true);
  if (piece?.id !== id) return;
  if (reply?.saved) return draftIsKept(sent, seq);
  if (busy) return;  // what is under way comes back to it
  if (!reply) {
    saved("Not saved yet: the application does not answer. Trying again …");
    const time = RETRY_SECONDS[Math.min(draftTries++, RETRY_SECONDS.length - 1)];
    clearTimeout(draftTimer);
    draftTimer = setTimeout(sendDraft, 1000 * time);
    return;
  }
  draftTries = 0;
  if (reply.signedOut) return signedOut();
  if (reply.gone) return goOn(reply.error);
  saved(reply.error);
}

function draftIsKept(sent, seq) {
  kept = Math.max(kept, sent);
  draftTries = 0;
  if (!base || base[0] !== PAGE || base[1] < seq) base = [PAGE, seq];
  if (unsaved()) return;
  saved("Draft saved");
  sessionStorage.removeItem(draftKey());
}

// Without its `copy` in this tab too, which the server may not have, it is found again.
function forgetDraft(copy = true) {
  clearTimeout(draftTimer);
  kept = changes;
  saved("");
  if (piece && copy) sessionStorage.removeItem(draftKey());
}

// What this tab has and the server never confirmed, unless somebody went on elsewhere meanwhile.
function ownDraft() {
  try {
    const draft = JSON.parse(sessionStorage.getItem(draftKey()));
    const isNext = !piece.saved || draft.page === piece.saved[0] || `${draft.base}` === `${piece.saved}`;
    return isNext && typeof draft.response === "string" ? draft : null;
  } catch { return null; }
}
