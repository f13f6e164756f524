// --- the practice: how a judgment compares with the known one -----------------------------------

let afterFeedback = null;  // the reply that waits until the comparison was read

function drawPractice(practice) {
  $(".practice").hidden = !practice;
  $('[data-do="skip"]').hidden = Boolean(practice);
  if (!practice) return;
  $(".practice").textContent = `Practice, task ${practice[0]} of ${practice[1]}. ` +
    "How to judge it is known; when you have submitted, you see how yours compares.";
}

function showFeedback(reply) {
  const { feedback } = reply;
  const judged = { task, ratings, answers, ranks: ranksOf(tiers) };
  afterFeedback = { ...reply, feedback: null };
  task = null;
  page.dataset.state = "feedback";
  $(".task").hidden = true;
  $(".feedback").hidden = false;
  $(".feedback h2").textContent = `You ordered ${feedback.agreed} of ${feedback.pairs} pairs as is known`;
  $(".outcome").textContent = outcomeText(feedback);
  $(".outcome").hidden = !feedback.outcome;
  setText($(".why"), feedback.why ?? "");
  $(".why").hidden = !feedback.why;
  $(".compared").replaceChildren(...judged.task.responses.map((text, place) =>
    comparedResponse(text, place, judged, feedback)));
  $(".feedback h2").focus({ preventScroll: true });
  window.scrollTo(0, 0);
  say(`${$(".feedback h2").textContent}. ${$(".outcome").textContent}`);
}

function outcomeText({ outcome, share, pass_mark: mark }) {
  const percent = (number) => `${Math.round(100 * number)} %`;
  if (outcome === "passed") return `You have passed the practice: ${percent(share)} in all. Your tasks begin now.`;
  return `The practice begins again: ${percent(share)} in all, and ${percent(mark)} are needed. ` +
    "Take your time with the reasons below.";
}

function comparedResponse(text, place, judged, known) {
  const pre = make("pre", { dir: "auto" });
  const facts = [
    ["rating", judged.ratings[place], known.ratings[place]],
    ["rank", judged.ranks[place], known.ranks[place]],
    ...judged.task.questions.filter(({ key }) => known.answers[key]).map(({ key }) =>
      [label(key), answerWord(judged.answers[key][place]), answerWord(known.answers[key][place])]),
  ].filter(([name, yours, theirs]) => name === "rating" || name === "rank" || yours !== theirs);
  const isNear = (name, yours, theirs) =>  // one more or less is a matter of taste
    yours === theirs || (name === "rating" && Math.abs(yours - theirs) === 1);
  const rows = facts.map(([name, yours, theirs]) => make("div", isNear(name, yours, theirs) ? {} : { class: "differs" },
    make("dt", {}, name), make("dd", {}, `you ${yours}, known ${theirs}`)));
  const card = make("article", { class: "response", "aria-label": `Response ${LETTERS[place]}` },
    make("span", { class: "letter", "aria-hidden": "true" }, LETTERS[place]),
    make("div", { class: "text" }, pre, make("dl", {}, ...rows)));
  fold(pre, text, LETTERS[place], FOLD);
  return card;
}

const answerWord = (answer) => (answer === null ? "doesn't apply" : answer ? "yes" : "no");

function goOnFromFeedback() {
  if (!afterFeedback) return;
  const reply = afterFeedback;
  afterFeedback = null;
  $(".compared").replaceChildren();
  receive(reply);
}
