// Words and elements. Everything that comes from the tree passes through `visible` and becomes text, never markup: no
// function here or elsewhere on this page takes HTML.

const GROUPED = new Intl.NumberFormat("en");

/** A number as an administrator reads it; strings of digits may be longer than JavaScript's numbers are exact. */
function count(number) {
  return GROUPED.format(typeof number === "string" ? BigInt(number) : number);
}

/** "1 file", "2 files". */
function plural(number, word, words = word + "s") {
  return `${count(number)} ${number === 1 ? word : words}`;
}

/** A number as an exponent. */
function raised(number) {
  return [...String(number)].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("");
}

/** A small number of things to expect: "0.0031", "12,000". */
function estimate(number) {
  if (number === 0) return "0";
  if (number < 0.001) {
    const [digits, exponent] = number.toExponential(0).split("e-");
    return `${digits}·10⁻${raised(exponent)}`;
  }
  return number < 100 ? String(Number(number.toPrecision(2))) : count(Math.round(number));
}

/** A share of the whole: "12 %"; neither all nor nothing is said unless it is so. */
function percent(share) {
  if (share > 0 && share < 0.001) return "less than 0.1 %";
  const shown = share < 1 ? Math.min(share * 100, 99.9) : 100;
  return `${shown >= 10 ? shown.toFixed(shown % 1 ? 1 : 0) : Number(shown.toPrecision(2))} %`;
}

/** A name as text in which everything can be seen: bytes that are no UTF-8, control and direction characters. */
function visible(name) {
  return String(name).replace(/(?! )[\p{C}\p{Z}]/gu, (letter) => {
    const code = letter.codePointAt(0);
    if (code >= 0xdc80 && code <= 0xdcff) return "\\x" + (code - 0xdc00).toString(16);
    if (code < 0x100) return "\\x" + code.toString(16).padStart(2, "0");
    return code < 0x10000 ? "\\u" + code.toString(16).padStart(4, "0") : "\\U" + code.toString(16).padStart(8, "0");
  });
}

/** Where in the tree a file or device is; the top itself is ".", which says little. */
function placeOf({ path, directory }) {
  return path === "." ? "/ (the top)" : "/" + visible(path) + (directory ? "/" : "");
}

const byId = (id) => document.getElementById(id);

/** An HTML element; attributes whose value is false are left out, strings among the children become text. */
function html(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** An SVG element, likewise. */
function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** Shows or hides an element that holds a sentence. */
function say(id, text) {
  const element = byId(id);
  element.textContent = text;
  element.hidden = !text;
}

/** A path of the user's. */
function path(text, tag = "bdi") {
  return html(tag, { class: "path" }, text);
}

/** The device with this number, undefined where it is not listed. */
function deviceOf(model, number) {
  const { listed } = model.devices;
  return listed[number]?.number === number ? listed[number] : listed.find((device) => device.number === number);
}

/** A list that is shown piece by piece: its button shows more of it. */
class Gradual {
  constructor(button, first, words) {
    this.button = byId(button);
    this.first = first;
    this.words = words;
    this.shown = first;
    this.redraw = () => {};
    this.button.addEventListener("click", () => {
      this.shown += Math.max(this.first, 100);
      this.redraw();
    });
  }

  /** Fills `parent` with what `make` makes of each of the items shown. */
  fill(parent, items, make, redraw) {
    this.redraw = redraw;
    parent.replaceChildren(...items.slice(0, this.shown).map(make));
    const left = Math.max(0, items.length - this.shown);
    if (!left && document.activeElement === this.button) { // whoever reads by keyboard goes on where he was
      parent.tabIndex = -1;
      parent.focus({ preventScroll: true });
    }
    this.button.hidden = !left;
    this.button.textContent = `Show ${count(Math.min(left, Math.max(this.first, 100)))} more ${this.words}`;
  }
}
