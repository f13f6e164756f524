// --- the ranking: drawn, dragged, moved by keys ---------------------------------------------------

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
  const submit = $(".actions .submit");
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

// --- how it changes ------------------------------------------------------------------------------

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

// By place: 1 is best, ties have equal numbers.
function ranksOf(tiers) {
  return ratings.map((_, place) => 1 + tiers.slice(0, tiers.findIndex((tier) => tier.includes(place))).flat().length);
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
