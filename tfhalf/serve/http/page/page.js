"use strict";
// What the server says becomes text, never markup.
const get = (id) => document.getElementById(id);
const state = { token: "", before: new Map(), versions: "", form: {} };

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
  const accuracy = typeof version.accuracy === "number" ? `${(version.accuracy * 100).toFixed(2)} %` : "";
  tell(accuracy || version.quality.join(", "), accuracy ? "number" : undefined);
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
  const names = ["Version", "State", "On the test part", "Takes and gives", "Runtime", "Made", "Rows answered", "Rows/s", "ms/request"];
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
  const usable = models.filter((m) => m.versions.some((v) => v.page));
  const names = usable.map((m) => m.name);
  const versions = usable.map((m) => `${m.name} ${m.default}`).join("\n");
  if (versions === state.versions) return;
  state.versions = versions;
  const chosen = list.value;
  list.replaceChildren(...names.map((name) => make("option", name, { value: name })));
  if (names.includes(chosen)) list.value = chosen;
  get("try").hidden = names.length === 0;
  choose();
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

// What the chosen model takes and gives.
async function choose() {
  const name = get("model").value;
  get("answers").replaceChildren();
  get("drop").hidden = get("row").hidden = true;
  try {
    const form = name ? await ask(`form/${encodeURIComponent(name)}`) : {};
    if (get("model").value !== name) return;
    state.form = form;
    get("drop").hidden = !form.image;
    get("row").hidden = !form.fields;
    get("fields").replaceChildren(...(form.fields || []).map(field));
  } catch (error) {
    get("answers").replaceChildren(make("p", String(error.message || error), { class: "bad" }));
  }
}

// Inputs and outputs as binary tensor data of the Open Inference Protocol: NaN, and large masks, pass as they are.
async function infer(inputs) {
  const outputs = state.form.outputs.map((o) => ({ name: o.name, parameters: { binary_data: true, datatype: "FP32" } }));
  const rows = inputs.map(({ bytes, ...row }) => ({ ...row, parameters: { binary_data_size: bytes.byteLength } }));
  const head = new TextEncoder().encode(JSON.stringify({ inputs: rows, outputs }));
  const path = `v2/models/${encodeURIComponent(get("model").value)}/infer`;
  const length = { "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": String(head.length) };
  const answer = await fetch(path, {
    method: "POST", headers: headers(length), body: new Blob([head, ...inputs.map((row) => row.bytes)]),
  });
  if (answer.status === 401) get("access").hidden = false;
  if (!answer.ok) throw new Error((await answer.json()).error || `status ${answer.status}`);
  const content = await answer.arrayBuffer();
  const end = Number(answer.headers.get("Inference-Header-Content-Length"));
  let start = end;
  const values = new Map();
  for (const output of JSON.parse(new TextDecoder().decode(content.slice(0, end))).outputs) {
    const size = output.parameters.binary_data_size;
    values.set(output.name, { shape: output.shape, data: new Float32Array(content.slice(start, start + size)) });
    start += size;
  }
  return values;
}

// An element of a BYTES tensor: its length, and itself.
function element(bytes) {
  const whole = new Uint8Array(4 + bytes.byteLength);
  new DataView(whole.buffer).setUint32(0, bytes.byteLength, true);
  whole.set(new Uint8Array(bytes), 4);
  return whole;
}

// --- images ----------------------------------------------------------------------------------------------------------

async function showFiles(files) {
  get("answers").replaceChildren();
  for (const file of files) {
    const block = make("div", undefined, { class: "answer" });
    get("answers").append(block);
    try {
      const bytes = element(await file.arrayBuffer());
      const values = await infer([{ name: state.form.image.input, datatype: "BYTES", shape: [1], bytes }]);
      const masks = state.form.outputs.some((output) => output.task === "segmentation");
      block.append(...(masks ? [] : [preview(file)]), await parts(state.form.outputs, values, file));
    } catch (error) {
      block.append(preview(file), make("p", `${file.name}: ${error.message || error}`, { class: "bad" }));
    }
  }
}

