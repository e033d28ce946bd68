"use strict";

// What an event says is only ever put into the page as text.

const SHOWN = 30;  // incidents at first, and with every "more"
const SHOWN_RESULTS = 20;
const SHOWN_CHARACTERS = 20000;  // of one PagerDuty event
const STEPS = 120;  // of the chart
const STEP_SECONDS = 5;
const LOOKED_THROUGH = 20000;  // tokens of the event's text, to find a field

const REASONS = {
  pagerduty_rate_limited: "PagerDuty limits the rate",
  rate_limit_delay: "leaves room for what is critical",
  pagerduty_unavailable: "PagerDuty failed",
  pagerduty_timeout: "PagerDuty did not answer",
  pagerduty_unreachable: "PagerDuty could not be reached",
  routing_key_refused: "PagerDuty refuses the routing key",
  routing_key_missing: "the service has no routing key",
  "": "not tried yet",
};

const $ = (id) => document.getElementById(id);
const incidents = new Map();  // number → what the stack tells of it
const cards = new Map();  // number → its element
let shown = SHOWN;
let start = null;
let counts = { incidents: 0 };

function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

// Text of an event: marks that would change the direction of what follows end with it.
const said = (text, kind = "") => el("bdi", { dir: "auto", class: kind || null }, String(text));
const time = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");
const number = (value) => value.toLocaleString("en");

