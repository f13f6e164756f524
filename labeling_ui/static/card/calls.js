// --- calls: the five functions of task_card.py ----------------------------------------------------

const PAGE = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16)).join("");
const RETRY_SECONDS = [1, 2, 4, 8, 15];

// The reply; null where the application does not answer. `leaving`: the page may go meanwhile.
async function post(name, data, leaving = false) {
  const card = window.gradio_config.components.find(({ props }) => props.elem_id === "task-card");
  try {
    const response = await fetch("/label/gradio_api/component_server", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ data, component_id: card.id, fn_name: name, session_hash: PAGE }),
      keepalive: leaving,
    });
    if (response.status === 401) return { signedOut: true };
    if (response.status === 413) return { error: "This is too long to be saved. Fix: shorten the note." };
    return response.ok ? await response.json() : null;
  } catch { return null; }
}

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

// Calls until there is an answer. What was submitted already is not submitted twice: the server
// knows the task by its lease.
async function call(name, data) {
  if (busy) return;
  busy = true;
  page.classList.add("busy");
  complain("");
  let reply = null;
  for (let attempt = 0; !reply; attempt++) {
    reply = await post(name, data);
    if (reply) break;
    complain("Not saved yet: the application does not answer. Your work is still here; trying again …");
    await pause(RETRY_SECONDS[Math.min(attempt, RETRY_SECONDS.length - 1)]);
  }
  busy = false;
  page.classList.remove("busy");
  complain("");
  if (reply.signedOut) return signedOut();
  if (reply.gone) {
    const text = reply.error.split(" Fix:")[0];
    await call("next_task", {});
    return complain(text);
  }
  if (reply.error) return complain(reply.error);
  forgetDraft();
  receive(reply);
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
let unsaved = false;

const draftKey = () => `labeling-${task.lease}`;

function currentDraft() {
  return { at: Date.now(), ratings, tiers, answers, note: $("textarea").value, confidence: confidence(),
    confirmed: $(".confirm").checked };
}

function keepDraft() {
  if (!task) return;
  unsaved = true;
  try { sessionStorage.setItem(draftKey(), JSON.stringify(currentDraft())); } catch { /* no room */ }
  clearTimeout(draftTimer);
  draftTimer = setTimeout(sendDraft, DRAFT_MILLISECONDS);
}

async function sendDraft(leaving = false) {
  clearTimeout(draftTimer);
  if (!task || !unsaved) return;
  const lease = task.lease;
  unsaved = false;
  const reply = await post("save_draft", { lease, page: PAGE, seq: ++draftSeq, draft: currentDraft() }, leaving);
  if (task?.lease !== lease || busy) return;
  if (!reply) {
    unsaved = true;
    saved("Not saved yet: the application does not answer. Trying again …");
    const seconds = RETRY_SECONDS[Math.min(draftTries++, RETRY_SECONDS.length - 1)];
    draftTimer = setTimeout(sendDraft, 1000 * seconds);
    return;
  }
  draftTries = 0;
  if (reply.signedOut) return signedOut();
  if (reply.gone) {
    await call("next_task", {});
    return complain(reply.error.split(" Fix:")[0]);
  }
  if (reply.error) return saved(reply.error);
  if (!unsaved) saved("Draft saved");
}

const saved = (text) => { $(".saved").textContent = text; };

function forgetDraft() {
  clearTimeout(draftTimer);
  unsaved = false;
  saved("");
  if (task) sessionStorage.removeItem(draftKey());
}

// The later of the server's draft and this tab's, as far as it fits the task; null if there is none.
function laterDraft() {
  let own = null;
  try { own = JSON.parse(sessionStorage.getItem(draftKey())); } catch { /* none */ }
  const drafts = [own, task.draft].filter((draft) => draft && fits(draft));
  return drafts.sort((a, b) => (b.at ?? 0) - (a.at ?? 0))[0] ?? null;
}

function fits(draft) {
  const size = task.responses.length;
  return Boolean(draft.ratings) && draft.ratings.length === size &&
    task.questions.every(({ key }) => draft.answers?.[key]?.length === size);
}

// The ranking of a draft; of one that was a submission, from its ranks.
function draftTiers(draft) {
  if (draft.tiers) return draft.tiers;
  const ranks = [...new Set(draft.ranks)].sort((a, b) => a - b);
  return ranks.map((rank) => draft.ranks.flatMap((other, place) => (other === rank ? [place] : [])));
}
