// Keeps the page as the server has it now: fetched anew, and changed only where it differs, so that
// focus, scroll position, selection and open details stay where they are.
"use strict";

const SECONDS = 3;
const state = document.querySelector(".live");
let waiting = null;
let asking = false;

const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE && (node.id || node.dataset.key)) || null;

function alike(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);
}

// Makes `old` what `fresh` is; nodes that stay are kept as they are.
function renew(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.nodeValue = fresh.nodeValue;
    return;
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    const readers = name === "open" && old.nodeName === "DETAILS";
    if (!readers && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  let next = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    const key = keyOf(wanted);
    // What is gone is removed first, so that those behind it need not move.
    while (next && keyOf(next) && keyOf(next) !== key && !fresh.querySelector(`:scope > ${named(next)}`)) {
      const gone = next;
      next = next.nextSibling;
      gone.remove();
    }
    const moved = key && !(next && alike(next, wanted)) && old.querySelector(`:scope > ${named(wanted)}`);
    if (moved) old.insertBefore(moved, next);
    const kept = moved || (next && alike(next, wanted) ? next : null);
    if (kept) {
      renew(kept, wanted);
      next = kept.nextSibling;
    } else {
      old.insertBefore(document.importNode(wanted, true), next);
    }
  }
  while (next) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
}

const named = (node) => node.id ? `#${CSS.escape(node.id)}` : `[data-key="${CSS.escape(node.dataset.key)}"]`;

function say(text, html = false) {
  if (state.dataset.said === text) return;
  state.dataset.said = text;
  state.replaceChildren(text);
  if (html) {
    const link = document.createElement("a");
    link.href = "/sign-in";
    link.textContent = "Sign in";
    state.append(" ", link);
  }
}

async function refresh() {
  clearTimeout(waiting);
  if (asking || document.hidden) return;
  asking = true;
  try {
    const answer = await fetch("/dashboard", { cache: "no-store", signal: AbortSignal.timeout(20_000) });
    if (answer.redirected || answer.status === 401 || answer.status === 403) {
      say("You are signed out; the figures are no longer renewed.", true);
    } else if (!answer.ok) {
      throw new Error(answer.statusText);
    } else {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const focus = document.activeElement;
      renew(document.querySelector("#board"), page.querySelector("#board"));
      if (focus?.isConnected && document.activeElement !== focus) focus.focus({ preventScroll: true });
      say("");
    }
  } catch {
    say("The server does not answer: the figures below are from before. Trying again …");
  }
  asking = false;
  if (!document.hidden) waiting = setTimeout(refresh, SECONDS * 1000);
}

document.documentElement.classList.add("scripted");
document.addEventListener("visibilitychange", () => document.hidden ? clearTimeout(waiting) : refresh());
waiting = setTimeout(refresh, SECONDS * 1000);