function readable(text) {
  return text.replace(/[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g,
    (mark) => `\\u${mark.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

async function post(path, content) {
  const response = await fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content),
  });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

// -- try an event ---------------------------------------------------------------------------------------------------

let path = "/events";
let trying = Promise.resolve();

function fillForm() {
  const groups = new Map();
  start.samples.forEach((sample, place) => {
    if (!groups.has(sample.group)) groups.set(sample.group, el("optgroup", { label: sample.group }));
    groups.get(sample.group).append(el("option", { value: place }, sample.name));
  });
  $("sample").append(...groups.values());
  $("service").append(...start.services.map((name) => el("option", {}, name)),
    el("option", { value: "nobody-set-this-up" }, "one without a routing key"));
  $("rate-limit").textContent = start.rate_limit;
  for (const setting of start.settings) {
    const id = `setting-${setting.name}`;
    const input = setting.choices.length
      ? el("select", { id }, ...setting.choices.map((choice) => el("option", {}, choice)))
      : el("input", { id, type: "text", autocomplete: "off", spellcheck: "false" });
    input.value = setting.value;
    $("setting-fields").append(el("label", { title: setting.description }, setting.parameter, " ", input));
  }
  showSamconfig();
  if (start.is_real) {
    $("about").textContent = "PagerDuty is the real one: what you send pages somebody. Preview sends nothing.";
    document.body.classList.add("real");
    $("pagerduty").hidden = true;
    $("no-incidents").textContent = "Incidents are in PagerDuty itself.";
    $("no-changes").textContent = "Change events are, too.";
  }
  useSample();
}

function useSample() {
  const sample = start.samples[$("sample").value];
  edit(sample.text, sample.path);
  renewIds();
}

function edit(text, to) {
  $("event").value = text;
  const [route, service] = [to.split("/")[1], to.split("/")[2]];
  path = route === "events" ? "/events" : to;
  if (route === "events") $("service").value = service || "default";
  $("service").disabled = route !== "events";
  showPath();
  mark(new Map());
}

function showPath() {
  const isNamed = path === "/events" && $("service").value !== "default";
  $("path").textContent = `POST ${path}${isNamed ? `/${$("service").value}` : ""}`;
}

// Each event has a messageId of its own: SQS takes the same one twice for a retry.
function renewIds() {
  const before = $("event").value;
  const after = before.replace(/("messageId": *")[0-9a-f]{8}-[0-9a-f-]{27}"/g, (_, key) => `${key}${crypto.randomUUID()}"`);
  if (after !== before) $("event").value = after;
}

// The settings that are not as they are by default, or as in the stack: their names and values.
function settingsUnlike(usual, called) {
  const now = start.settings.map((each) => [each, $(`setting-${each.name}`).value]);
  return now.filter(([each, value]) => value !== each[usual]).map(([each, value]) => [each[called], value]);
}

function showSamconfig() {
  const lines = settingsUnlike("default", "parameter");
  const quoted = lines.map(([name, value]) => /^[\w./-]+$/.test(value)
    ? `${name}=${value}` : `${name}="${value.replace(/["\\]/g, "\\$&")}"`);
  $("samconfig").textContent = ["parameter_overrides = [",
    ...["ParameterPrefix=/rudderstack-pagerduty", ...quoted].map((line) => `  ${JSON.stringify(line)},`), "]"].join("\n");
}

// What is clicked while an answer is awaited comes after it.
function tryIt(send, changed = settingsUnlike("value", "name")) {
  const settings = Object.fromEntries(changed);
  const wanted = { path, service: $("service").value, body: $("event").value, settings, send };
  if (send) renewIds();
  trying = trying.then(() => answer(wanted));
}

async function answer(wanted) {
  $("result").setAttribute("aria-busy", "true");
  try {
    showResult(await post("/page/try", wanted), wanted.body);
  } catch (error) {
    $("verdict").replaceChildren(el("p", { class: "empty" }, `The stack did not answer (${error.message}).`));
    $("outcome").replaceChildren();
  } finally {
    $("result").removeAttribute("aria-busy");
  }
}

function whatRudderStackDoes(status) {
  if (status < 300) return ["done", "RudderStack is done with it."];
  if (status === 408 || status === 429) {
    return ["again", "RudderStack sends it again: after 10 seconds, then ever later up to every 5 minutes, for up to 30 days."];
  }
  if (status >= 500) {
    return ["again", "RudderStack sends it again: after 10 seconds, then ever later up to every 5 minutes, for three hours."];
  }
  return ["never", "RudderStack gives it up and never sends it again."];
}

function showResult(tried, text) {
  const { status, content } = tried.answer || tried.preview;
  const [verdict, words] = whatRudderStackDoes(status);
  const isGood = verdict === "done" && !tried.answer;
  $("verdict").replaceChildren(
    el("p", {}, el("b", { class: `badge ${verdict}` }, `${status} ${content.status || ""}`), " ",
      el("b", {}, isGood ? "A preview: nothing was sent." : words)),
    el("p", {}, said(content.message || ""), " ", el("span", { class: "quiet" },
      content.code && content.code !== content.status ? `(${content.code}) ` : "", `${tried.seconds} s`)),
  );
  const rows = content.results || [content];
  const previews = tried.preview.content.results || [tried.preview.content];
  const find = finder(text);
  const marks = new Map();
  const outcomes = rows.slice(0, SHOWN_RESULTS).map((row, place) => {
    const isMany = Boolean(content.results);
    const complaints = [...(row.warnings || [])].map((words_) => ["warning", words_]);
    if (["rejected", "deferred"].includes(row.status)) complaints.unshift([row.status, row.message]);
    const listed = complaints.map(([kind, words_]) => {
      const line = find(words_, isMany ? place : null);
      if (line && kind !== "deferred") marks.set(line, marks.get(line) || kind);
      return complaint(kind, words_, kind === "deferred" ? 0 : line, isMany || kind === "warning");
    });
    return oneResult(row, isMany ? place + 1 : 0, listed, (previews[place] || {}).event);
  });
  const rest = rows.length - SHOWN_RESULTS;
  $("outcome").replaceChildren(...outcomes, rest > 0 ? el("p", { class: "quiet" }, `and ${number(rest)} more`) : "");
  mark(marks);
}

function complaint(kind, words, line, isNews) {
  if (!line) return isNews ? el("li", { class: kind }, said(words)) : null;
  const button = el("button", { type: "button", class: "link" }, isNews ? `Line ${line}` : `See line ${line}`);
  button.addEventListener("click", () => goTo(line));
  return el("li", { class: kind }, button, " ", isNews ? said(words) : "");
}

function oneResult(row, place, complaints, event) {
  const listed = complaints.filter(Boolean);
  const parts = [place ? el("h3", {}, `${place}. ${row.status} `,
    row.code === row.status ? "" : el("span", { class: "quiet" }, row.code)) : null];
  if (listed.length) parts.push(el("ul", { class: "complaints" }, ...listed));
  if (!event) parts.push(el("p", { class: "empty" }, "PagerDuty gets nothing of it."));
  if (event) {
    const kind = "event_action" in event ? `alert event, ${event.event_action}` : "change event";
    const text = readable(JSON.stringify(event, null, 2));
    const rest = text.length - SHOWN_CHARACTERS;
    parts.push(el(place ? "h4" : "h3", {}, "PagerDuty event ", el("span", { class: "quiet" }, kind)),
      el("pre", { tabindex: "0", role: "region", "aria-label": `PagerDuty event ${place || ""}` }, text.slice(0, SHOWN_CHARACTERS),
        rest > 0 ? `\n… ${number(rest)} more characters` : ""));
  }
  return el("div", {}, ...parts);
}

// The line of the field that a message begins with, such as "properties.severity: expected ...".
function finder(text) {
  let places = null;
  return (message, place) => {
    const broken = /^body: not JSON, line (\d+)/.exec(message);
    if (broken) return Number(broken[1]);
    const field = message.split(":")[0].replace(/\[(\d+)\]/g, ".$1");
    if (!/^[\w.-]+$/.test(field)) return 0;
    places = places || placesOf(text);
    const prefixes = place === null ? [""] : [`batch.${place}.`, `${place}.`];
    for (let steps = field.split("."); steps.length; steps = steps.slice(0, -1)) {
      for (const prefix of prefixes) {
        const found = places.get(prefix + steps.join("."));
        if (found !== undefined) return text.slice(0, found).split("\n").length;
      }
    }
    return 0;
  };
}

// Where the value of each path stands in a JSON text, as far as that can be read.
function placesOf(text) {
  const places = new Map();
  const token = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g;
  const open = [];  // the objects and arrays around: {isArray, step, wantsKey}
  for (let count = 0, match; count < LOOKED_THROUGH && (match = token.exec(text)); count += 1) {
    const [word] = match;
    const around = open.at(-1);
    if (word === "}" || word === "]") open.pop();
    else if (word === ",") {
      if (around && around.isArray) around.step += 1;
      else if (around) around.wantsKey = true;
    } else if (word !== ":") {
      if (around && !around.isArray && around.wantsKey) {
        around.step = word.slice(1, -1);
        around.wantsKey = false;
      }
      const name = open.map((each) => each.step).join(".");
      if (!places.has(name)) places.set(name, match.index);
      if (word === "{" || word === "[") open.push({ isArray: word === "[", step: word === "[" ? 0 : "", wantsKey: true });
    }
  }
  return places;
}

function mark(marks) {
  const lines = $("event").value.split("\n").length;
  const parts = [];
  let from = 1;
  for (const line of [...marks.keys()].sort((a, b) => a - b).filter((each) => each <= lines)) {
    parts.push(range(from, line - 1), el("b", { class: marks.get(line) }, String(line)), "\n");
    from = line + 1;
  }
  $("gutter").replaceChildren(...parts, range(from, lines));
  $("gutter").scrollTop = $("event").scrollTop;
}

const range = (from, to) => Array.from({ length: Math.max(0, to - from + 1) }, (_, place) => `${from + place}\n`).join("");

function goTo(line) {
  const editor = $("event");
  const lines = editor.value.split("\n");
  const from = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
  editor.focus();
  editor.setSelectionRange(from, from + lines[line - 1].length);
  editor.scrollTop = (line - 4) * (editor.scrollHeight / lines.length);
}

function act(incident, action) {
  const event = {
    type: "track", messageId: crypto.randomUUID(), event: incident.title,
    properties: { action, dedupKey: incident.dedup_key },
  };
  edit(JSON.stringify(event, null, 2), `/events/${incident.service}`);
  tryIt(true, []);
}

// -- incidents and change events ------------------------------------------------------------------------------------

function showIncidents() {
  const wanted = [...incidents.keys()].sort((a, b) => b - a).slice(0, shown);
  const keep = new Set(wanted);
  for (const [key, card] of cards) {
    if (!keep.has(key)) {
      card.element.remove();
      cards.delete(key);
    }
  }
  let next = $("incident-list").firstChild;
  for (const key of wanted) {
    if (!cards.has(key)) cards.set(key, incidentCard());
    const card = cards.get(key);
    card.show(incidents.get(key));
    if (card.element === next) next = next.nextSibling;
    else $("incident-list").insertBefore(card.element, next);
  }
  $("no-incidents").hidden = counts.incidents > 0;
  const rest = incidents.size - wanted.length;
  $("more-incidents").hidden = rest <= 0;
  $("more-incidents").textContent = `Show ${number(Math.min(rest, SHOWN))} more`;
  const states = ["triggered", "acknowledged", "resolved"].filter((each) => counts[each]);
  const older = counts.incidents - incidents.size;
  $("incident-counts").replaceChildren(
    ...states.flatMap((each) => [el("span", { class: `badge ${each}` }, `${number(counts[each])} ${each}`), " "]),
    older > 0 ? el("span", { class: "quiet" }, `the newest ${incidents.size} are here`) : "");
}

function incidentCard() {
  let current = null;
  const summary = el("summary");
  const body = el("div", { class: "body" });
  const details = el("details", {}, summary, body);
  const buttons = ["acknowledge", "resolve"].map((action) => {
    const button = el("button", { type: "button" }, action === "resolve" ? "Resolve" : "Acknowledge");
    button.addEventListener("click", () => act(current, action));
    return button;
  });
  const element = el("li", {}, details, el("div", { class: "actions" }, ...buttons));
  const fill = () => body.replaceChildren(...(details.open ? incidentBody(current) : []));
  details.addEventListener("toggle", fill);
  const show = (incident) => {
    if (incident === current) return;
    current = incident;
    element.className = `${incident.status} ${incident.severity}`;
    summary.replaceChildren(
      el("span", { class: `badge ${incident.status}` }, incident.status), " ",
      el("span", { class: `severity ${incident.severity}` }, incident.severity), " ",
      said(incident.title, "title"),
      el("span", { class: "quiet meta" }, said(incident.service), " · ", said(incident.source || ""), " · ",
        time(incident.history.at(-1).until)));
    const hadFocus = buttons.includes(document.activeElement);
    buttons[0].hidden = incident.status !== "triggered";
    buttons[1].hidden = incident.status === "resolved";
    for (const button of buttons) button.setAttribute("aria-label", `${button.textContent}: ${incident.title.slice(0, 80)}`);
    if (hadFocus && document.activeElement.hidden) summary.focus();
    fill();
  };
  return { element, show };
}

function incidentBody(incident) {
  const history = incident.history.map((each) => {
    const [first, last] = [time(each.at), time(each.until)];
    return el("li", {}, each.count > 1 ? `${each.what} ×${number(each.count)}, ${first} to ${last}` : `${each.what} ${first}`);
  });
  if (incident.merged) history.push(el("li", {}, `${number(incident.merged)} repeats merged in the queue, never sent`));
  return [
    incident.summary !== incident.title ? el("p", {}, "Latest summary: ", said(incident.summary)) : "",
    fields({ "dedup key": incident.dedup_key, ...pick(incident, "source", "group", "class", "component") }),
    el("ul", { class: "history", "aria-label": "What happened" }, ...history), ...context(incident),
  ];
}

const pick = (from, ...names) => Object.fromEntries(names.filter((name) => from[name]).map((name) => [name, from[name]]));

const fields = (values) => el("dl", {}, ...Object.entries(values).flatMap(
  ([name, value]) => [el("dt", {}, name), el("dd", {}, said(value))]));

function context(event) {
  const parts = [];
  if (event.client) parts.push(el("p", {}, "from ", link(event.client_url, event.client)));
  else if (event.client_url) parts.push(el("p", {}, "from ", link(event.client_url)));
  if (event.links.length) parts.push(el("ul", {}, ...event.links.map((each) => el("li", {}, link(each.href, each.text)))));
  for (const image of event.images) {
    if (webAddress(image.src, ["https:"])) {
      parts.push(el("img", { src: image.src, alt: image.alt || "image", loading: "lazy", referrerpolicy: "no-referrer" }));
    }
  }
  if (event.details) {
    const rest = event.details_left_out;
    parts.push(el("pre", { tabindex: "0", role: "region", "aria-label": "Custom details" }, readable(event.details),
      rest ? `\n… ${number(rest)} more characters` : ""));
  }
  return parts;
}

function webAddress(text, protocols = ["https:", "http:"]) {
  try {
    const url = new URL(text);
    return protocols.includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

function link(href, text) {
  const url = webAddress(href);
  if (!url) return said(text && href ? `${text} (${href})` : text || href);
  return el("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, said(text || href));
}

function addChange(change) {
  const body = el("div", { class: "body" });
  const details = el("details", {}, el("summary", {},
    said(change.title, "title"), el("span", { class: "quiet meta" }, said(change.service), " · ",
      said(change.source || ""), " · ", time(change.at))), body);
  details.addEventListener("toggle", () => body.replaceChildren(...(details.open
    ? [fields(pick(change, "severity", "source")), ...context(change)] : [])), { once: true });
  $("change-list").prepend(el("li", { class: "change" }, details));
  while ($("change-list").children.length > SHOWN) $("change-list").lastChild.remove();
}

// -- PagerDuty, the queue, the chart --------------------------------------------------------------------------------

function simulateFailures() {
  const mode = document.querySelector("input[name=mode]:checked").value;
  post("/page/pagerduty", { mode, limit: Math.max(1, Number($("limit").value) || 1) });
}

function showStorm(storm) {
  $("storm-state").hidden = !storm;
  if (!storm) return;
  const slow = (kind) => (kind in storm.slowest ? `, the slowest after ${storm.slowest[kind]} s` : "");
  const [pages, others] = [storm.delivered.pages || 0, (storm.delivered.others || 0) + storm.merged];
  $("pages-bar").max = storm.size.pages;
  $("pages-bar").value = pages;
  $("pages-text").textContent = `${number(pages)} of ${number(storm.size.pages)}${slow("pages")}`;
  $("others-bar").max = storm.size.others;
  $("others-bar").value = others;
  $("others-text").textContent = `${number(others)} of ${number(storm.size.others)}`
    + (storm.merged ? `, ${number(storm.merged)} of them merged` : "") + slow("others")
    + (storm.refused ? `; ${number(storm.refused)} were not taken` : "");
}

function showQueue(queue) {
  const states = [["waiting", queue.waiting], ["in flight", queue.in_flight], ["delayed", queue.delayed]];
  const total = states.reduce((sum, [, count]) => sum + count, 0);
  $("queue-counts").replaceChildren(...states.filter(([, count]) => count).flatMap(
    ([name, count]) => [el("span", { class: "badge" }, `${number(count)} ${name}`), " "]));
  $("queue-empty").hidden = total > 0;
  $("queue-list").replaceChildren(...queue.shown.map((each) => el("li", { class: each.severity || "" },
    about(each), el("span", { class: "quiet meta" }, ...whereItIs(each)))));
  const rest = queue.groups - queue.shown.length;
  $("queue-more").textContent = rest > 0 ? `and those of ${number(rest)} more incidents` : "";
  $("dead-count").textContent = number(queue.dead);
  $("dead-empty").hidden = queue.dead > 0;
  $("dead-list").replaceChildren(...queue.dead_shown.map((each) => el("li", { class: "dead" },
    about(each), el("span", { class: "meta" }, el("code", {}, each.code), " ", said(each.reason)))));
}

function about(message) {
  const title = message.title || message.dedup_key || "";
  return el("span", {}, message.severity ? el("span", { class: `severity ${message.severity}` }, message.severity)
    : el("span", { class: "severity" }, message.action || message.kind || ""), " ", said(title, "title"),
  message.behind ? el("span", { class: "quiet" }, ` and ${number(message.behind)} behind it`) : "");
}

function whereItIs(message) {
  if (message.state === "in flight") return ["on its way"];
  if (message.state === "waiting") return ["waiting"];
  const again = el("span", { "data-due": message.due });
  tick(again);
  return [again, `, tried ${message.receive_count}×: ${REASONS[message.reason] || message.reason}`];
}

function tick(element) {
  const due = Number(element.dataset.due);
  const left = Math.max(0, Math.round(due - Date.now() / 1000));
  element.textContent = `delayed until ${time(due)} (${left} s)`;
}

const NS = "http://www.w3.org/2000/svg";

function draw(svg, shapes) {
  svg.replaceChildren(...shapes.map(([kind, tag, attributes, text]) => {
    const shape = document.createElementNS(NS, tag);
    shape.setAttribute("class", kind);
    for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
    if (text) shape.textContent = text;
    return shape;
  }));
}

let chart = null;

function showChart() {
  const first = chart.step - STEPS + 1;
  const of = (from, name) => Array.from({ length: STEPS }, (_, place) => (from[first + place] || {})[name] || 0);
  const series = Object.fromEntries(["received", "delivered", "delayed", "limited"].map((name) => [name, of(chart.counts, name)]));
  const sums = Object.entries(series).map(([name, values]) => [name, values.reduce((sum, value) => sum + value, 0)]);
  for (const [name, sum] of sums) $(`sum-${name}`).textContent = number(sum);
  const late = { pages: of(chart.late, "pages"), others: of(chart.late, "others") };
  for (const kind of ["pages", "others"]) {
    const hasAny = Object.values(chart.late).some((each) => kind in each);
    $(`late-${kind}`).textContent = hasAny ? `${Math.max(...late[kind])} s at most` : "–";
  }
  const [width, height] = [$("chart").clientWidth || 400, 150];
  // Roots, so that what trickles out can be seen beside what came at once.
  const scale = (most, room) => (value) => Math.sqrt(value / Math.max(1, most)) * room;
  const bar = (values, up, base, sign) => values.map((value, place) => value
    ? `M${(place * width / STEPS).toFixed(1)} ${base}v${(-sign * up(value)).toFixed(1)}h${(width / STEPS - 1).toFixed(1)}V${base}z` : "").join("");
  const most = Math.max(1, ...series.received, ...series.delivered, ...series.delayed);
  const up = scale(most, 66);
  draw($("chart"), [
    ["received", "path", { d: bar(series.received, up, 75, 1) }],
    ["delivered", "path", { d: bar(series.delivered, up, 75, 1) }],
    ["delayed", "path", { d: bar(series.delayed, up, 76, -1) }],
    ["limited", "path", { d: bar(series.limited, up, 76, -1) }],
    ["axis", "path", { d: `M0 75.5h${width}` }],
    ["label", "text", { x: 0, y: 10 }, `${number(most)} in ${STEP_SECONDS} s`],
    ["label", "text", { x: 0, y: height - 2 }, "10 minutes ago"],
    ["label", "text", { x: width, y: height - 2, "text-anchor": "end" }, "now"],
  ]);
  $("chart").setAttribute("aria-label", `The last ten minutes: ${sums.map(([name, sum]) => `${sum} ${name.replace("_", " ")}`).join(", ")}`);
  $("chart").removeAttribute("aria-labelledby");
  const longest = Math.max(1, ...late.pages, ...late.others);
  const high = scale(longest, 60);
  draw($("late"), [
    ["late-others", "path", { d: bar(late.others, high, 75, 1) }],
    ["late-pages", "path", { d: bar(late.pages, high, 75, 1) }],
    ["axis", "path", { d: `M0 75.5h${width}` }],
    ["label", "text", { x: 0, y: 10 }, `${number(longest)} s`],
  ]);
}

// -- what the stack tells -------------------------------------------------------------------------------------------

function update(news) {
  if (news.first) {
    incidents.clear();
    $("change-list").replaceChildren();
  }
  for (const incident of news.incidents || []) incidents.set(incident.number, incident);
  if (news.counts) {
    counts = news.counts;
    // The stack tells of the newest only.
    for (const key of incidents.keys()) if (key <= counts.incidents - start.shown_incidents) incidents.delete(key);
    $("no-changes").hidden = counts.changes > 0;
  }
  if (news.first || news.incidents || news.counts) showIncidents();
  for (const change of news.changes || []) addChange(change);
  if (news.queue) showQueue(news.queue);
  if ("storm" in news) showStorm(news.storm);
  if (news.pagerduty) {
    document.querySelector(`input[name=mode][value="${news.pagerduty.mode}"]`).checked = true;
    $("pagerduty").classList.toggle("fails", news.pagerduty.mode !== "works");
  }
  if (news.chart) {
    chart = news.chart;
    showChart();
  }
}

function listen() {
  const source = new EventSource("/page/updates");
  source.onopen = () => { $("connection").textContent = ""; };
  source.onmessage = (message) => update(JSON.parse(message.data));
  source.onerror = () => { $("connection").textContent = "The stack does not answer. Is make serve still running?"; };
}

async function main() {
  start = await (await fetch("/page/start")).json();
  fillForm();
  $("sample").addEventListener("change", useSample);
  $("service").addEventListener("change", showPath);
  $("setting-fields").addEventListener("input", showSamconfig);
  $("event").addEventListener("input", () => mark(new Map()));
  $("event").addEventListener("scroll", () => { $("gutter").scrollTop = $("event").scrollTop; });
  $("event").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) tryIt(true);
  });
  $("preview").addEventListener("click", () => tryIt(false));
  $("send").addEventListener("click", () => tryIt(true));
  $("more-incidents").addEventListener("click", () => {
    shown += SHOWN;
    showIncidents();
  });
  for (const radio of document.querySelectorAll("input[name=mode]")) radio.addEventListener("change", simulateFailures);
  $("limit").addEventListener("change", () => {
    document.querySelector("input[name=mode][value=limits]").checked = true;
    simulateFailures();
  });
  $("storm").addEventListener("click", () => post("/page/storm", { events: Number($("storm-size").value) }));
  setInterval(() => document.querySelectorAll("[data-due]").forEach(tick), 1000);
  new ResizeObserver(() => chart && showChart()).observe($("chart"));
  listen();
  // Before that, a click would have been lost.
  for (const id of ["preview", "send", "storm"]) $(id).disabled = false;
}

main();
