"use strict";
// The page of one tool result. It speaks JSON-RPC with its host through postMessage, as MCP Apps has it, and with
// nobody else. Whatever it is told is text or a number to it, never markup.
(() => {
  const PROTOCOL = "2026-01-26";
  const FACTS = "dev.mlgym/score";
  const ANSWER_MS = 120000;
  const POINTS = 500;
  const WILD = 1e300; // differences of greater scores are not finite
  const host = window.parent;
  const page = (id) => document.getElementById(id);

  // ---------------------------------------------------------------- what may come in

  const object = (value) => (value !== null && typeof value === "object" && !Array.isArray(value) ? value : {});
  const list = (value) => (Array.isArray(value) ? value : []);
  const number = (value) => (typeof value === "number" && Number.isFinite(value) && Math.abs(value) < WILD ? value : null);
  const text = (value, most = 300) => {
    if (typeof value !== "string") return "";
    const whole = value.slice(0, 8 * most).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, " ").trim();
    return whole.length > most ? `${whole.slice(0, most - 1)}…` : whole;
  };

  // ---------------------------------------------------------------- the host

  let origin = null; // of the host, from its first answer on
  let asked = 0;
  let context = {};
  let input = {};
  const waiting = new Map();

  function post(message) {
    host.postMessage({ jsonrpc: "2.0", ...message }, origin === null || origin === "null" ? "*" : origin);
  }

  function ask(method, params) {
    const id = ++asked;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        waiting.delete(id);
        reject(new Error("the host does not answer"));
      }, ANSWER_MS);
      waiting.set(id, { resolve, reject, timer });
      post({ id, method, params });
    });
  }

  function hear(event) {
    const message = event.data;
    if (event.source !== host || host === window || object(message).jsonrpc !== "2.0") return;
    if (origin !== null && event.origin !== origin) return;
    if (typeof message.method === "string") {
      if (origin === null) return; // nothing is told before the handshake
      const params = object(message.params);
      if (message.id === undefined) told(message.method, params);
      else answer(message.id, message.method);
      return;
    }
    const call = waiting.get(message.id);
    if (call === undefined) return;
    waiting.delete(message.id);
    clearTimeout(call.timer);
    if (origin === null) origin = event.origin;
    if (message.error !== undefined) call.reject(new Error(text(object(message.error).message) || "the host refused"));
    else call.resolve(object(message.result));
  }

  function answer(id, method) {
    if (method === "ping" || method === "ui/resource-teardown") post({ id, result: {} });
    else post({ id, error: { code: -32601, message: "This page offers nothing to call." } });
  }

  function told(method, params) {
    if (method === "ui/notifications/tool-input") {
      input = object(params.arguments);
    } else if (method === "ui/notifications/tool-result") {
      show(params);
    } else if (method === "ui/notifications/tool-cancelled") {
      say(`The call was cancelled${text(params.reason) ? `: ${text(params.reason)}` : "."}`);
    } else if (method === "ui/notifications/host-context-changed") {
      dress(params);
    }
  }

  function dress(changes) {
    context = { ...context, ...changes };
    const root = document.documentElement;
    if (context.theme === "light" || context.theme === "dark") {
      root.dataset.theme = context.theme;
      root.style.colorScheme = context.theme;
    }
    for (const [name, value] of Object.entries(object(object(context.styles).variables)).slice(0, 200)) {
      const plain = typeof value === "string" && value.length < 200 && !/url|image|@|[{}<>\\;]/i.test(value);
      if (plain && /^--(color|font|border)-[a-z0-9-]{1,60}$/.test(name)) root.style.setProperty(name, value);
    }
    const insets = object(context.safeAreaInsets);
    for (const side of ["top", "right", "bottom", "left"]) {
      const room = number(insets[side]);
      if (room !== null && room >= 0 && room < 200) document.body.style.setProperty(`padding-${side}`, `${room}px`);
    }
  }

  let height = 0;
  function measure() {
    const now = Math.ceil(document.body.getBoundingClientRect().height);
    if (now === height || origin === null) return;
    height = now;
    post({ method: "ui/notifications/size-changed", params: { height } });
  }

  // ---------------------------------------------------------------- words and figures

  const KINDS = { validate: "Validation", submit: "Test", autosubmit: "Test, work left behind" };
  const figure = (value) => (Number.isInteger(value) && Math.abs(value) < 1e15 ? String(value) : String(Number(value.toPrecision(6))));
  const count = (value, noun) => `${figure(value)} ${noun}${value === 1 ? "" : "s"}`;

  function duration(seconds) {
    if (seconds < 120) return `${figure(Math.round(seconds))} s`;
    if (seconds < 7200) return `${figure(Math.round(seconds / 6) / 10)} min`;
    return `${figure(Math.round(seconds / 360) / 10)} h`;
  }

  function put(id, words) {
    const element = page(id);
    element.textContent = words;
    element.hidden = !words;
    return element;
  }

  function say(words) {
    page("said").textContent = words;
  }

  function make(name, className, words) {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (words !== undefined) element.textContent = words;
    return element;
  }

  // ---------------------------------------------------------------- one result

  let drawn = null;

  function show(result) {
    const facts = object(object(result._meta)[FACTS]);
    const data = object(result.structuredContent);
    const scored = typeof data.valid === "boolean" ? data : null; // validate, submit; else status
    const words = text(list(result.content).map((block) => text(object(block).text, 2000)).filter(Boolean).join("\n"), 2000);
    const metric = object(facts.metric);
    const state = text(facts.state, 20) || text(data.state, 20) || (scored && scored.valid && scored.kind !== "validate" ? "over" : "");

    put("title", text(facts.title) || "MLGym");
    put("preset", text(facts.preset, 60) && `Preset ${text(facts.preset, 60)}`);
    const badge = put("state", { over: "Over", ready: "Running", preparing: "Preparing" }[state] ?? "");
    badge.className = state === "over" ? "badge" : "badge live";
    badge.title = text(facts.detail) || text(data.detail);

    const points = list(facts.points).slice(-POINTS).map(point).filter(Boolean);
    drawn = { points, metric, seconds: number(facts.seconds) ?? 0, leftOut: number(facts.left_out) ?? 0, session: text(facts.session_id, 100) };
    const failed = result.isError === true || (scored !== null && !scored.valid);
    const nothing = failed || (scored === null && data.state === undefined);
    headline(scored, object(data.best_validation), nothing);
    const reason = put("reason", nothing ? text(data.reason, 2000) || words || "The tool answered nothing that can be shown." : "");
    reason.className = failed && data.code !== "refused" ? "problem bad" : "problem";
    chart();
    table();
    budget(object(facts.budget ?? data.budget), scored, state);
    put("warning", text(data.warning));
    const running = list(data.running_jobs);
    put("jobs", running.length ? `${count(running.length, "job")} running, the longest for ${duration(Math.max(...running.map((job) => number(object(job).seconds) ?? 0)))}` : "");
    say("");
  }

  function point(given) {
    const { seconds, kind, score } = object(given);
    if (number(seconds) === null || number(score) === null || !Object.hasOwn(KINDS, kind)) return null;
    return { seconds: Math.max(0, seconds), kind, score };
  }

  function headline(scored, best, nothing) {
    const { points, metric } = drawn;
    let shown = scored !== null && scored.valid ? scored : null;
    let name = shown && KINDS[shown.kind] ? `${KINDS[shown.kind]} score` : "Score";
    if (shown === null) {
      const last = points.findLast((each) => each.kind !== "validate");
      const valid = points.filter((each) => each.kind === "validate");
      const better = (a, b) => (metric.direction === "min" ? a.score <= b.score : a.score >= b.score);
      if (last !== undefined) [shown, name] = [last, `${KINDS[last.kind]} score`];
      else if (number(best.score) !== null) [shown, name] = [best, "Best validation score"];
      else if (valid.length) [shown, name] = [valid.reduce((a, b) => (better(a, b) ? a : b)), "Best validation score"];
    }
    const value = shown && number(shown.score);
    page("score").hidden = nothing && value === null;
    put("score-of", name);
    put("value", value === null ? "none yet" : figure(value));
    const error = shown && number(shown.standard_error);
    put("error", error === null || error === undefined ? "" : `± ${figure(error)}`);
    const against = shown ? text(shown.against_baseline, 40) : "";
    put("against", against && against !== "not compared" ? against[0].toUpperCase() + against.slice(1) : "").className =
      `badge${{ better: " good", worse: " bad" }[against] ?? ""}`;
    const baseline = number(metric.baseline) ?? (shown && number(shown.baseline));
    const told = [text(metric.name, 60) || (shown && text(shown.metric, 60)) || "", text(metric.unit, 20) && `in ${text(metric.unit, 20)}`];
    if (metric.direction === "max" || metric.direction === "min") told.push(metric.direction === "max" ? "higher is better" : "lower is better");
    if (baseline !== null && baseline !== undefined) told.push(`baseline ${figure(baseline)}`);
    put("compared", told.filter(Boolean).join(" · "));
  }

  // ---------------------------------------------------------------- scores over time

  function svg(name, attributes, words) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (words !== undefined) element.textContent = words;
    return element;
  }

  function ticks(low, high, wanted) {
    const rough = (high - low) / wanted;
    if (!(rough > 0)) return [];
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.999);
    const found = [];
    for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9 && found.length < 12; i++) found.push(i * step);
    return found;
  }

  const short = (value) => {
    const plain = figure(value);
    return plain.length <= 7 ? plain : String(Number(value.toPrecision(3)));
  };

  function chart() {
    const place = page("chart");
    const { points, metric, seconds } = drawn;
    place.replaceChildren();
    place.hidden = points.length === 0;
    if (place.hidden) return;
    const wide = Math.max(200, place.clientWidth);
    const high = wide < 420 ? 150 : 190;
    const values = points.map((each) => each.score);
    const baseline = number(metric.baseline);
    if (baseline !== null) values.push(baseline);
    let [low, top] = [Math.min(...values), Math.max(...values)];
    const pad = 0.12 * (top - low) || 0.05 * Math.abs(top) || 0.5;
    [low, top] = [low - pad, top + pad];
    const longest = Math.max(seconds, ...points.map((each) => each.seconds)) || 1;
    const [unit, word] = longest < 180 ? [1, "s"] : longest < 14400 ? [60, "min"] : [3600, "h"];
    const levels = ticks(low, top, 4);
    const left = 10 + 6.5 * Math.max(1, ...levels.map((each) => short(each).length));
    const [right, above, below] = [10, 8, 22];
    const x = (at) => left + (wide - left - right) * Math.min(1, at / longest);
    const y = (value) => above + (high - above - below) * ((top - value) / (top - low));
    const picture = svg("svg", { viewBox: `0 0 ${wide} ${high}`, height: high, role: "img" });
    picture.setAttribute("aria-label", summary());

    for (const level of levels) {
      picture.append(svg("line", { class: "grid", x1: left, x2: wide - right, y1: y(level), y2: y(level) }));
      picture.append(svg("text", { x: left - 6, y: y(level) + 4, "text-anchor": "end" }, short(level)));
    }
    const times = ticks(0, longest / unit, wide < 420 ? 3 : 6).filter((each) => x(each * unit) < wide - 64);
    for (const each of times) picture.append(svg("text", { x: x(each * unit), y: high - 5, "text-anchor": "middle" }, short(each)));
    picture.append(svg("text", { x: wide - right, y: high - 5, "text-anchor": "end" }, `time, ${word}`));
    if (baseline !== null) {
      const at = y(baseline);
      picture.append(svg("line", { class: "baseline", x1: left, x2: wide - right, y1: at, y2: at }));
      picture.append(svg("text", { x: wide - right, y: at < above + 16 ? at + 13 : at - 5, "text-anchor": "end" }, `baseline ${short(baseline)}`));
    }
    const valid = points.filter((each) => each.kind === "validate");
    if (valid.length) {
      let best = null;
      let path = "";
      for (const each of valid) {
        const better = best === null || (metric.direction === "min" ? each.score < best : each.score > best);
        if (best === null) path = `M${x(each.seconds)},${y(each.score)}`;
        else path += `H${x(each.seconds)}${better ? `V${y(each.score)}` : ""}`;
        if (better) best = each.score;
      }
      picture.append(svg("path", { class: "best", d: path }));
    }
    for (const each of points) {
      const [cx, cy] = [x(each.seconds), y(each.score)];
      const mark =
        each.kind === "validate"
          ? svg("circle", { class: "validate", cx, cy, r: 4 })
          : svg("path", { class: "final", d: `M${cx},${cy - 7}l7,7l-7,7l-7,-7z` });
      mark.append(svg("title", {}, `${KINDS[each.kind]} ${figure(each.score)} after ${duration(each.seconds)}`));
      picture.append(mark);
    }
    const told = [];
    if (valid.length) told.push("dots: validations", "line: the best so far");
    if (valid.length < points.length) told.push("diamond: test");
    place.append(picture, make("figcaption", "dim", told.join(" · ")));
  }

  function summary() {
    const { points, metric } = drawn;
    const values = points.map((each) => each.score);
    const range = values.length > 1 ? `from ${figure(Math.min(...values))} to ${figure(Math.max(...values))}` : figure(values[0]);
    const against = number(metric.baseline) === null ? "" : `, baseline ${figure(metric.baseline)}`;
    return `${text(metric.name, 60) || "Score"} over time: ${count(values.length, "score")}, ${range}${against}.`;
  }

  function table() {
    const { points, leftOut } = drawn;
    page("history").hidden = points.length === 0;
    const rows = points.map((each) => {
      const row = make("tr");
      row.append(make("td", "", duration(each.seconds)), make("td", "", KINDS[each.kind]), make("td", "", figure(each.score)));
      return row;
    });
    if (leftOut > 0) {
      const row = make("tr");
      const cell = make("td", "dim", `${count(leftOut, "older score")} left out`);
      cell.colSpan = 3;
      row.append(cell);
      rows.unshift(row);
    }
    page("rows").replaceChildren(...rows);
  }

  // ---------------------------------------------------------------- the budget

  function budget(limits, scored, state) {
    const rows = [];
    const row = (name, all, left, words) => {
      if (number(all) === null || number(left) === null || all <= 0) return;
      const part = Math.min(1, Math.max(0, left / all));
      const [now, unit] = words(left).split(" ");
      const whole = words(all);
      const told = `${unit && whole.endsWith(` ${unit}`) ? now : words(left)} of ${whole}`;
      const box = make("div");
      const bar = make("div", part < 0.15 ? "meter low" : "meter");
      const filled = make("i");
      filled.style.width = `${(100 * part).toFixed(1)}%`;
      bar.append(filled);
      for (const [key, value] of Object.entries({ role: "meter", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": all, "aria-valuenow": Math.min(all, Math.max(0, left)), "aria-valuetext": told })) bar.setAttribute(key, value);
      const value = make("dd", "", told);
      value.append(bar);
      box.append(make("dt", "", name), value);
      rows.push(box);
    };
    row("Tool calls", limits.calls, limits.calls_left, figure);
    row("Validations", limits.validations, limits.validations_left, figure);
    row("Wall time", limits.wall_s, limits.wall_left_s, duration);
    row("CPU time", limits.cpu_s, limits.cpu_left_s, duration);
    row("Disk", limits.disk_mb, limits.disk_left_mb, (size) => `${figure(Math.round(size))} MiB`);
    if (!rows.length && scored !== null && number(scored.validations_left) !== null) {
      const box = make("div");
      box.append(make("dt", "", "Validations"), make("dd", "", `${figure(scored.validations_left)} left`));
      rows.push(box);
    }
    page("limits").replaceChildren(...rows);
    page("budget").hidden = rows.length === 0;
    put("budget-of", state === "over" ? "Budget left at the end" : "Budget left");
  }

  // ---------------------------------------------------------------- life

  async function refresh() {
    const button = page("refresh");
    button.disabled = true;
    say("Asking for the status.");
    const session = object(drawn).session || text(input.session_id, 100);
    try {
      show(await ask("tools/call", { name: "status", arguments: session ? { session_id: session } : {} }));
      say("Up to date.");
    } catch (error) {
      say(`The status could not be had: ${error.message}.`);
    }
    button.disabled = false;
  }

  async function begin() {
    window.addEventListener("message", hear);
    page("refresh").addEventListener("click", refresh);
    new ResizeObserver(measure).observe(document.body);
    new ResizeObserver(() => drawn !== null && wideness()).observe(page("chart").parentElement);
    try {
      const found = await ask("ui/initialize", {
        protocolVersion: PROTOCOL,
        appInfo: { name: "mlgym-score", version: "1.0.0" },
        appCapabilities: { availableDisplayModes: ["inline", "fullscreen"] },
      });
      dress(object(found.hostContext));
      page("refresh").hidden = object(found.hostCapabilities).serverTools === undefined;
    } catch (error) {
      say(`The host does not show this page: ${error.message}.`);
      return;
    }
    post({ method: "ui/notifications/initialized", params: {} });
    measure();
  }

  let before = 0;
  function wideness() {
    const now = page("chart").parentElement.clientWidth;
    if (now !== before) chart();
    before = now;
  }

  begin();
})();
