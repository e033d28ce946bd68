"use strict";

// The content of events is only ever put into the page as text.

const SHOWN_ROWS = 100;  // of a list
const SHOWN_RESULTS = 20;
const SHOWN_CHARACTERS = 20000;  // of a PagerDuty event, and of a body
const MAX_TOKENS = 20000;  // of the event's text, when a field is looked for
const DRAFT = "draft";
const MESSAGE_ID = /"messageId"\s*:\s*"([^"\\]{1,100})"/;

const REASONS = {
  pagerduty_rate_limited: "PagerDuty limits the rate",
  rate_limit_delay: "room is left for critical events",
  pagerduty_unavailable: "PagerDuty failed",
  pagerduty_timeout: "PagerDuty did not answer",
  pagerduty_unreachable: "PagerDuty could not be reached",
  routing_key_refused: "PagerDuty refuses the routing key",
  routing_key_missing: "the service has no routing key",
  "": "not tried yet",
};

const $ = (id) => document.getElementById(id);
const lists = { requests: new Map(), incidents: new Map(), changes: new Map() };  // by number
let start = null;

function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

function button(text, action, attributes = {}) {
  const element = el("button", { type: "button", ...attributes }, text);
  element.addEventListener("click", action);
  return element;
}

// Text of an event, isolated, so that its direction marks do not affect the text after it.
const said = (text, kind = "") => el("bdi", { dir: "auto", class: kind || null }, String(text));
const quiet = (...children) => el("span", { class: "quiet" }, ...children);
const time = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");
const number = (value) => value.toLocaleString("en");
const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
const refocus = (element) => { if (document.activeElement === document.body) element.focus({ preventScroll: true }); };
const newest = (rows, at = (row) => row.number) => [...rows].sort((a, b) => at(b) - at(a));

