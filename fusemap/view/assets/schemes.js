// What the schemes are and what their collisions do, in words; the answer on top of the page, and the comparison.

const HARMS = ["loop", "error", "mixed"];

const HARM = {
  loop: {
    kind: "directories",
    title: "have a number that several directories share",
    tools: "find and du report a loop and leave out what is below. A 9P client can show one directory in the other’s place.",
  },
  error: {
    kind: "dir. and file",
    title: "have a number that a directory and files share",
    tools: "A 9P client fails with EIO: whichever of them it sees second cannot be used.",
  },
  mixed: {
    kind: "files",
    title: "have a number that several files share",
    tools: "rsync -H, tar and cp -a take them for hard links of one file: the copy loses data. A 9P client that caches "
      + "can give one file’s data for the other’s.",
  },
};

const SCHEME = {
  raw: "The host’s own inode numbers, unchanged: what bindfs, a plain 9P share or a Samba share of the tree shows as "
    + "one device.",
  prefix: "fusemap’s --map prefix: a number of 16 bits for each device is put in front of the inode. No two files can "
    + "share a number, on any tree. The numbers are very large.",
  qemu: "What QEMU does for its 9P shares (multidevs=remap): a short suffix for each device behind the inode. Numbers are "
    + "small. They can collide where a file system uses the top bits of its inode numbers, as overlayfs does.",
  suffix: "fusemap’s own, and what it does unless told otherwise: a short suffix for each device behind the inode, and "
    + "the bits that are pushed out at the top are never lost. No two files can share a number, on any tree, and numbers "
    + "are small.",
  xor: "An exhibit: the device’s number and the inode combined by exclusive or. Quick, and no help: nearby devices and "
    + "nearby inodes cancel out.",
  xxh64: "An exhibit: a 64-bit hash of device and inode. Collisions are unlikely rather than impossible, and nobody can tell "
    + "from a number which file it was.",
  xxh32: "An exhibit: a 32-bit hash of device and inode, as programs need that know no larger numbers.",
  samba: "An exhibit: the file id that Samba makes by itself, with 32 bits of the device and 32 bits of the inode.",
};

const PROVEN = new Set(["prefix", "suffix"]);

const total = (byHarm) => HARMS.reduce((sum, harm) => sum + (byHarm[harm] || 0), 0);

/** What a scheme does to this tree, in one sentence. */
function outcome(model, scheme) {
  if (scheme.pairs) {
    return `${plural(total(scheme.files), "file")} share ${plural(total(scheme.numbers), "number")}.`;
  }
  if (scheme.numberless) return `No two files share a number, but for ${plural(scheme.numberless, "file")} none is left.`;
  if (scheme.name === "raw" && model.devices.count === 1) return "Every file has a number of its own.";
  if (PROVEN.has(scheme.name)) return "Every file has a number of its own, and always will.";
  return "Every file has a number of its own, today: nothing sees to it for files to come.";
}

function drawAnswer(model) {
  const raw = model.schemes.find((scheme) => scheme.name === "raw") ?? model.schemes[0];
  const colliding = total(raw.files);
  const devices = model.devices.count;
  const whole = plural(model.files, "file") + (model.live ? " known so far" : "");
  byId("root").textContent = visible(model.root);
  document.title = `${visible(model.root)} - fusemap`;
  byId("subject").textContent = model.live ? "live" : "scan";
  byId("answer").textContent = colliding
    ? `${count(colliding)} of ${whole} would be mistaken for one another`
    : `No two of ${whole} share a number`;
  const many = `They lie on ${plural(devices, "device")}, and every device numbers its files by itself, from small `
    + "numbers up. ";
  if (colliding) {
    byId("because").textContent = many + "Shown as one device - by bindfs, a plain 9P share or a Samba share - files of "
      + "different devices with the same number look like one file to all programs that go by numbers.";
  } else if (devices > 1) {
    byId("because").textContent = many + "Today the numbers in use happen not to meet. The next file that is made "
      + "can change that.";
  } else {
    byId("because").textContent = "They lie on one device, which gives each of them a number of its own. Nothing can "
      + "collide until another file system is mounted beneath this tree.";
  }
  drawExample(model, raw);
  byId("harms").hidden = !colliding;
  byId("harms").replaceChildren(...HARMS.map((harm) => {
    const files = raw.files[harm] || 0;
    return html("div", { class: files ? false : "none" },
      html("dt", {}, html("b", {}, count(files)), " " + HARM[harm].title), html("dd", {}, HARM[harm].tools));
  }));
  const shown = model.schemes.find((scheme) => scheme.name === model.shown);
  const remedy = byId("remedy");
  if (shown) {
    remedy.replaceChildren(html("p", {},
      "This mount shows the tree with ", html("code", {}, shown.name), ": ", outcome(model, shown)));
  } else {
    remedy.replaceChildren(html("p", {}, colliding ? "The remedy: " : "To be sure: ",
      html("code", {}, `fusemap mount ${quoted(model.root)} MNT`),
      " shows the same tree as one device on which each file has its own number."));
  }
  const made = model.made ? new Date(model.made) : null;
  say("made", [
    `${whole}${model.names === model.files ? "" : `, ${count(model.names)} names`}, ${plural(devices, "device")}.`,
    made ? `Counted on ${made.toISOString().slice(0, 16).replace("T", " at ")} UTC.` : "",
    model.vanished ? `${plural(model.vanished, "name was", "names were")} gone before they could be looked at.` : "",
  ].join(" "));
}

function drawExample(model, raw) {
  const first = raw.ledger.listed[0];
  byId("example").hidden = !first;
  if (!first) return;
  const [one, two] = first.files;
  byId("example").replaceChildren("For example, ", path(placeOf(one)), " and ", path(placeOf(two)), " are both number ",
    html("span", { class: "bad" }, count(first.number)), ".");
}

function drawSchemes(model, now) {
  byId("scheme-rows").replaceChildren(...model.schemes.map((scheme) => html("tr", { class: scheme === now && "now" },
    html("th", { scope: "row" }, scheme.name, scheme.mode ? "" : html("span", { class: "what" }, "exhibit")),
    ...HARMS.map((harm) => figure(scheme.files[harm] || 0)), figure(scheme.pairs),
    html("td", { class: "n" }, estimate(scheme.expected_pairs)))));
}

/** A cell with a count, which is bad where it is not 0. */
function figure(number) {
  return html("td", { class: number ? "n bad" : "n" }, count(number));
}

/** A path as a shell takes it. */
function quoted(name) {
  const shown = visible(name);
  if (shown !== name) return "SRC";
  return /^[\w@%+=:,./-]+$/.test(name) ? name : `'${name.replaceAll("'", "'\\''")}'`;
}
