// The space of numbers as a square: see the head of fusemap/view/hilbert.py, whose arithmetic is repeated here, and that
// of model.py for what a map's letters say.

const SIDE = 64;
const ORDER = 6;
let zoom = 0;

/** Column and row of a cell along a Hilbert curve with 2^order cells on each side. */
function placeOn(order, at) {
  let x = 0;
  let y = 0;
  for (let scale = 0; scale < order; scale += 1) {
    const side = 2 ** scale;
    const right = (at >>> 1) & 1;
    const up = (at ^ right) & 1;
    if (!up) {
      if (right) [x, y] = [side - 1 - x, side - 1 - y];
      [x, y] = [y, x];
    }
    x += side * right;
    y += side * up;
    at = Math.floor(at / 4);
  }
  return [x, y];
}

/** Where the numbers lie that end in these bits: left, top, width and height, in the unit square. */
function blockOf(bits) {
  const order = Math.ceil(bits.length / 2);
  const first = parseInt([...bits].reverse().join(""), 2);
  const cells = bits.length % 2 ? [placeOn(order, 2 * first), placeOn(order, 2 * first + 1)] : [placeOn(order, first)];
  const side = 2 ** order;
  const [left, top] = [0, 1].map((axis) => Math.min(...cells.map((cell) => cell[axis])));
  const [right, bottom] = [0, 1].map((axis) => Math.max(...cells.map((cell) => cell[axis])) + 1);
  return [left / side, top / side, (right - left) / side, (bottom - top) / side];
}

function drawMaps(model, scheme) {
  const before = model.schemes.find(({ name }) => name === "raw") ?? model.schemes[0];
  const after = scheme !== before ? scheme : model.schemes.find(({ name }) => name === "suffix") ?? scheme;
  const levels = Math.min(before.map.length, after.map.length);
  byId("map").hidden = !levels;
  if (!levels) return;
  zoom = Math.min(zoom, levels - 1);
  const most = Math.max(1, ...[before, after].flatMap(({ map }) => counts(map[zoom].names)));
  drawMap(model, "before", `Before: ${before.name}`, before, [], most);
  const own = after.name === "suffix";
  drawMap(model, "after", `After: ${after.name}`, after, own ? model.devices.listed : [], most);
  byId("zoom").hidden = levels === 1;
  byId("closer").disabled = zoom >= levels - 1;
  byId("back").disabled = zoom === 0;
  byId("zoom-note").textContent = zoom
    ? `The upper left corner, ${count(2 ** zoom)} times closer: numbers that end in ${plural(2 * zoom, "zero")} or more.`
    : "The whole space.";
  byId("map-note").textContent = after.name === "prefix"
    ? "prefix keeps devices apart in the highest bits, which are too fine to be seen here: their files lie in the same places "
      + "with different numbers."
    : own ? `Empty ground is room for devices to come: ${percent(1 - model.budget.spent)} of all numbers.` : "";
}

/** The bit lengths of the counts that a map's letters stand for. */
function counts(letters) {
  return [...letters].map((letter) => parseInt(letter, 36));
}

function drawMap(model, id, title, scheme, devices, most) {
  const names = counts(scheme.map[zoom].names);
  const colliding = counts(scheme.map[zoom].colliding);
  const filled = names.filter(Boolean).length;
  const bad = colliding.filter(Boolean).length;
  byId(`${id}-title`).textContent = title;
  byId(`${id}-note`).textContent = outcome(model, scheme);
  const canvas = byId(id);
  const where = `${count(filled)} of ${count(SIDE * SIDE)} places hold files; `;
  canvas.setAttribute("aria-label", `${title}. ${outcome(model, scheme)} ${where}`
    + (bad ? `in ${count(bad)} of them files share a number.` : "in none of them files share a number."));
  canvas.dataset.filled = filled;
  canvas.dataset.colliding = bad;

  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const size = Math.max(SIDE, Math.round(canvas.clientWidth * devicePixelRatio));
  canvas.width = canvas.height = size;
  const pen = canvas.getContext("2d");
  const cell = size / SIDE;
  const blocks = visibleBlocks(devices, size);
  const outlined = blocks.filter(({ box }) => Math.min(box[2], box[3]) >= 3);
  canvas.dataset.blocks = outlined.length;
  pen.fillStyle = colour("--faint");
  for (const { box } of blocks) pen.fillRect(...box);
  drawCells(pen, cell, names, colliding, most, colour);
  for (const [name, width] of [["--sheet", 4], ["--ink", 1.5]]) {
    pen.strokeStyle = colour(name);
    pen.lineWidth = width * Math.max(1, size / 600);
    for (const { box } of outlined) pen.strokeRect(...box);
  }
  for (const { box, number } of outlined) drawNumber(pen, box, number, colour, style.getPropertyValue("--sans"));
}

/** The devices' blocks at this scale, in the canvas's own pixels. */
function visibleBlocks(devices, size) {
  const scale = size * 2 ** zoom;
  const blocks = [];
  for (const { number, affixes } of devices) {
    for (const bits of affixes) {
      const box = blockOf(bits).map((of) => of * scale);
      if (box[0] < size && box[1] < size) blocks.push({ box, number });
    }
  }
  return blocks;
}

function drawCells(pen, cell, names, colliding, most, colour) {
  const [ink, red, ground] = ["--ink", "--red", "--red-ground"].map(colour);
  pen.lineCap = "square";
  names.forEach((number, at) => {
    if (!number) return;
    const [x, y] = placeOn(ORDER + zoom, at).map((of) => of * cell);
    if (colliding[at]) {
      pen.fillStyle = ground;
      pen.fillRect(x, y, cell, cell);
      pen.strokeStyle = red;
      pen.lineWidth = cell * (0.16 + 0.1 * colliding[at] / most);
      const [low, high] = [cell * 0.2, cell * 0.8];
      pen.beginPath();
      pen.moveTo(x + low, y + low);
      pen.lineTo(x + high, y + high);
      pen.moveTo(x + high, y + low);
      pen.lineTo(x + low, y + high);
      pen.stroke();
    } else {
      const side = cell * (0.3 + 0.45 * number / most);
      pen.fillStyle = ink;
      pen.fillRect(x + (cell - side) / 2, y + (cell - side) / 2, side, side);
    }
  });
}

/** A device's number in the middle of its block, where there is room for it. */
function drawNumber(pen, [x, y, width, height], number, colour, face) {
  const small = 9 * devicePixelRatio;
  const size = Math.min(Math.min(width, height) * 0.5, 30 * devicePixelRatio);
  if (size < small) return;
  pen.font = `600 ${size}px ${face}`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.lineJoin = "round";
  pen.lineWidth = size * 0.35;
  pen.strokeStyle = colour("--faint");
  pen.fillStyle = colour("--ink");
  for (const draw of ["strokeText", "fillText"]) pen[draw](String(number), x + width / 2, y + height / 2);
}
