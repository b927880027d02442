// The ledger of a scheme's collisions with its search, the table of devices, and what could not be read.

const ledgerList = new Gradual("ledger-more", 20, "numbers");
const deviceList = new Gradual("device-more", 24, "devices");
const MEMBERS_SHOWN = 4;
let fresh = new Set();

/** What tells a collision from all others, from one model to the next. */
function keyOf(collision) {
  return `${collision.number} ${collision.files.map((file) => `${file.device}:${file.inode}`).join(" ")}`;
}

/** The text in which a collision is searched for. */
function textOf(model, collision) {
  if (collision.text === undefined) {
    const files = collision.files.map((file) => {
      const device = deviceOf(model, file.device);
      return `${placeOf(file)} device ${file.device} inode ${file.inode} ${device ? placeOf(device) : ""}`;
    });
    collision.text = `${collision.number} ${count(collision.number)} ${files.join(" ")}`.toLowerCase();
  }
  return collision.text;
}

function drawLedger(model, scheme) {
  const { listed, left_out: leftOut } = scheme.ledger;
  byId("ledger-about").textContent = listed.length
    ? `With ${scheme.name}, these files share a number. The most harmful come first.`
    : `With ${scheme.name}, no two files share a number: there is nothing to list.`;
  byId("ledger-tools").hidden = byId("ledger-table").hidden = !listed.length;
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const kind = byId("kind").value;
  const found = listed.filter((collision) => (!kind || collision.harm === kind)
    && words.every((word) => textOf(model, collision).includes(word)));
  ledgerList.fill(byId("ledger-rows"), found, ledgerRow, () => drawLedger(model, scheme));
  const all = total(scheme.numbers);
  say("ledger-count", !listed.length ? "" : words.length || kind
    ? `${count(found.length)} of the ${plural(listed.length, "number")} listed here match.`
    : `${plural(all, "number")} shared by ${plural(total(scheme.files), "file")}.`);
  say("ledger-left", leftOut ? `Only ${count(listed.length)} of them are listed and searched here, some of each kind; `
    + `${count(leftOut)} are left out. fusemap scan --json --map ${scheme.name} lists every one.` : "");
}

function ledgerRow(collision) {
  const files = collision.files.map((file) => html("li", {},
    path(placeOf(file)), " ",
    html("span", { class: "at" }, `device ${file.device}, inode ${count(file.inode)}`)));
  if (collision.left_out) files.push(html("li", { class: "at" }, `and ${count(collision.left_out)} that are not listed here`));
  const all = collision.files.length + collision.left_out;
  const more = files.length > MEMBERS_SHOWN + 1 ? files.splice(MEMBERS_SHOWN) : [];
  return html("tr", {},
    html("td", { class: "n" }, count(collision.number), ...newMark(keyOf(collision))),
    html("td", {}, html("span", { class: `tag ${collision.harm}` }, HARM[collision.harm].kind)),
    html("td", {}, html("ul", {}, ...files), ...(more.length
      ? [html("details", {}, html("summary", {}, `${count(all - MEMBERS_SHOWN)} more`), html("ul", {}, ...more))] : [])));
}

/** A live page marks what was not there a moment ago. */
function newMark(key) {
  return fresh.has(key) ? [html("span", { class: "new" }, "new")] : [];
}

function drawDevices(model, scheme) {
  const { listed, count: all } = model.devices;
  byId("device-colliding").textContent = `Collide (${scheme.name})`;
  deviceList.fill(byId("device-rows"), listed, (device) => html("tr", {},
    html("td", { class: "n" }, count(device.number), ...newMark(`device ${device.number}`)),
    html("td", { class: "path", title: placeOf(device) }, placeOf(device)),
    html("td", {}, visible(device.kind)),
    html("td", { class: "n" }, count(device.files)),
    figure(device.colliding[scheme.name] || 0),
    html("td", { class: "n" }, device.highest_inode === null ? "" : count(device.highest_inode)),
    html("td", { class: "n bits" }, device.affixes[0] ?? "", device.affixes.length > 1 || device.more_affixes
      ? ` +${device.affixes.length - 1 + device.more_affixes}` : ""),
    html("td", { class: "n" }, device.st_dev),
    html("td", { class: "path" }, visible(device.key), device.lasting ? "" : " (until it is unmounted)")),
  () => drawDevices(model, scheme));
  const left = all - listed.length;
  say("device-note", left > 0 ? `${count(left)} more devices are left out here; fusemap scan --json has them.` : "");
}

function drawUnread(model) {
  const { count: all, listed } = model.unreadable;
  byId("unread").hidden = !all;
  byId("unread-note").textContent = `${plural(all, "place")} could not be read; what is in them is not counted.`
    + (all > listed.length ? ` The first ${count(listed.length)}:` : "");
  const places = listed.map((place) => html("li", {}, path(visible(place.path)), ": ", visible(place.why)));
  byId("unread-list").replaceChildren(...places);
}
