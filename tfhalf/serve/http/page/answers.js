"use strict";
// What the outputs of a model say, as parts of the page; `make` is page.js's.
const MOST = 5; // classes that are shown of many
const VALUES = 24; // of an array, likewise
const percent = (share) => `${(share * 100).toFixed(2)} %`;
const label = (output, k) => (output.labels[k] === undefined ? String(k) : output.labels[k]);

// One part for each output, under its name where there are several.
async function parts(outputs, values, file) {
  const block = make("div", undefined, { class: "parts" });
  for (const output of outputs) {
    const part = make("section");
    if (outputs.length > 1) part.append(make("h3", output.name));
    const { shape, data } = values.get(output.name);
    if (output.task === "segmentation") part.append(await mask(output, shape, data, file));
    else if (output.task === "regression") part.append(...numbers(output, data));
    else if (output.task === "sequence") part.append(steps(output, shape, data));
    else if (output.task === "array") part.append(...array(shape, data));
    else part.append(bars(output, data));
    block.append(part);
  }
  return block;
}

// Classes: the best of them; independent labels: also all above a half.
function bars(output, data) {
  const several = output.task === "multilabel";
  const order = [...data.keys()].sort((a, b) => data[b] - data[a]);
  const above = several ? order.filter((k) => data[k] > 0.5).length : 0;
  const shares = data.every((value) => value >= -1e-6 && value <= 1 + 1e-6);
  const list = make("ol");
  for (const k of order.slice(0, Math.max(MOST, above))) {
    const item = make("li", undefined, several && data[k] > 0.5 ? { class: "applies" } : {});
    const name = label(output, k);
    if (shares) item.append(make("meter", undefined, { value: data[k], min: 0, max: 1, "aria-label": `probability of ${name}` }));
    item.append(make("span", ` ${name}: ${shares ? percent(data[k]) : data[k].toPrecision(4)}`));
    list.append(item);
  }
  return list;
}

function numbers(output, data) {
  return [...data].map((value, k) => {
    const line = make("p", undefined, { class: "value" });
    const large = Math.abs(value) >= 1000;
    const shown = value.toLocaleString("en", large ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 5 });
    const name = output.columns.length === data.length ? output.columns[k] : data.length > 1 ? `value ${k}` : "";
    if (name) line.append(make("span", `${name}: `));
    line.append(make("strong", shown), make("span", output.unit ? ` ${output.unit}` : ""));
    return line;
  });
}

// An output that has no task: its shape and its first values.
function array(shape, data) {
  const shown = [...data.slice(0, VALUES)].map((value) => value.toPrecision(5)).join("  ");
  const rest = data.length - VALUES;
  const more = rest > 0 ? ` … ${rest.toLocaleString("en")} more` : "";
  return [make("p", `[${shape.slice(1).join(", ")}]`, { class: "shape" }), make("p", shown + more, { class: "array" })];
}

function steps(output, shape, data) {
  const width = shape[shape.length - 1];
  const line = make("p", undefined, { class: "steps" });
  for (let step = 0; step < data.length / width; step++) {
    const best = largest(data, step * width, width);
    line.append(make("span", label(output, best), { title: percent(data[step * width + best]) }));
  }
  return line;
}

function largest(data, start, width) {
  let best = 0;
  for (let k = 1; k < width; k++) if (data[start + k] > data[start + best]) best = k;
  return best;
}

// The class of each pixel laid over the image, with a legend and how much of the image is seen through it.
async function mask(output, shape, data, file) {
  const [, height, width, classes] = shape;
  const pixels = new ImageData(width, height);
  const counts = new Array(classes).fill(0);
  for (let p = 0; p < width * height; p++) {
    const best = largest(data, p * classes, classes);
    counts[best] += 1;
    pixels.data.set([...(output.colours[best] || [128, 128, 128]), 255], p * 4);
  }
  const layer = await createImageBitmap(pixels);
  const image = file ? await createImageBitmap(file).catch(() => null) : null; // TIFF, say: then the mask alone is seen
  const side = Math.max(image ? image.width : width, image ? image.height : height);
  const scale = Math.min(1024, Math.max(384, side)) / side;
  const canvas = make("canvas", undefined, { role: "img", "aria-label": file ? `mask of ${file.name}` : "mask" });
  canvas.width = Math.round((image ? image.width : width) * scale);
  canvas.height = Math.round((image ? image.height : height) * scale);
  const slider = make("input", undefined, { type: "range", min: "0", max: "100", value: "50", "aria-label": "opacity of the mask" });
  const draw = () => {
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (image) context.drawImage(image, 0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = false;
    context.globalAlpha = image ? slider.value / 100 : 1;
    context.drawImage(layer, 0, 0, canvas.width, canvas.height);
    context.globalAlpha = 1;
  };
  slider.addEventListener("input", draw);
  draw();
  const legend = make("ul");
  const order = counts.map((_, k) => k).filter((k) => counts[k]).sort((a, b) => counts[b] - counts[a]);
  for (const k of order) {
    const item = make("li");
    const swatch = make("span", undefined, { class: "swatch" });
    swatch.style.background = `rgb(${output.colours[k] || [128, 128, 128]})`;
    item.append(swatch, make("span", `${label(output, k)}: ${percent(counts[k] / (width * height))}`));
    legend.append(item);
  }
  const block = make("div", undefined, { class: "mask" });
  const opacity = make("label", "Opacity of the mask ");
  opacity.append(slider);
  block.append(...(file ? [make("p", file.name)] : []), canvas, legend, opacity);
  return block;
}
