// What the explanation page looks at, and how its elements are made. Names come from people's folders, so text is only ever set
// as text. Units are counted from 0 here and from 1 on the page.

// ---- what is looked at

const state = {
  off: new Set(), instance: 0, explained: null, compared: null, map: "all", allClasses: false, allProducts: false,
  shownClass: 0, allConcepts: false, allClassesMade: false, unitLimit: 24,
};
const hasUnits = data.units.length > 0;
const SHOWN_PRODUCTS = 10, SHOWN_CONCEPTS = 12, SHOWN_CLASSES = 5, GLANCED = 24, NAMED = 4;

/** Inputs without the units that are switched off. */
function switched(x) {
  if (state.off.size === 0) return x;
  const rest = x.slice();
  for (const unit of state.off) rest[unit] = 0;
  return rest;
}

// ---- making elements

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [property, setting] of Object.entries(value)) element.style.setProperty(property, setting);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter(child => child !== null));
  return element;
}

function makeSvg(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** Replace what is in a box, and leave the keyboard where it was: on the element of the same key. */
function fill(box, ...children) {
  const active = document.activeElement, key = box.contains(active) ? active.dataset.key : null;
  box.replaceChildren(...children.filter(child => child !== null));
  if (key) [...box.querySelectorAll("[data-key]")].find(element => element.dataset.key === key)?.focus({preventScroll: true});
}

const minus = text => text.replace("-", "\u2212");
const number = (value, digits = 2) => {
  const text = Number.isFinite(value) ? value.toFixed(digits) : String(value);
  return Number(text) === 0 ? text.replace("-", "") : minus(text);
};
const signed = (value, digits = 2) => (Number(value.toFixed(digits)) > 0 ? "+" : "") + number(value, digits);
const percent = (value, digits = 1) => (Number.isFinite(value) ? `${minus((100 * value).toFixed(digits))}\u00a0%` : "\u2013");
const exact = (value, text) => make("data", {value: String(value)}, text);
const scientific = value => {
  const [digits, power] = value.toExponential(1).split("e");
  return `${digits} \u00b7 10${[...power.replace("+", "")].map(character => (character === "-" ? "\u207b" : "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"[Number(character)])).join("")}`;
};
const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
const unitNumber = unit => `unit ${unit + 1}`;
const conceptOf = unit => (hasUnits && data.units[unit][0]) || "";
const unitName = unit => (conceptOf(unit) ? `${conceptOf(unit)} (${unitNumber(unit)})` : unitNumber(unit));

function unitLabel(unit) {
  const concept = conceptOf(unit), detector = hasUnits && data.units[unit][3];
  const link = make("a", {href: "#units", class: "unit-link", "data-key": `link-${unit}`, onclick: () => findUnit(unit)}, unitNumber(unit));
  if (!concept) return make("span", {}, link);
  return make("span", {}, make("span", {class: detector ? "concept" : "concept weak"}, concept), " ", link);
}

/** A checkbox that switches a unit; `pinned` is the class that stays explained though the answer may change. */
function unitSwitch(unit, text = null, pinned = null) {
  const change = event => {
    if (event.target.checked) state.off.delete(unit); else state.off.add(unit);
    if (pinned !== null) state.explained = pinned;
    recompute();
  };
  const box = make("input", {type: "checkbox", "data-key": `switch-${unit}`, "aria-label": text ? null : `Use ${unitName(unit)}`, onchange: change});
  box.checked = !state.off.has(unit);
  return text ? make("label", {class: "check"}, box, ` ${text}`) : box;
}

/** The images that excite a unit most, side by side; null where the page has none. */
const stripOf = unit => (data.strips[unit] ? make("img", {class: "strip", src: data.strips[unit], alt: `Images that excite ${unitName(unit)} most, marked where`}) : null);

function bar(value, largest, diverging = false) {
  const width = largest > 0 && Number.isFinite(value) ? Math.abs(value) / largest * (diverging ? 50 : 100) : 0;
  const place = diverging ? {[value < 0 ? "right" : "left"]: "50%"} : {left: "0"};
  return make("span", {class: `bar${diverging ? " diverging" : ""}`, "aria-hidden": "true"},
    make("span", {class: value < 0 ? "fall" : "rise", style: {width: `${width}%`, ...place}}));
}

function table(caption, columns, rows, foot = []) {
  const cells = (row, name) => row.map((content, place) => make(place === name ? "th" : "td", place === name ? {scope: "row"} : {class: columns[place][1]}, content));
  const name = columns.findIndex(column => column[1] === "name");
  return make("table", {class: "data products"},
    make("caption", {class: "hidden"}, caption),
    make("thead", {}, make("tr", {}, ...columns.map(([text, kind]) => make("th", {scope: "col", class: kind}, text)))),
    make("tbody", {}, ...rows.map(([kind, row]) => make("tr", {class: kind || null}, ...cells(row, name)))),
    make("tfoot", {}, ...foot.map(row => make("tr", {}, ...row))));
}

const cell = content => make("td", {class: "num"}, content);
