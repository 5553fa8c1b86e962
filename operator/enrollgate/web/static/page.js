// Keeps a page up to date: fetches the same page again and exchanges each region whose content has
// changed. A region is an element with `data-live` and an id. A page that only says why there is no
// answer has an element with `data-reload` instead: it is loaded again once there is one. Without
// this script, reload the page.
"use strict";

const INTERVAL = 2000;
const LONGEST_WAIT = 30000;
const state = document.getElementById("updates");
const toggle = document.getElementById("pause");
const isError = document.querySelector("[data-reload]") !== null;
const NO_ANSWER = "No answer; trying again";
let paused = false;
let failures = isError ? 1 : 0;
let timer = 0;

function say(text) {
  if (state.textContent !== text) state.textContent = text;
}

// Where the keyboard is, and what is unfolded, stays as it was.
function exchange(region, fresh) {
  if (region.innerHTML === fresh.innerHTML) return;
  const active = document.activeElement;
  const focused = active && region.contains(active) ? active.dataset.key || active.id : "";
  const open = new Set([...region.querySelectorAll("details[open][id]")].map((each) => each.id));
  const scrolled = new Map(
    [...region.querySelectorAll("[data-scroll][id]")].map((each) => [
      each.id,
      { top: each.scrollTop, left: each.scrollLeft,
        end: each.scrollTop + each.clientHeight >= each.scrollHeight - 4 },
    ]),
  );
  region.replaceChildren(...fresh.cloneNode(true).childNodes);
  for (const id of open) {
    const details = document.getElementById(id);
    if (details) details.open = true;
  }
  for (const [id, place] of scrolled) {
    const box = document.getElementById(id);
    if (!box) continue;
    box.scrollLeft = place.left;
    box.scrollTop = place.end ? box.scrollHeight : place.top;
  }
  if (focused) {
    const again = [...region.querySelectorAll("[data-key], [id]")].find(
      (each) => (each.dataset.key || each.id) === focused,
    );
    if (again) again.focus({ preventScroll: true });
  }
}

async function update() {
  try {
    const answer = await fetch(location.href, { cache: "no-store", credentials: "same-origin" });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.querySelectorAll("[data-live]");
    // A task that is not known (yet) is an answer, too, with the status 404.
    const isAnswer = isError ? answer.status < 500 : fresh.length > 0;
    if (!isAnswer) throw new Error(`HTTP ${answer.status}`);
    if (paused) return;
    if (isError) {
      location.reload();
      return;
    }
    for (const each of fresh) {
      const region = document.getElementById(each.id);
      if (region) exchange(region, each);
    }
    failures = 0;
    say("Up to date");
  } catch {
    failures += 1;
    if (!paused) say(NO_ANSWER);
  }
}

function plan() {
  clearTimeout(timer);
  if (paused || document.hidden) return;
  const wait = Math.min(INTERVAL * 2 ** failures, LONGEST_WAIT);
  timer = setTimeout(() => update().finally(plan), wait);
}

if (isError || document.querySelector("[data-live]")) {
  const begin = isError ? NO_ANSWER : "Up to date";
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    paused = !paused;
    toggle.setAttribute("aria-pressed", String(paused));
    say(paused ? "Paused" : begin);
    plan();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) update().finally(plan);
  });
  say(begin);
  plan();
}
