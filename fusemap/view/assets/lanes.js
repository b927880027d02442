// The lanes: a row for each device, in columns of inodes that all of them have in common.

const laneList = new Gradual("lane-more", 16, "devices");
const HEIGHT = 30;

function drawLanes(model, scheme) {
  byId("lanes").hidden = !model.lanes;
  if (!model.lanes) return;
  const { edges, devices, others, names } = model.lanes;
  const highest = Math.max(1, ...names.flat());
  const tall = (number) => (number ? 4 + (HEIGHT - 5) * Math.log2(1 + number) / Math.log2(1 + highest) : 0);
  const rows = names.map((row, at) => {
    const colliding = scheme.lanes?.[at] ?? [];
    const device = deviceOf(model, devices[at]);
    const sum = colliding.reduce((one, two) => one + two, 0);
    return { row, colliding, number: devices[at], device, known: device?.colliding[scheme.name] ?? sum, sum };
  });
  rows.sort((one, two) => (one.number ?? Infinity) - (two.number ?? Infinity));
  const shown = rows.length > laneList.shown ? worstFirst(rows) : rows;
  laneList.fill(byId("lane-list"), shown, (row) => lane(row, others, edges, tall), () => drawLanes(model, scheme));
  const last = edges.at(-1);
  byId("lane-axis").replaceChildren(html("span", {}, "inode 0"), html("span", {}, `${count(last)} and higher`));
  const left = rows.length - Math.min(rows.length, laneList.shown);
  say("lane-note", left ? "Those on which most collides come first." : "");
}

/** The lanes to be shown first are those that have something to say. */
function worstFirst(rows) {
  return [...rows].sort((one, two) => (two.device ? two.known : -1) - (one.device ? one.known : -1));
}

function lane({ row, colliding, number, device, known }, others, edges, tall) {
  const width = 100 / row.length; // in percent: so the hatching keeps its shape at every width
  const bars = [];
  row.forEach((names, at) => {
    const bad = colliding[at] || 0;
    for (const [of, name] of [[names - bad > 0 ? names : 0, "bar"], [bad, "bar-bad"]]) {
      if (!of) continue;
      const high = tall(of);
      const to = at + 1 < edges.length ? ` to ${count((BigInt(edges[at + 1]) - 1n).toString())}` : " and higher";
      bars.push(svg("rect", { class: name, 
        x: `${at * width + width * 0.08}%`, width: `${width * 0.84}%`, y: HEIGHT - high, height: high },
        svg("title", {}, `inodes ${count(edges[at])}${to}: ${plural(names, "name")}, ${count(bad)} collide`)));
    }
  });
  bars.push(svg("line", { class: "base", x1: "0%", x2: "100%", y1: HEIGHT - 0.5, y2: HEIGHT - 0.5 }));
  const drawing = svg("svg", { "aria-hidden": "true" }, ...bars);
  const where = device ? placeOf(device) : number === undefined ? `${plural(others, "other device")} together` : "";
  const which = html("b", {}, number === undefined ? "" : `${number} `);
  const who = html("span", { class: "who", title: where }, which, path(where));
  const result = html("span", { class: known ? "n bad" : "n" }, known ? `${count(known)} collide` : "none");
  return html("li", {}, who, drawing, result);
}
