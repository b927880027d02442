// What the page is drawn from, and when: the object that is written into it, or one from a live source; see the head of
// fusemap/view/model.py.

let model = null;
let chosen = null; // the name of a scheme, so that it stays chosen when the model changes

const scheme = () => model.schemes.find(({ name }) => name === chosen) ?? model.schemes[0];

function redraw() {
  const now = scheme();
  chosen = now.name;
  byId("main").hidden = false;
  drawAnswer(model);
  drawSlider(now);
  for (const draw of [drawLanes, drawMaps, drawLedger, drawSchemes, drawDevices]) draw(model, now);
  drawTree(model);
  drawUnread(model);
}

function drawSlider(now) {
  const slider = byId("slider");
  const at = model.schemes.indexOf(now);
  slider.max = model.schemes.length - 1;
  slider.value = at;
  slider.setAttribute("aria-valuetext", `${now.name}: ${outcome(model, now)}`);
  byId("choice").hidden = model.schemes.length < 2;
  byId("stops").replaceChildren(...model.schemes.map(({ name, pairs }) => {
    const marks = [name === now.name && "now", pairs && "hit"].filter(Boolean).join(" ");
    const label = html("span", { class: marks }, html("span", {}, name));
    label.addEventListener("click", () => choose(name));
    return label;
  }));
  const said = html("span", { class: now.pairs ? "bad" : false }, `${now.pairs ? "✕" : "✓"} ${outcome(model, now)}`);
  byId("said").replaceChildren(html("b", {}, now.name), ": ", said);
  byId("about-scheme").textContent = SCHEME[now.name] ?? "";
  byId("about-title").textContent = `What ${now.name} is`;
}

function choose(name) {
  chosen = name;
  redraw();
}

function show(next) {
  const before = model;
  model = next;
  fresh = new Set();
  if (before) {
    const known = new Set(keysOf(before));
    fresh = new Set(keysOf(model).filter((key) => !known.has(key)));
  }
  redraw();
}

function keysOf(some) {
  const devices = some.devices.listed.map((device) => `device ${device.number}`);
  return [...devices, ...some.schemes.flatMap(({ ledger }) => ledger.listed.map(keyOf))];
}

/** Server-Sent Events from the address; the browser itself comes back when the connection is lost. */
function listen(address) {
  const source = new EventSource(address);
  const on = (event, act) => source.addEventListener(event, (message) => act(JSON.parse(message.data)));
  const watching = () => say("live", model.live ? "● live" : "");
  on("model", (next) => {
    show(next);
    watching();
  });
  on("change", (some) => {
    if (model) show({ ...model, ...some });
    watching();
  });
  on("progress", ({ doing, names, devices }) => {
    say("live", `${doing}: ${plural(names, "name")}, ${plural(devices, "device")}`);
  });
  on("end", ({ why }) => {
    source.close();
    say("live", `Ended: ${why}`);
  });
  source.addEventListener("error", () => say("live", source.readyState === EventSource.CLOSED
    ? "The connection was refused: open the address anew that fusemap view has printed."
    : "The connection is lost; trying again."));
}

const THEMES = { "": "system", light: "light", dark: "dark" };

function nextTheme() {
  const names = Object.keys(THEMES);
  const name = names[(names.indexOf(document.documentElement.dataset.theme ?? "") + 1) % names.length];
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  byId("theme").textContent = `Colours: ${THEMES[name]}`;
  byId("theme").setAttribute("aria-label", `Colours: ${name || "as the system has them"}`);
  if (model) drawMaps(model, scheme());
}

function look(step) {
  zoom = Math.max(0, zoom + step);
  drawMaps(model, scheme());
}

byId("theme").addEventListener("click", nextTheme);
byId("slider").addEventListener("input", (event) => choose(model.schemes[Number(event.target.value)].name));
byId("closer").addEventListener("click", () => look(1));
byId("back").addEventListener("click", () => look(-1));
for (const id of ["search", "kind"]) {
  byId(id).addEventListener("input", () => {
    ledgerList.shown = ledgerList.first;
    drawLedger(model, scheme());
  });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => model && drawMaps(model, scheme()));
let width = 0;
new ResizeObserver(() => {
  if (model && byId("before").clientWidth !== width) {
    width = byId("before").clientWidth;
    drawMaps(model, scheme());
    drawTree(model);
  }
}).observe(byId("before"));

const address = document.body.dataset.source;
if (address === undefined) show(JSON.parse(byId("model").textContent));
else listen(address);