function preview(file) {
  const address = URL.createObjectURL(file);
  const picture = make("img", undefined, { src: address, alt: file.name });
  for (const kind of ["load", "error"]) picture.addEventListener(kind, () => URL.revokeObjectURL(address));
  return picture;
}

// --- rows of a table -------------------------------------------------------------------------------------------------

const SELECTED = 200; // categories that a list shows; of more, a person types
function field(one, index) {
  const id = `field-${index}`;
  const block = make("div", undefined, one.kind === "text" ? { class: "wide" } : {});
  block.append(make("label", one.name, { for: id }));
  if (one.kind === "category" && one.categories.length <= SELECTED) {
    const list = make("select", undefined, { id });
    list.append(...one.categories.map((name) => make("option", name, { value: name })), make("option", "(not known)", { value: "" }));
    list.value = one.example;
    block.append(list);
  } else if (one.kind === "image") {
    const box = make("input", undefined, { id, type: "file", accept: "image/*" });
    box.required = true;
    block.append(box);
  } else if (one.kind === "text") {
    block.append(make("textarea", one.example, { id, rows: "3" }));
  } else {
    const kind = one.kind === "category" ? { type: "text", list: `${id}-list` } : { type: "number", step: one.kind === "number" ? "any" : "1" };
    const box = make("input", undefined, { id, ...kind, value: one.example });
    if (one.kind !== "category") box.required = !one.optional;
    if (one.optional) box.placeholder = "not known";
    block.append(box);
    if (one.kind === "category") {
      const list = make("datalist", undefined, { id: `${id}-list` });
      list.append(...one.categories.map((name) => make("option", undefined, { value: name })));
      block.append(list);
    }
  }
  return block;
}

const chosenFiles = () =>
  state.form.fields.flatMap((one, index) => (one.kind === "image" ? [...get(`field-${index}`).files] : []));

async function rowInputs() {
  const inputs = new Map();
  const files = new Map();
  for (const [index, one] of state.form.fields.entries()) {
    const box = get(`field-${index}`);
    if (one.kind === "image") {
      files.set(one.input, element(await box.files[0].arrayBuffer()));
      continue;
    }
    const cell = box.value;
    if (!inputs.has(one.input)) inputs.set(one.input, { kind: one.kind, values: [] });
    const number = one.kind === "category" ? one.categories.indexOf(cell.trim()) + 1 : cell === "" ? NaN : Number(cell);
    inputs.get(one.input).values.push(one.kind === "text" ? cell : number);
  }
  const images = [...files].map(([name, bytes]) => ({ name, datatype: "BYTES", shape: [1], bytes }));
  const rows = [...inputs].map(([name, { kind, values }]) => {
    if (kind === "text") return { name, datatype: "BYTES", shape: [1, 1], bytes: element(new TextEncoder().encode(values[0])) };
    const whole = kind !== "number";
    const bytes = whole ? new Int32Array(values) : new Float32Array(values);
    return { name, datatype: whole ? "INT32" : "FP32", shape: [1, values.length], bytes };
  });
  return [...images, ...rows];
}

async function showRow() {
  try {
    const files = chosenFiles();
    const values = await infer(await rowInputs());
    const masks = state.form.outputs.some((output) => output.task === "segmentation"); // over the first image
    const block = make("div", undefined, { class: "answer" });
    block.append(...files.slice(masks ? 1 : 0).map(preview), await parts(state.form.outputs, values, files[0]));
    get("answers").replaceChildren(block);
  } catch (error) {
    get("answers").replaceChildren(make("p", String(error.message || error), { class: "bad" }));
  }
}

get("model").addEventListener("change", choose);
get("row").addEventListener("submit", (event) => {
  event.preventDefault();
  showRow();
});
get("file").addEventListener("change", (event) => showFiles([...event.target.files]));
const drop = get("drop");
for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  showFiles([...event.dataTransfer.files]);
});
get("access").addEventListener("submit", (event) => {
  event.preventDefault();
  state.token = get("token").value;
  look();
});
look();
setInterval(look, 2000);
