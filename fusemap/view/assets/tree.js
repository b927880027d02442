// The affix tree: suffixes in the order of the zeros at their end, since that is how a number is read. All suffixes of one
// length hang from one point of the stem.

/** How far the stem goes to the right for each zero, in pixels: on a phone the suffixes themselves need the room. */
const step = (deepest) => Math.min(14, (innerWidth < 640 ? 72 : 170) / deepest);

function drawTree(model) {
  byId("tree").hidden = model.shown !== null && model.shown !== "suffix"; // then the suffixes are others, or none
  const groups = groupsOf(model);
  const { budget } = model;
  const few = groups.reduce((sum, group) => sum + group.all, 0) <= 24;
  const rows = groups.flatMap((group) => rowsOf(group, few ? 16 : 3));
  const rest = 65535 - budget.affixes;
  if (groups.length) {
    const zeros = groups.at(-1).zeros + 1;
    const free = { first: true, last: true, end: true, free: true };
    rows.push({ ...free, zeros, bits: "0".repeat(zeros), who: "free", share: "" });
  }
  const deepest = groups.length + 1;
  byId("tree-rows").replaceChildren(...rows.map((row) => branch(row, deepest)));
  const spent = Math.max(0.5, budget.spent * 100);
  byId("budget-bar").replaceChildren(svg("rect", { class: "dot", width: budget.spent ? spent : 0, height: 3 }));
  byId("budget-note").textContent = `${percent(budget.spent)} of all 64-bit numbers are given to devices, the rest is `
    + `room for more: ${plural(budget.affixes, "suffix", "suffixes")} of 65,535 used, ${count(rest)} left.`
    + (budget.elsewhere ? ` ${count(budget.elsewhere)} belong to devices that are not here now.` : "")
    + fullOf(model.schemes.find(({ name }) => name === "suffix"))
    + (model.from_table || model.shown ? ""
      : " These suffixes are those of a first mount: the tree has no table of them yet.");
}

/** Files for which there was no suffix left. */
function fullOf(scheme) {
  const { full_map: listed, numberless } = scheme ?? {};
  return (listed ? ` ${plural(listed, "file has", "files have")} a number each from a list, for want of suffixes.` : "")
    + (numberless ? ` For ${plural(numberless, "file")} no number is left: a mount shows them with ENFILE.` : "");
}

/** The suffixes by the zeros at their end. Of those that are not listed, only the number is known. */
function groupsOf(model) {
  const leaves = model.devices.listed.flatMap((device) => device.affixes.map((bits) => ({ bits, device })));
  const zerosOf = ({ bits }) => bits.length - 1 - bits.lastIndexOf("1");
  // A suffix has 2 * zeros + 1 + k bits: fusemap/qid/affix.py.
  const odd = leaves.length ? leaves[0].bits.length - 2 * zerosOf(leaves[0]) : 1;
  const groups = Object.entries(model.budget.lengths).map(([bits, all]) => {
    const length = Number(bits);
    return { length, all, zeros: (length - odd) / 2, leaves: leaves.filter((leaf) => leaf.bits.length === length) };
  });
  groups.sort((one, two) => one.zeros - two.zeros);
  for (const group of groups) {
    group.leaves.sort((one, two) => reversed(one.bits) - reversed(two.bits));
  }
  return groups;
}

const reversed = (bits) => parseInt([...bits].reverse().join(""), 2);

function rowsOf(group, most) {
  const cut = group.all > most ? group.leaves.slice(0, most - 1) : group.leaves;
  const rows = cut.map(({ bits, device }) => ({
    zeros: group.zeros, bits, who: `${device.number}  ${placeOf(device)}`, share: shareOf(group.length),
  }));
  const left = group.all - cut.length;
  if (left) {
    rows.push({ zeros: group.zeros, bits: "1" + "0".repeat(group.zeros), more: true,
      who: cut.length ? `${count(left)} more like these` : plural(left, "device"),
      share: `${shareOf(group.length)} each` });
  }
  rows[0].first = true;
  rows.at(-1).last = true;
  return rows;
}

/** The share of all numbers that a suffix of so many bits has. */
function shareOf(length) {
  return length < 11 ? `1/${count(2 ** length)}` : `1/2${raised(length)}`;
}

function branch({ zeros, first, last, end, free, more, bits, who, share }, deepest) {
  const x = 4 + zeros * step(deepest);
  const width = 18 + deepest * step(deepest);
  const lines = [];
  // The stem goes one step to the right for each zero; a group hangs from where it turns.
  if (first && zeros) lines.push(`M${x - step(deepest)} 0V15H${x}`);
  lines.push(first ? `M${x} 15H${width - 8}` : `M${x} 0V15H${width - 8}`);
  if (!last) lines.push(`M${x} 15V60`);
  if (last && !end) lines.push(`M${x} 15V60`);
  const drawing = svg("svg", { width, "aria-hidden": "true" }, svg("path", { d: lines.join("") }),
    ...(free ? [] : [svg("circle", { cx: width - 6, cy: 15, r: more ? 1.5 : 3 })]));
  const cut = bits.length - zeros;
  const shown = html("span", { class: "bits" }, more || free ? "…" : "", bits.slice(0, cut), html("b", {}, bits.slice(cut)));
  return html("li", { class: free && "free" }, drawing, shown, html("span", { class: "who", title: who }, who),
    html("span", { class: "n" }, share));
}
