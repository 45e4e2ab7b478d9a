// What the explanation page looks at, and how its elements are made. Names come from people's folders, so text is only ever set
// as text. Units, classes and images are counted from 0 here and from 1 on the page and in its address.

// ---- what is looked at

const state = {
  off: new Set(), version: 0, instance: 0, explained: null, compared: null, map: "all", ownScale: false, allClasses: false, allProducts: false,
  filter: "all", ofClass: null, sure: "any", pair: null, shownClass: 0, unit: null, allConcepts: false, classLimit: 24, unitLimit: 24, places: [],
};
const named = data.units.some(unit => unit[0]);
const SHOWN_PRODUCTS = 10, SHOWN_CONCEPTS = 12, SHOWN_CLASSES = 5, NAMED = 4, USED = 1e-3;

/** Inputs without the units that are switched off. */
function switched(x) {
  if (state.off.size === 0) return x;
  const rest = x.slice();
  for (const unit of state.off) rest[unit] = 0;
  return rest;
}

/** An image's answer with the switches as they are; computed when it is first asked for. */
function nowOf(instance) {
  if (state.off.size === 0) return firstOf(instance);
  if (instance.version !== state.version) Object.assign(instance, {version: state.version, now: answer(switched(instance.x))});
  return instance.now;
}
const firstOf = instance => (instance.first ??= answer(instance.x));

/** The best class and its probability. With all units on the network's own logits say so, and nothing need be computed. */
function saidOf(instance) {
  if (state.off.size) { const {order, probabilities} = nowOf(instance); return {c: order[0], sure: probabilities[order[0]]}; }
  return instance.begun ??= best(instance.said);
}
function best(logits) {
  let c = 0;
  for (let other = 1; other < logits.length; other++) if (above(logits[other], logits[c])) c = other;
  if (logits.length === 1) return {c, sure: 1 / (1 + Math.exp(-logits[0]))};
  return {c, sure: 1 / logits.reduce((total, logit) => total + (logit === logits[c] ? 1 : Math.exp(logit - logits[c])), 0)};
}
const beganAs = instance => (instance.begun ??= best(instance.said)).c;
const changed = instance => saidOf(instance).c !== beganAs(instance);
const isWrong = instance => instance.truth !== null && saidOf(instance).c !== instance.true;

// ---- making elements

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [property, setting] of Object.entries(value)) element.style.setProperty(property, setting);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

function makeSvg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Replace what is in a box, and leave the keyboard where it was: on the element of the same key. */
function fill(box, ...children) {
  const active = document.activeElement, key = box.contains(active) ? active.dataset.key : null;
  box.replaceChildren(...children.filter(child => child !== null && child !== undefined));
  if (key) [...box.querySelectorAll("[data-key]")].find(element => element.dataset.key === key)?.focus({preventScroll: true});
}

const button = (key, text, onclick, attributes = {}) => make("button", {type: "button", class: "plain", "data-key": key, onclick, ...attributes}, text);
const exact = (value, text) => make("data", {value: String(value), title: String(value)}, text);

function options(select, automatic, names, chosen) {
  fill(select, ...[automatic, ...names].map(([value, name]) => make("option", {value}, name)));
  select.value = chosen === null ? "" : String(chosen);
}

/** A switch of one unit or of several; `pinned` is the class that stays explained though the answer may change. */
function unitSwitch(units, label, {text = null, pinned = null, key = `switch-${units[0]}`} = {}) {
  const change = event => {
    for (const unit of units) if (event.target.checked) state.off.delete(unit); else state.off.add(unit);
    if (pinned !== null) state.explained = pinned;
    switchesChanged();
  };
  const box = make("input", {type: "checkbox", "data-key": key, "aria-label": text ? null : label, title: text ? null : label, onchange: change});
  const on = units.filter(unit => !state.off.has(unit)).length;
  box.checked = on > 0;
  box.indeterminate = on > 0 && on < units.length;
  return text ? make("label", {class: "check"}, box, ` ${text}`) : box;
}

function bar(value, largest, diverging = false) {
  const width = largest > 0 && Number.isFinite(value) ? Math.abs(value) / largest * (diverging ? 50 : 100) : 0;
  const place = diverging ? {[value < 0 ? "right" : "left"]: "50%"} : {left: "0"};
  return make("span", {class: `bar${diverging ? " diverging" : ""}`, "aria-hidden": "true"},
    make("span", {class: value < 0 ? "fall" : "rise", style: {width: `${width}%`, ...place}}));
}

/** A table; a column is its heading and its class, of which `name` makes row headers. Sums are rows too: a foot repeats on paper. */
function table(caption, columns, rows, sums = []) {
  const name = columns.findIndex(column => column[1] === "name");
  const cells = row => row.map((content, place) => make(place === name ? "th" : "td", place === name ? {scope: "row", class: "name"} : {class: columns[place][1]}, content));
  return make("table", {class: "data"},
    make("caption", {class: "hidden"}, caption),
    make("thead", {}, make("tr", {}, ...columns.map(([text, kind]) => make("th", {scope: "col", class: kind}, text)))),
    make("tbody", {}, ...rows.map(([attributes, row]) => make("tr", attributes, ...cells(row)))),
    sums.length ? make("tbody", {class: "sums"}, ...sums.map(row => make("tr", {}, ...cells(row)))) : null);
}
