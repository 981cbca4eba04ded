"use strict";
// Keys, folding, live pages and plots. Pages work without it, but for what is live.

const all = (selector, within = document) => [...within.querySelectorAll(selector)];

function items() { return all("[data-item]"); }

function focusOn(item) {
  const target = item.matches("tr") ? item.querySelector("a") || item : item;
  target.focus({ preventScroll: true });
  item.scrollIntoView({ block: "nearest" });
}

function move(step) {
  const every = items();
  if (!every.length) return;
  const here = document.activeElement.closest("[data-item]");
  let at = every.indexOf(here) + step;
  if (!here) at = step > 0 ? every.findIndex((e) => e.getBoundingClientRect().bottom > 60) : every.length - 1;
  focusOn(every[Math.max(0, Math.min(every.length - 1, at))]);
}

function fold(item) {
  const folds = all("details", item);
  const open = folds.some((f) => !f.open);
  for (const each of folds) each.open = open;
}

function follow(link) {
  const found = document.querySelector(link);
  if (found) found.click();
}

const help = document.getElementById("help");
const keys = {
  j: () => move(1),
  k: () => move(-1),
  "/": () => { const field = document.querySelector("[data-search]"); if (field) field.focus(); },
  "]": () => follow('a[rel="next"]'),
  "[": () => follow('a[rel="prev"]'),
  u: () => follow('a[rel="up"]'),
  "?": () => help.showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
  if (event.target.closest("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "Enter" && event.target.matches("[data-item]")) {
    fold(event.target);
    event.preventDefault();
  } else if (keys[event.key]) {
    keys[event.key]();
    event.preventDefault();
  }
});

for (const button of all("[data-help]")) {
  button.hidden = false;
  button.addEventListener("click", () => help.showModal());
}

for (const select of all("[data-submit]")) {
  select.addEventListener("change", () => select.form.requestSubmit());
}

for (const form of all("form.filters")) {  // addresses without what is not asked for
  form.addEventListener("submit", () => {
    if (form.method === "post") return;
    for (const field of form.elements) if (field.name && !field.value) field.disabled = true;
  });
}
addEventListener("pageshow", () => { for (const field of all(".filters [name]")) field.disabled = false; });

const unfold = document.querySelector("[data-unfold]");
if (unfold) {
  unfold.hidden = !document.querySelector(".timeline details");
  unfold.addEventListener("click", () => {
    const folds = all(".timeline details");
    const open = folds.some((f) => !f.open);
    for (const each of folds) each.open = open;
    unfold.textContent = open ? "Fold all" : "Unfold all";
  });
}

function piece(html) {
  // Markup of this server's own templates, in which whatever an episode says is escaped.
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content;
}

const timeline = document.querySelector("[data-follow]");
if (timeline) {
  const state = document.querySelector("[data-state]");
  const source = new EventSource(`${timeline.dataset.follow}?after=${timeline.dataset.after}`);
  const take = (event) => {
    const told = JSON.parse(event.data);
    if (timeline.dataset.job && told.job !== timeline.dataset.job) return;
    const atEnd = innerHeight + scrollY >= document.body.scrollHeight - 80;
    const fresh = piece(told.html);
    fresh.firstElementChild.classList.add("fresh");
    const old = document.getElementById(told.entry);
    if (old) {
      const focused = document.activeElement === old;
      old.replaceWith(fresh);
      if (focused) document.getElementById(told.entry).focus({ preventScroll: true });
    } else {
      timeline.append(fresh);
    }
    const chart = document.querySelector("[data-chart]");
    if (told.chart && chart) {
      chart.replaceChildren(piece(told.chart));
      chart.hidden = false;
    }
    if (atEnd && scrollY > 0) scrollTo(0, document.body.scrollHeight);
  };
  source.addEventListener("entry", take);
  source.addEventListener("end", (event) => {
    take(event);
    source.close();
    state.textContent = "The session has ended: load the page again for all of its record.";
  });
  source.addEventListener("error", () => { if (source.readyState !== EventSource.CLOSED) state.textContent = "The connection was lost; trying again."; });
  source.addEventListener("open", () => { state.textContent = "Following this session: what comes is added here."; });
}

const list = document.querySelector("[data-refresh]");
if (list && list.querySelector(".badge.live")) {
  setInterval(async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(location.href);
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const rows = page.querySelector("[data-refresh] tbody");
      const focused = document.activeElement.getAttribute("href");
      if (!rows) return;
      list.querySelector("tbody").replaceWith(rows);
      if (focused) for (const link of all("a", rows)) if (link.getAttribute("href") === focused) link.focus({ preventScroll: true });
    } catch { /* the server is away: the next time */ }
  }, 5000);
}

(async () => {
  for (const place of all("[data-plot]")) {
    try {
      const answer = await fetch(place.dataset.plot);
      if (answer.ok) place.replaceChildren(piece(await answer.text()));
      else place.textContent = answer.status === 501 ? "Plots need matplotlib: pip install 'mlgym-mcp[report]'" : "This could not be drawn.";
    } catch { place.textContent = "This could not be drawn."; }
  }
  document.body.dataset.drawn = "all";
})();