function readable(text) {
  return text.replace(/[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g,
    (mark) => `\\u${mark.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

function code(label, text, more = text.length - SHOWN_CHARACTERS) {
  return el("pre", { tabindex: "0", role: "region", "aria-label": label }, readable(text.slice(0, SHOWN_CHARACTERS)),
    more > 0 ? `\n… ${number(more)} more characters` : "");
}

async function call(path, content) {
  const response = await fetch(path, content && {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content),
  });
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).message || `status ${response.status}`);
  return response.json();
}

// Run a button's action; disable the button meanwhile, and show an error.
async function act(element, path, content) {
  const focused = document.activeElement;
  element.disabled = true;
  $("connection").textContent = await call(path, content).then(() => "", (error) => error.message);
  element.disabled = false;
  refocus(focused);
}

// Show rows in a list, each in the element that it had before.
function keyed(id, make) {
  const cards = new Map();
  return (rows) => {
    const focused = document.activeElement;
    const wanted = new Set(rows.map((row) => row.number));
    for (const [key, card] of cards) {
      if (!wanted.has(key)) {
        card.element.remove();
        cards.delete(key);
      }
    }
    let next = $(id).firstChild;
    for (const row of rows) {
      if (!cards.has(row.number)) cards.set(row.number, make());
      const card = cards.get(row.number);
      card.show(row);
      if (card.element === next) next = next.nextSibling;
      else $(id).insertBefore(card.element, next);
    }
    if (focused !== document.activeElement && $(id).contains(focused)) focused.focus({ preventScroll: true });
  };
}

// A row that opens: its summary and its body are made again when they change.
function opening(summaryOf, bodyOf) {
  let current = null;
  const summary = el("summary");
  const body = el("div", { class: "body" });
  const details = el("details", {}, summary, body);
  const fill = async () => body.replaceChildren(...(details.open ? await bodyOf(current) : []));
  details.addEventListener("toggle", fill);
  const show = (row) => {
    if (row === current || JSON.stringify(row) === JSON.stringify(current)) return;
    current = row;
    summary.replaceChildren(...summaryOf(row));
    fill();
  };
  return { details, summary, show };
}

// -- the editor -----------------------------------------------------------------------------------------------------

let [path, chosen] = ["/events", "0"];  // those of the draft; a sample is chosen by its place
const before = [];  // the drafts that samples have replaced, and then those that were left to return to them

function fillForm() {
  const groups = new Map();
  start.samples.forEach((sample, place) => {
    if (!groups.has(sample.group)) groups.set(sample.group, el("optgroup", { label: sample.group }));
    groups.get(sample.group).append(el("option", { value: place }, sample.name));
  });
  $("sample").append(...groups.values());
  $("service").append(...start.services.map((name) => el("option", {}, name)),
    el("option", { value: "not-set-up" }, "one without a routing key"));
  $("rate-limit").textContent = start.rate_limit;
  for (const setting of start.settings) {
    const id = `setting-${setting.name}`;
    const input = setting.choices.length
      ? el("select", { id }, ...setting.choices.map((choice) => el("option", {}, choice)))
      : el("input", { id, type: "text", autocomplete: "off", spellcheck: "false" });
    input.value = setting.value;
    $("setting-fields").append(el("label", { title: setting.description }, setting.parameter, " ", input));
  }
  if (start.is_real) {
    $("about").textContent = "PagerDuty is the real one: what you send pages somebody. Preview sends nothing.";
    document.body.classList.add("real");
    $("pagerduty").hidden = true;
    $("no-incidents").textContent = "Incidents are in PagerDuty itself.";
    $("no-changes").textContent = "So are change events.";
  }
  const draft = JSON.parse(sessionStorage.getItem(DRAFT) || "null");
  if (draft) edit(draft);
  else useSample();
  showSamconfig();
}

const currentDraft = () => ({
  text: $("event").value, path, service: $("service").value, sample: chosen,
  settings: Object.fromEntries(start.settings.map((each) => [each.name, $(`setting-${each.name}`).value])),
});

function keepDraft() {
  // A browser keeps five million characters.
  try { sessionStorage.setItem(DRAFT, JSON.stringify(currentDraft())); } catch { sessionStorage.removeItem(DRAFT); }
  $("edited").hidden = !$("edited").dataset.sent || $("edited").dataset.sent === $("event").value;
}

function useSample() {
  const sample = start.samples[$("sample").value];
  replaceDraft({ text: sample.text, ...route(sample.path), sample: $("sample").value });
  renewIds();
}

function replaceDraft(draft) {
  if ($("event").value) before.push(currentDraft());
  $("undo").hidden = !before.length;
  edit(draft);
}

function undo() {
  before.unshift(currentDraft());
  edit(before.pop());
}

// The path and the PagerDuty service of `POST /events/SERVICE`, or another path.
function route(to) {
  const service = to === "/events" ? "default" : to.replace(/^\/events\//, "");
  return [...$("service").options].some((each) => each.value === service) ? { path: "/events", service } : { path: to };
}

function edit(draft) {
  $("event").value = draft.text;
  path = draft.path;
  if (draft.service) $("service").value = draft.service;
  if (draft.sample) $("sample").value = chosen = draft.sample;
  for (const [name, value] of Object.entries(draft.settings || {})) $(`setting-${name}`).value = value;
  $("service").disabled = path !== "/events";
  showPath();
  mark(new Map());
}

const fullPath = () => (path === "/events" && $("service").value !== "default"
  ? `${path}/${encodeURIComponent($("service").value)}` : path);

function showPath() {
  $("path").textContent = `POST ${fullPath()}`;
  keepDraft();
}

// Each event gets its own messageId: SQS accepts one only once in five minutes.
function renewIds() {
  const now = $("event").value;
  const after = now.replace(/("messageId": *")[0-9a-f]{8}-[0-9a-f-]{27}"/g, (_, key) => `${key}${crypto.randomUUID()}"`);
  const { selectionStart, selectionEnd } = $("event");
  if (after !== now) $("event").value = after;
  $("event").setSelectionRange(selectionStart, selectionEnd);
  keepDraft();
}

// The settings that differ from the template's defaults, or from the stack's values: their names and values.
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
  keepDraft();
}

// -- sending, and the response --------------------------------------------------------------------------------------

let waiting = Promise.resolve();

// Send the text of the editor, or preview it.
async function tryEditor(send) {
  const body = $("event").value;
  const settings = Object.fromEntries(settingsUnlike("value", "name"));
  await answerTo({ path: fullPath(), body, settings, send }, { find: finder(body) });
  $("edited").dataset.sent = body;
  if (send && body === $("event").value) {
    renewIds();
    $("edited").dataset.sent = $("event").value;
  }
  keepDraft();
}

// Send something else, and show what was sent.
function sendOther(content, to, what) {
  const body = typeof content === "string" ? content : JSON.stringify(content, null, 2);
  return answerTo({ path: to, body, send: true }, { sent: el("details", { open: !what.isLong },
    el("summary", {}, what.text), code("What was sent", body)) });
}

// Requests of clicks during a call are sent after it.
function answerTo(wanted, shown) {
  waiting = waiting.then(() => answer(wanted, shown));
  return waiting;
}

async function answer(wanted, shown) {
  const [began, focused] = [performance.now(), document.activeElement];
  delete $("edited").dataset.sent;
  keepDraft();
  const counter = el("span");
  const count = () => { counter.textContent = `${((performance.now() - began) / 1000).toFixed(1)} s`; };
  rest(true);
  $("verdict").replaceChildren(el("p", { class: "empty" }, "Waiting for the answer: ", counter));
  $("outcome").replaceChildren(shown.sent || "");
  const timer = setInterval(count, 100);
  count();
  try {
    showResult(await call("/api/send", wanted), (MESSAGE_ID.exec(wanted.body) || [])[1], shown);
  } catch (error) {
    $("verdict").replaceChildren(el("p", { class: "empty" }, `The stack did not answer (${error.message}).`));
  } finally {
    clearInterval(timer);
    rest(false);
    refocus(focused);
  }
}

function rest(wait) {
  for (const id of ["preview", "send"]) $(id).disabled = wait;
}

function reactionOf(status) {
  if (status < 300) return ["done", "RudderStack is done with it."];
  const isAgain = status >= 500 || status === 408 || status === 429;
  if (!isAgain) return ["never", "RudderStack gives it up and never sends it again."];
  const howLong = status >= 500 ? "about three hours" : "30 days";
  return ["again", `RudderStack sends it again: after 10 seconds, then at intervals of up to 5 minutes, for ${howLong}.`];
}

function showResult(tried, messageId, { sent, find }) {
  const { status, content } = tried.answer || tried.preview;
  const [verdict, words] = reactionOf(status);
  const isPreview = verdict === "done" && !tried.answer;
  $("verdict").replaceChildren(
    el("p", {}, el("b", { class: `badge ${verdict}` }, `${status} ${content.status || ""}`), " ",
      el("b", {}, isPreview ? "A preview: nothing was sent." : words)),
    el("p", {}, said(content.message || ""), " ", quiet(content.code && content.code !== content.status ? `(${content.code})` : "")),
    el("p", { class: "quiet" }, `${time(Date.now() / 1000)}, after ${tried.seconds} s, messageId `, said(messageId || "none")));
  const rows = content.results || [content];
  const previews = tried.preview.content.results || [tried.preview.content];
  const marks = new Map();
  const outcomes = rows.slice(0, SHOWN_RESULTS).map((row, place) => {
    const isMany = Boolean(content.results);
    const complaints = (row.warnings || []).map((text) => ["warning", text]);
    if (["rejected", "deferred"].includes(row.status)) complaints.unshift([row.status, row.message]);
    const listed = complaints.map(([kind, text]) => {
      const line = find && kind !== "deferred" ? find(text, isMany ? place : null) : 0;
      if (line) marks.set(line, marks.get(line) || kind);
      return complaint(kind, text, line, isMany || kind === "warning");
    });
    return oneResult(row, isMany ? place + 1 : 0, listed, (previews[place] || {}).event);
  });
  const left = rows.length - SHOWN_RESULTS;
  $("outcome").replaceChildren(sent || "", ...outcomes, left > 0 ? el("p", { class: "quiet" }, `and ${number(left)} more`) : "");
  if (find) mark(marks);
}

function complaint(kind, text, line, isNews) {
  if (!line) return isNews ? el("li", { class: kind }, said(text)) : null;
  const link = button(isNews ? `Line ${line}` : `See line ${line}`, () => goTo(line), { class: "link" });
  return el("li", { class: kind }, link, " ", isNews ? said(text) : "");
}

function oneResult(row, place, complaints, event) {
  const listed = complaints.filter(Boolean);
  const parts = [place ? el("h3", {}, `${place}. ${row.status} `, row.code === row.status ? "" : quiet(row.code)) : null];
  if (listed.length) parts.push(el("ul", { class: "complaints" }, ...listed));
  if (!event) parts.push(el("p", { class: "empty" }, "No PagerDuty event."));
  if (event) {
    const kind = "event_action" in event ? `alert event, ${event.event_action}` : "change event";
    parts.push(el(place ? "h4" : "h3", {}, "PagerDuty event ", quiet(kind)),
      code(`PagerDuty event ${place || ""}`, JSON.stringify(event, null, 2)));
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
  for (let count = 0, match; count < MAX_TOKENS && (match = token.exec(text)); count += 1) {
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
  const [editor, lines] = [$("event"), $("event").value.split("\n")];
  const from = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
  editor.focus();
  editor.setSelectionRange(from, from + lines[line - 1].length);
  editor.scrollTop = (line - 4) * (editor.scrollHeight / lines.length);
}

// -- requests -------------------------------------------------------------------------------------------------------

let searched = 0;

const showRequestRows = keyed("request-list", () => {
  const { details, show } = opening(requestSummary, requestBody);
  return { element: el("li", {}, details), show };
});

async function showRequests() {
  const text = $("search").value;
  const turn = searched += 1;
  const found = text ? await call(`/api/requests?search=${encodeURIComponent(text)}`) : newest(lists.requests.values());
  if (turn !== searched) return;
  showRequestRows(found.slice(0, SHOWN_ROWS).map((row) => lists.requests.get(row.number) || row));
  $("no-requests").hidden = lists.requests.size > 0;
  $("request-more").textContent = found.length > SHOWN_ROWS ? `and ${number(found.length - SHOWN_ROWS)} older; search for them`
    : text ? `${plural(found.length, "request")} found` : "";
}

function requestSummary(row) {
  const [verdict] = row.status ? reactionOf(row.status) : [""];
  const later = Object.entries(row.later || {}).map(([status, count]) => (row.events > 1 ? `${number(count)} ${status}` : status));
  return [
    quiet(time(row.at)), " ", el("span", { class: `badge ${verdict}` }, `${row.status || "…"} ${row.code || ""}`), " ",
    row.is_urgent ? el("span", { class: "severity critical" }, "urgent ") : "", el("span", { class: "title" }, row.route),
    el("span", { class: "quiet meta" }, row.events > 1 ? plural(row.events, "event") : said(row.message_id || "no messageId"),
      later.length ? `, from the queue: ${later.join(", ")}` : ""),
  ];
}

async function requestBody(row) {
  const detail = await call(`/api/requests/${row.number}`).catch((error) => ({ error }));
  if (detail.error) return [el("p", { class: "empty" }, detail.error.message)];
  const to = row.route.replace(/^\S+ /, "");
  const steps = detail.steps.map((step) => el("li", {}, `${time(step.at)} ${step.status}`,
    step.code === step.status ? "" : ` (${step.code})`, step.receive_count ? `, receive ${step.receive_count}` : "",
    step.pagerduty_status ? `, PagerDuty answered ${step.pagerduty_status}` : "",
    step.reason ? `, ${step.reason}` : "", row.events > 1 ? quiet(" ", said(step.dedup_key || step.message_id)) : ""));
  const buttons = !detail.is_whole ? [quiet("A body that is not text, or longer than 256 KB, cannot be sent again.")] : [
    button("Send again", () => sendOther(detail.body, to, { text: `Sent again: request ${row.number}`, isLong: true })),
    button("Edit and send", () => {
      replaceDraft({ text: detail.body, ...route(to) });
      $("event").focus();
    }),
    button("Copy as curl", (event) => copy(event.target, curl(to, detail))),
  ];
  return [
    el("div", { class: "row" }, ...buttons),
    steps.length ? el("ul", { class: "history", "aria-label": "What happened" }, ...steps) : "",
    el("h4", {}, "Answer"), code("Answer", detail.answer ? JSON.stringify(detail.answer, null, 2) : "none yet"),
    el("h4", {}, "Body"), code("Body", detail.body),
    el("details", {}, el("summary", {}, "Headers"), fields(detail.headers)),
  ];
}

function curl(to, detail) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  return [`curl -i ${quoted(location.origin + to)}`, `-H 'Authorization: Bearer ${start.token}'`,
    "-H 'Content-Type: application/json'", `--data-raw ${quoted(detail.body)}`].join(" \\\n  ");
}

async function copy(element, text) {
  const label = element.textContent;
  await navigator.clipboard.writeText(text).then(() => { element.textContent = "Copied"; }, () => { element.textContent = "Could not copy"; });
  setTimeout(() => { element.textContent = label; }, 1500);
}

// -- incidents and change events ------------------------------------------------------------------------------------

const changedAt = (incident) => incident.history.at(-1).until;
const pathOf = (service) => (service === "default" ? "/events" : `/events/${encodeURIComponent(service)}`);
const actionEvent = (incident, action) => ({
  type: "track", messageId: crypto.randomUUID(), event: incident.title,
  properties: { action, dedupKey: incident.dedup_key },
});

const showIncidentRows = keyed("incident-list", incidentCard);

function showIncidents() {
  const every = [...lists.incidents.values()];
  const wanted = $("status-filter").value;
  const rows = newest(every.filter((each) => !wanted || each.status === wanted), changedAt);
  showIncidentRows(rows.slice(0, SHOWN_ROWS));
  $("no-incidents").hidden = every.length > 0;
  $("resolve-all").disabled = !every.some((each) => each.status !== "resolved");
  $("incident-more").textContent = rows.length > SHOWN_ROWS ? `and ${number(rows.length - SHOWN_ROWS)} older` : "";
  for (const option of $("status-filter").options) {
    const count = every.filter((each) => !option.value || each.status === option.value).length;
    option.textContent = `${option.value || "all"} (${number(count)})`;
  }
}

function incidentCard() {
  let current = null;
  const { details, summary, show } = opening((incident) => [
    quiet(`#${incident.number}`), " ", el("span", { class: `badge ${incident.status}` }, incident.status), " ",
    el("span", { class: `severity ${incident.severity}` }, incident.severity), " ", said(incident.title, "title"),
    el("span", { class: "quiet meta" }, said(incident.service), " · ", said(incident.source || ""), " · ", time(changedAt(incident))),
  ], incidentBody);
  const buttons = ["acknowledge", "resolve"].map((action) => button(action === "resolve" ? "Resolve" : "Acknowledge",
    () => sendOther(actionEvent(current, action), pathOf(current.service), { text: `Sent: ${action} of incident #${current.number}` })));
  const element = el("li", {}, details, el("div", { class: "actions" }, ...buttons));
  return {
    element,
    show: (incident) => {
      current = incident;
      element.className = `${incident.status} ${incident.severity}`;
      show(incident);
      const hadFocus = buttons.includes(document.activeElement);
      buttons[0].hidden = incident.status !== "triggered";
      buttons[1].hidden = incident.status === "resolved";
      for (const each of buttons) each.setAttribute("aria-label", `${each.textContent}: ${incident.title.slice(0, 80)}`);
      if (hadFocus && document.activeElement.hidden) summary.focus();
    },
  };
}

function incidentBody(incident) {
  const history = incident.history.map((each) => {
    const [first, last] = [time(each.at), time(each.until)];
    return el("li", {}, each.count > 1 ? `${each.what} ×${number(each.count)}, ${first} to ${last}` : `${each.what} ${first}`);
  });
  if (incident.merged) history.push(el("li", {}, `${plural(incident.merged, "repeat")} merged in the queue, not sent`));
  return [
    incident.summary !== incident.title ? el("p", {}, "Latest summary: ", said(incident.summary)) : "",
    fields({ "dedup key": incident.dedup_key, ...pick(incident, "source", "group", "class", "component") }),
    el("ul", { class: "history", "aria-label": "What happened" }, ...history), ...context(incident),
  ];
}

// One request for each PagerDuty service.
async function resolveAll() {
  const open = [...lists.incidents.values()].filter((each) => each.status !== "resolved");
  $("resolve-all").disabled = true;
  for (const service of new Set(open.map((each) => each.service))) {
    const events = open.filter((each) => each.service === service).slice(0, 200).map((each) => actionEvent(each, "resolve"));
    await sendOther(events, pathOf(service), { text: `Sent: resolve of ${plural(events.length, "incident")}`, isLong: true });
  }
  showIncidents();
  refocus($("resolve-all"));
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
  if (event.details) parts.push(code("Custom details", event.details, event.details_left_out));
  return parts;
}

const webAddress = (text, protocols = ["https:", "http:"]) => (
  URL.canParse(text) && protocols.includes(new URL(text).protocol) ? new URL(text).href : null);

function link(href, text) {
  const url = webAddress(href);
  if (!url) return said(text && href ? `${text} (${href})` : text || href);
  return el("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, said(text || href));
}

const showChanges = keyed("change-list", () => {
  const { details, show } = opening((change) => [
    said(change.title, "title"), el("span", { class: "quiet meta" }, said(change.service), " · ", said(change.source || ""),
      " · ", time(change.at))], (change) => [fields(pick(change, "severity", "source")), ...context(change)]);
  return { element: el("li", {}, details), show };
});

// -- storms, flow control, the queue --------------------------------------------------------------------------------

function simulateFailures() {
  const mode = document.querySelector("input[name=mode]:checked").value;
  $("limit").value = Math.max(1, Math.round(Number($("limit").value)) || 1);
  act($("limit"), "/api/pagerduty", { mode, limit: Number($("limit").value) });
}

function showStorm(storm) {
  const slow = (kind) => (kind in storm.slowest ? `, the slowest after ${storm.slowest[kind]} s` : "");
  const [pages, others] = [storm.delivered.pages, storm.delivered.others + storm.merged];
  for (const [kind, value] of [["pages", pages], ["others", others]]) {
    $(`${kind}-bar`).max = storm.size[kind];
    $(`${kind}-bar`).value = value;
  }
  $("pages-text").textContent = !storm.size.pages ? "none yet" : `${number(pages)} of ${number(storm.size.pages)}${slow("pages")}`;
  $("others-text").textContent = !storm.size.others ? "none yet" : `${number(others)} of ${number(storm.size.others)}`
    + (storm.merged ? `, ${number(storm.merged)} of them merged` : "") + slow("others")
    + (storm.refused ? `; ${number(storm.refused)} were not accepted` : "");
}

function showFlow(services) {
  $("flow").replaceChildren(...services.map((each) => {
    const reasons = Object.entries(each.reasons).sort((a, b) => b[1] - a[1]).map(([reason]) => REASONS[reason] || reason);
    const waiting = [each.waiting ? `${number(each.waiting)} waiting` : "", reasons[0]].filter(Boolean).join(": ");
    const words = each.lease ? `through the queue until ${time(each.lease)}` : "at once";
    const budgets = each.left.map((left) => el("span", { class: "row" }, el("meter", {
      min: 0, max: each.size, low: each.size / 3, value: Math.max(0, left), "aria-label": `Budget of ${each.service}` }),
    quiet(left < 0 ? `${plural(-left, "call")} overdrawn` : `${left} of ${plural(each.size, "call")} left`)));
    return el("li", { class: each.lease ? "warning" : "" }, el("span", {}, el("b", {}, said(each.service)), ` ${words}`), ...budgets,
      el("span", { class: "quiet meta reserved" }, waiting));
  }));
}

function showQueue(queue) {
  const total = Object.values(queue.counts).reduce((sum, count) => sum + count, 0);
  $("queue-counts").replaceChildren(...Object.entries(queue.counts).flatMap(
    ([name, count]) => [el("span", { class: "badge" }, `${number(count)} ${name}`), " "]));
  $("queue-empty").hidden = total > 0;
  $("try-now").hidden = !queue.counts.delayed;
  $("queue-list").replaceChildren(...queue.messages.map((each) => el("li", { class: each.severity || "" },
    about(each), el("span", { class: "quiet meta" }, ...stateOf(each)))));
  const more = queue.groups - queue.messages.length;
  $("queue-more").textContent = more > 0 ? `and those of ${plural(more, "more incident")}` : "";
}

function showDeadLetters(dead) {
  $("dead-count").textContent = number(dead.count);
  $("dead-empty").hidden = dead.count > 0;
  for (const id of ["redrive", "discard"]) $(id).hidden = !dead.count;
  $("dead-list").replaceChildren(...dead.messages.map((each) => {
    const buttons = [["Redrive", "redrive"], ["Discard", "discard"]].map(([text, action]) => button(text,
      (event) => act(event.target, `/api/dead-letters/${action}`, { ids: [each.id] }), { "aria-label": `${text}: ${(each.title || "").slice(0, 80)}` }));
    return el("li", { class: "dead" }, el("div", {}, about(each), el("span", { class: "meta" }, el("code", {}, each.code), " ", said(each.reason))),
      el("div", { class: "actions" }, ...buttons));
  }));
}

function about(message) {
  const title = message.title || message.dedup_key || "";
  return el("span", {}, message.severity ? el("span", { class: `severity ${message.severity}` }, message.severity)
    : el("span", { class: "severity" }, message.action || message.kind || ""), " ", said(title, "title"),
  message.behind ? quiet(` and ${number(message.behind)} behind it`) : "");
}

function stateOf(message) {
  if (message.state === "in flight") return ["being delivered"];
  if (message.state === "waiting") return ["waiting"];
  const again = el("span", { "data-due": message.due });
  tick(again);
  return [again, `, tried ${message.receive_count}×: ${REASONS[message.reason] || message.reason}`];
}

function tick(element) {
  const due = Number(element.dataset.due);
  element.textContent = `delayed until ${time(due)} (${Math.max(0, Math.round(due - Date.now() / 1000))} s)`;
}

// -- the chart ------------------------------------------------------------------------------------------------------

const NS = "http://www.w3.org/2000/svg";
const [HEIGHT, LEFT, BOTTOM, MIN_STEPS] = [130, 42, 18, 15];
let counts = {};  // by step of so many seconds
let drawn = null;

// Running totals, from the first event to the latest change, so that what waits is the gap between two lines.
function showChart() {
  const steps = Object.keys(counts).map(Number);
  const first = Math.min(...steps) - 1;
  const size = steps.length ? Math.max(MIN_STEPS, Math.max(...steps) - first + 1) : MIN_STEPS;
  const totals = { received: 0, done: 0, limited: 0 };
  const rows = Array.from({ length: size }, (_, place) => {
    const step = counts[first + place] || {};
    totals.received += step.received || 0;
    totals.done += (step.delivered || 0) + (step.merged || 0) + (step.refused || 0);
    totals.limited += step.limited || 0;
    return { ...totals };
  });
  for (const [name, sum] of Object.entries(totals)) $(`sum-${name}`).textContent = number(sum);
  $("since").textContent = steps.length ? time((first + 1) * start.step) : "the start";
  const width = $("chart").clientWidth || 400;
  const most = Math.max(1, totals.received, totals.done);
  const power = 10 ** Math.floor(Math.log10(most));
  const unit = [power, power / 2, power / 5].find((each) => each * 2 <= most && Number.isInteger(each)) || 1;
  const ticks = Array.from({ length: Math.floor(most / unit) + 1 }, (_, place) => place * unit);
  const x = (place) => LEFT + place * (width - LEFT - 4) / (size - 1);
  const y = (value) => HEIGHT - BOTTOM - value * (HEIGHT - BOTTOM - 8) / most;
  const line = (name) => rows.map((row, place) => `${place ? "L" : "M"}${x(place).toFixed(1)} ${y(row[name]).toFixed(1)}`).join("");
  const marks = [0, Math.floor((size - 1) / 2), size - 1];
  const shapes = [
    ...ticks.flatMap((each) => [["grid", "path", { d: `M${LEFT} ${y(each)}H${width}` }],
      ["label", "text", { x: LEFT - 4, y: y(each) + 4, "text-anchor": "end" }, number(each)]]),
    ...marks.map((place) => ["label", "text", { x: x(place), y: HEIGHT - 3, "text-anchor": place ? (place === size - 1 ? "end" : "middle") : "start" },
      steps.length ? time((first + place) * start.step) : ""]),
    ["waiting", "path", { d: `${line("received")}${rows.map((row, place) => `L${x(size - 1 - place).toFixed(1)} ${y(rows[size - 1 - place].done).toFixed(1)}`).join("")}Z` }],
    ["line received", "path", { d: line("received") }],
    ["line done", "path", { d: line("done") }],
    ...rows.flatMap((row, place) => (place && row.limited > rows[place - 1].limited
      ? [["line limited", "path", { d: `M${x(place)} ${HEIGHT - BOTTOM}v-8` }]] : [])),
    ["pointer", "path", { d: "" }],
  ];
  $("chart").replaceChildren(...shapes.map(([kind, tag, attributes, text]) => {
    const shape = document.createElementNS(NS, tag);
    for (const [name, value] of Object.entries({ class: kind, ...attributes })) shape.setAttribute(name, value);
    if (text) shape.textContent = text;
    return shape;
  }));
  drawn = { rows, x, size, first, width };
  $("chart").setAttribute("aria-label", `${number(totals.received)} received, ${number(totals.done)} done, ${number(totals.limited)} answered 429`);
}

function point(event) {
  const place = Math.round((event.offsetX - LEFT) * (drawn.size - 1) / (drawn.width - LEFT - 4));
  const row = drawn.rows[Math.min(drawn.size - 1, Math.max(0, place))];
  $("chart").querySelector(".pointer").setAttribute("d", `M${drawn.x(drawn.rows.indexOf(row))} 0V${HEIGHT - BOTTOM}`);
  $("pointed").textContent = `${time((drawn.first + drawn.rows.indexOf(row)) * start.step)}: ${number(row.received)} received, `
    + `${number(row.done)} done, ${number(Math.max(0, row.received - row.done))} waiting`;
}

// -- updates --------------------------------------------------------------------------------------------------------

// What shows a list, and the number of its rows that are kept.
const LISTS = {
  requests: [showRequests, 500], incidents: [showIncidents, 200],
  changes: [() => showChanges(newest(lists.changes.values())), 50],
};
const PARTS = { queue: showQueue, dead_letters: showDeadLetters, flow: showFlow, storm: showStorm,
  chart: (steps) => { counts = steps; showChart(); } };

function update(news) {
  for (const [name, rows] of Object.entries(lists)) {
    if (news.first) rows.clear();
    for (const row of news[name] || []) rows.set(row.number, row);
    const [show, kept] = LISTS[name];
    for (const key of [...rows.keys()].slice(0, Math.max(0, rows.size - kept))) rows.delete(key);
    if (news.first || news[name]) show();
  }
  $("no-changes").hidden = lists.changes.size > 0;
  for (const [name, show] of Object.entries(PARTS)) if (name in news) show(news[name]);
  if (news.pagerduty) {
    document.querySelector(`input[name=mode][value="${news.pagerduty.mode}"]`).checked = true;
    if (news.pagerduty.mode === "limits" && document.activeElement !== $("limit")) $("limit").value = news.pagerduty.limit;
    $("pagerduty").classList.toggle("fails", news.pagerduty.mode !== "works");
  }
}

function listen() {
  const source = new EventSource("/api/updates");
  source.onopen = () => { $("connection").textContent = ""; };
  source.onmessage = (message) => update(JSON.parse(message.data));
  source.onerror = () => { $("connection").textContent = "The stack does not answer. Is make serve still running?"; };
  // A browser has six connections to a server, for all tabs.
  document.onvisibilitychange = () => { source.close(); if (!document.hidden) listen(); };
}

function keepSearch() {
  const text = $("search").value;
  history.replaceState(null, "", text ? `?search=${encodeURIComponent(text)}` : location.pathname);
  showRequests();
}

async function main() {
  start = await call("/api/start");
  fillForm();
  $("search").value = new URLSearchParams(location.search).get("search") || "";
  const on = (id, kind, action) => $(id).addEventListener(kind, action);
  on("sample", "change", useSample);
  on("service", "change", showPath);
  on("setting-fields", "input", showSamconfig);
  on("undo", "click", undo);
  on("event", "input", () => { mark(new Map()); keepDraft(); });
  on("event", "scroll", () => { $("gutter").scrollTop = $("event").scrollTop; });
  on("event", "keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("send").click();
  });
  on("preview", "click", () => tryEditor(false));
  on("send", "click", () => tryEditor(true));
  on("search", "input", keepSearch);
  on("status-filter", "change", showIncidents);
  on("resolve-all", "click", resolveAll);
  on("reset", "click", (event) => act(event.target, "/api/reset", {}));
  on("try-now", "click", (event) => act(event.target, "/api/queue/try-now", {}));
  for (const action of ["redrive", "discard"]) on(action, "click", (event) => act(event.target, `/api/dead-letters/${action}`, {}));
  document.querySelectorAll("input[name=mode]").forEach((each) => each.addEventListener("change", simulateFailures));
  on("limit", "change", () => {
    document.querySelector("input[name=mode][value=limits]").checked = true;
    simulateFailures();
  });
  on("storm", "click", (event) => act(event.target, "/api/storm", { events: Number($("storm-size").value) }));
  on("chart", "pointermove", point);
  setInterval(() => document.querySelectorAll("[data-due]").forEach(tick), 1000);
  new ResizeObserver(showChart).observe($("chart"));
  listen();
  // Before that, a click would have been lost.
  for (const id of ["preview", "send", "storm"]) $(id).disabled = false;
}

main();
