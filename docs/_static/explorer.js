// Draws the tables of explorer-data.js. What is here is geometry: no loss is computed.
const $ = (id) => document.getElementById(id);
const { curves, boxes } = JAXLOSS;
const BLUE = "#0072b2", ORANGE = "#b34700", GREY = "#595959";

function element(parent, name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  parent.append(made);
  return made;
}

function choose(select, names) {
  for (const [value, text] of names) select.add(new Option(text, value));
}

// ------------------------------------------------------------------------------------------------ curves

function panel(svg, [left, top], title, values, all, [low, high]) {
  const width = 290, height = 190;
  const finite = all.flat().filter((v) => v !== null);
  const bottom = Math.min(0, ...finite), span = Math.max(...finite) - bottom || 1;
  const x = (i) => left + (width * i) / (values.length - 1);
  const y = (v) => top + height * (1 - (v - bottom) / span);
  element(svg, "text", { x: left, y: top - 14, "font-size": 14, "font-weight": "bold" }, title);
  element(svg, "line", { x1: left, x2: left + width, y1: y(0), y2: y(0), stroke: GREY });
  for (const v of [bottom, bottom + span]) {
    element(svg, "text", { x: left - 6, y: y(v) + 4, "font-size": 11, "text-anchor": "end" }, v.toPrecision(2));
  }
  for (const [v, at] of [[low, 0], [high, values.length - 1]]) {
    element(svg, "text", { x: x(at), y: top + height + 18, "font-size": 11, "text-anchor": "middle" }, v.toPrecision(2));
  }
  let path = "", down = false;
  values.forEach((v, i) => {
    if (v !== null) path += `${down ? "L" : "M"}${x(i).toFixed(1)} ${y(v).toFixed(1)}`;
    down = v !== null;
  });
  element(svg, "path", { d: path, fill: "none", stroke: BLUE, "stroke-width": 2.5, class: title });
}

function showCurve() {
  const curve = curves[$("curve").value], step = Number($("value").value), svg = $("curves");
  svg.replaceChildren();
  const narrow = matchMedia("(max-width: 40rem)").matches; // then the one stands below the other
  const [width, height] = narrow ? [350, 530] : [700, 280];
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  panel(svg, [44, 34], "loss", curve.loss[step], curve.loss, curve.x);
  panel(svg, narrow ? [44, 284] : [394, 34], "gradient", curve.gradient[step], curve.gradient, curve.x);
  element(svg, "text", { x: width / 2, y: height - 10, "font-size": 12, "text-anchor": "middle" }, curve.label);
  $("at").textContent = curve.option ? curve.swept[step].toPrecision(3) : "";
}

function chooseCurve() {
  const curve = curves[$("curve").value];
  $("slider").hidden = !curve.option;
  $("option").textContent = curve.option;
  $("value").max = curve.loss.length - 1;
  $("value").value = Math.floor(curve.loss.length / 2);
  showCurve();
}

choose($("curve"), Object.keys(curves).sort().map((name) => [name, name]));
$("curve").value = "huber";
$("curve").addEventListener("change", chooseCurve);
$("value").addEventListener("input", showCurve);
matchMedia("(max-width: 40rem)").addEventListener("change", showCurve);
chooseCurve();

// ------------------------------------------------------------------------------------------------ boxes

const UNIT = 70, MIDDLE = [350, 230]; // pixels of a unit, place of the target's centre
const at = [Math.round(boxes.grid * 0.75), Math.round(boxes.grid * 0.35)]; // column and row of the grid
const place = (index) => -boxes.reach + (2 * boxes.reach * index) / (boxes.grid - 1);
const pixel = (x, axis) => MIDDLE[axis] + UNIT * x;

function rectangle(svg, centre, [width, height], color, name) {
  element(svg, "rect", {
    x: pixel(centre[0] - width / 2, 0), y: pixel(centre[1] - height / 2, 1), width: UNIT * width, height: UNIT * height,
    fill: color, "fill-opacity": 0.2, stroke: color, "stroke-width": 2.5, class: name,
  });
}

function showBox() {
  const svg = $("boxes"), size = Number($("box-size").value), table = boxes.losses[$("box-loss").value][size];
  const cell = at[1] * boxes.grid + at[0], centre = at.map(place);
  const descent = [0, 1].map((axis) => -(table.gradient[2 * cell + axis] ?? 0));
  svg.replaceChildren();
  rectangle(svg, [0, 0], [2, 2], BLUE, "target");
  rectangle(svg, centre, boxes.sizes[size], ORANGE, "moved");
  const [x, y] = centre.map(pixel);
  element(svg, "circle", { cx: x, cy: y, r: 4, fill: ORANGE });
  element(svg, "line", { x1: x, y1: y, x2: x + 140 * descent[0], y2: y + 140 * descent[1], stroke: "#000", "stroke-width": 3 });
  const loss = table.loss[cell];
  $("box-at").textContent = `loss ${loss === null ? "infinite" : loss.toFixed(3)}`;
}

function move(column, row) {
  [column, row].forEach((index, axis) => { at[axis] = Math.min(boxes.grid - 1, Math.max(0, index)); });
  showBox();
}

function follow(event) {
  const svg = $("boxes"), point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const index = (v, axis) => Math.round((((v - MIDDLE[axis]) / UNIT + boxes.reach) * (boxes.grid - 1)) / (2 * boxes.reach));
  move(index(point.x, 0), index(point.y, 1));
}

choose($("box-loss"), Object.keys(boxes.losses).map((name) => [name, name]));
choose($("box-size"), boxes.sizes.map((size, i) => [i, size.join(" x ")]));
$("box-loss").value = "giou";
for (const select of ["box-loss", "box-size"]) $(select).addEventListener("change", showBox);
$("boxes").addEventListener("pointerdown", (event) => {
  $("boxes").setPointerCapture(event.pointerId);
  follow(event);
});
$("boxes").addEventListener("pointermove", (event) => {
  if (event.buttons) follow(event);
});
$("boxes").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!step) return;
  event.preventDefault();
  move(at[0] + step[0], at[1] + step[1]);
});
showBox();
