"use strict";
// What the server says becomes text, never markup.
const get = (id) => document.getElementById(id);
const state = { token: "", before: new Map() };

function make(tag, text, attributes = {}) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function headers(more = {}) {
  return state.token ? { ...more, Authorization: `Bearer ${state.token}` } : more;
}

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: headers(options.headers) });
  if (answer.status === 401) get("access").hidden = false;
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error || `status ${answer.status}`);
  return told;
}

const shape = (rows) =>
  rows.map((row) => `${row.name}: ${row.datatype} [${row.shape.map((n) => (n < 0 ? "any" : n)).join(", ")}]`).join("; ");

// Images a second and milliseconds a request since the last look.
function pace(key, now, statistics) {
  const rows = statistics.inference_count;
  const { count, ns } = statistics.inference_stats.success;
  const before = state.before.get(key);
  state.before.set(key, { now, rows, count, ns });
  if (!before || now <= before.now) return ["", ""];
  const requests = count - before.count;
  const rate = Math.max(0, rows - before.rows) / (now - before.now);
  return [rate.toFixed(1), requests > 0 ? ((ns - before.ns) / requests / 1e6).toFixed(1) : ""];
}

function versionRow(model, version, now) {
  const row = make("tr");
  const tell = (text, kind) => row.append(make("td", text, kind ? { class: kind } : {}));
  row.append(make("th", String(version.version), { scope: "row" }));
  tell(version.state, version.state === "ready" ? "good" : version.state === "failed" ? "bad" : undefined);
  if (version.state !== "ready") {
    row.append(make("td", version.reason || "", { colspan: "7" }));
    return row;
  }
  const [rate, latency] = pace(`${model.name}/${version.version}`, now, version.statistics);
  tell(typeof version.accuracy === "number" ? `${(version.accuracy * 100).toFixed(2)} %` : "", "number");
  tell(`${shape(version.inputs)} → ${shape(version.outputs)}`);
  tell(version.runtime);
  tell((version.created || "").slice(0, 10));
  tell(version.statistics.inference_count.toLocaleString("en"), "number");
  tell(rate, "number");
  tell(latency, "number");
  return row;
}

function modelTable(model, now) {
  const block = make("div", undefined, { class: "scroll", tabindex: "0", role: "region", "aria-label": `Versions of ${model.name}` });
  const table = make("table");
  const head = make("tr");
  const names = ["Version", "State", "Test accuracy", "Takes and gives", "Runtime", "Made", "Rows answered", "Rows/s", "ms/request"];
  for (const name of names) head.append(make("th", name, { scope: "col" }));
  const top = make("thead");
  top.append(head);
  const body = make("tbody");
  for (const version of model.versions) body.append(versionRow(model, version, now));
  table.append(make("caption", `Versions of ${model.name}`, { class: "skip" }), top, body);
  block.append(table);
  return block;
}

function offer(models) {
  const list = get("model");
  const names = models.filter((m) => m.versions.some((v) => v.images)).map((m) => m.name);
  if (names.join("\n") === [...list.options].map((o) => o.value).join("\n")) return;
  const chosen = list.value;
  list.replaceChildren(...names.map((name) => make("option", name, { value: name })));
  if (names.includes(chosen)) list.value = chosen;
  get("classify").hidden = names.length === 0;
}

async function look() {
  try {
    const told = await ask("status");
    get("server-version").textContent = told.version;
    get("ready").textContent = told.ready ? "ready" : "not ready";
    get("ready").className = told.ready ? "good" : "bad";
    const parts = [];
    for (const model of told.models) {
      const labels = Object.entries(model.labels).map(([name, label]) => `${name} ${label.version}`);
      parts.push(make("h3", model.name + (labels.length ? ` (${labels.join(", ")})` : "")), modelTable(model, told.now));
    }
    if (!get("list").contains(document.activeElement)) get("list").replaceChildren(...parts);
    offer(told.models);
  } catch (error) {
    get("ready").textContent = String(error.message || error);
    get("ready").className = "bad";
  }
}

function show(file, told) {
  const block = make("div", undefined, { class: "answer" });
  const address = URL.createObjectURL(file);
  const picture = make("img", undefined, { src: address, alt: file.name });
  picture.addEventListener("load", () => URL.revokeObjectURL(address));
  const list = make("ol");
  if (told.error) list.append(make("li", `${file.name}: ${told.error}`, { class: "bad" }));
  for (const row of told.classes || []) {
    const share = row.probability === null ? 0 : row.probability;
    const item = make("li");
    const meter = make("meter", undefined, { value: share, min: 0, max: 1, "aria-label": `probability of ${row.label}` });
    item.append(meter, make("span", ` ${row.label}: ${(share * 100).toFixed(2)} %`));
    list.append(item);
  }
  block.append(picture, list);
  get("answers").append(block);
}

async function classify(files) {
  get("answers").replaceChildren();
  const path = `v2/models/${encodeURIComponent(get("model").value)}/classify`;
  for (const file of files) {
    try {
      const told = await ask(path, { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
      show(file, told.predictions[0]);
    } catch (error) {
      show(file, { error: String(error.message || error) });
    }
  }
}

get("file").addEventListener("change", (event) => classify([...event.target.files]));
const drop = get("drop");
for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  classify([...event.dataTransfer.files]);
});
get("access").addEventListener("submit", (event) => {
  event.preventDefault();
  state.token = get("token").value;
  look();
});
look();
setInterval(look, 2000);
