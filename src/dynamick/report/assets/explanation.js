// The explanation page's views of what arithmetic.js computes. Names come from people's folders, so text is only ever set as
// text. Units are counted from 0 here and from 1 on the page.

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

// ---- computing again

function recompute() {
  for (const instance of instances) {
    instance.now = answer(switched(instance.x));
    instance.first ??= instance.now;
  }
  showStatus();
  showGallery();
  showInstance();
  showUnits();
}

const changed = instance => instance.now.order[0] !== instance.first.order[0];
const isWrong = instance => instance.truth !== null && instance.now.order[0] !== instance.true;

function showCheck() {
  let apart = 0;
  for (const instance of instances) {
    const expected = floats(instance.logits);
    instance.first.logits.forEach((logit, c) => {
      if (!(Number.isNaN(logit) && Number.isNaN(expected[c])) && logit !== expected[c]) apart = Math.max(apart, Math.abs(logit - expected[c]));
    });
  }
  byId("check").textContent = `Checked when this page opened: for ${plural(instances.length, "image")} and ${plural(head.O, "class", "classes")}, `
    + (apart === 0 ? "its logits are the network's, to the last digit." : `its logits differ from the network's by at most ${scientific(apart)}.`);
}

function showStatus() {
  const off = state.off.size, kept = instances.filter(each => !changed(each)).length;
  const known = instances.filter(each => each.truth !== null), right = known.filter(each => !isWrong(each)).length;
  byId("switches").classList.toggle("active", off > 0);
  byId("reset").hidden = off === 0;
  const shown = instances[state.instance], first = shown.first.order[0], now = shown.now.order[0];
  const here = first === now ? `This image stays ${data.classes[now]} (${percent(shown.now.probabilities[now])}).` : `This image turns from ${data.classes[first]} into ${data.classes[now]}.`;
  const text = off === 0 ? "All units are on." : `${plural(off, "unit")} off. ${here} ${kept} of ${instances.length} answers kept`
    + (known.length ? `, ${right} of ${known.length} right.` : ".");
  if (byId("status").textContent !== text) byId("status").textContent = text;
}

// ---- images

function showGallery() {
  const filter = byId("image-filter").value;
  const chosen = instances.map((_, i) => i).filter(i => filter === "all" || (filter === "wrong" ? isWrong(instances[i]) : changed(instances[i])));
  fill(byId("gallery"), ...chosen.map(i => {
    const instance = instances[i], said = data.classes[instance.now.order[0]];
    const remark = isWrong(instance) ? `, wrong, it is ${instance.truth}` : "";
    const radio = make("input", {type: "radio", name: "instance", value: i, "data-key": `image-${i}`, onchange: () => choose(i)});
    radio.checked = i === state.instance;
    return make("label", {class: [isWrong(instance) ? "wrong" : "", changed(instance) ? "changed" : ""].join(" ").trim() || null, title: instance.name},
      radio, make("img", {src: instance.image, alt: `${instance.name}: ${said}${remark}${changed(instance) ? ", changed by the switches" : ""}`}));
  }), chosen.length ? null : make("p", {class: "note"}, filter === "wrong" ? "No wrong answers." : "No answer has changed. Switch off a unit below."));
}

function choose(i) {
  Object.assign(state, {instance: i, explained: null, compared: null, map: "all", allProducts: false});
  showInstance();
  showStatus();
}

/** Routed units that are on, largest first: by product, or in a dense head by size. */
function contributions(instance, c) {
  const {units, products} = route(c, switched(instance.x));
  const pairs = units.map((unit, place) => ({unit, p: products[place]})).filter(({unit}) => !state.off.has(unit));
  return data.rule === "dense" ? pairs.sort((a, b) => descending(Math.abs(a.p), Math.abs(b.p)) || a.unit - b.unit) : pairs;
}

function showInstance() {
  const instance = instances[state.instance], order = instance.now.order;
  const c = state.explained ?? order[0], other = state.compared !== null && state.compared !== c ? state.compared : order.find(each => each !== c);
  const pairs = contributions(instance, c);
  showPicture(instance);
  showRanking(instance, c);
  byId("why-heading").textContent = order[0] === c ? `Why ${data.classes[c]}?` : `Why not ${data.classes[c]}?`;
  options(byId("explained"), ["", `the answer, ${data.classes[order[0]]}`], state.explained);
  options(byId("compared"), ["", `the ${c === order[0] ? "runner-up" : "answer"}, ${data.classes[order.find(each => each !== c)] ?? "none"}`], state.compared);
  showProducts(instance, c, pairs);
  showDifferences(instance, c, other, pairs);
  showMaps(instance, c, pairs);
}

function options(select, automatic, chosen) {
  const names = [automatic, ...data.classes.map((name, c) => [String(c), name])];
  fill(select, ...names.map(([value, name]) => make("option", {value}, name)));
  select.value = chosen === null ? "" : String(chosen);
}

function showPicture(instance) {
  const said = data.classes[instance.now.order[0]], image = byId("image");
  image.src = instance.image;
  image.alt = `The explained image, ${instance.name}`;
  const truth = instance.truth === null ? "" : isWrong(instance) ? ` Wrong: it is ${instance.truth}.` : " Right.";
  byId("caption").textContent = `${instance.name}: the network says ${said}.${truth}`;
}

function showRanking(instance, c) {
  const {order, logits, probabilities} = instance.now, shown = state.allClasses ? order : order.slice(0, SHOWN_CLASSES);
  fill(byId("ranking"), ...shown.map(each => {
    const before = instance.first.order.indexOf(each) + 1, rank = order.indexOf(each) + 1;
    const remark = [each === instance.true ? "true class" : null, before !== rank ? `was no. ${before}` : null].filter(Boolean).join(", ");
    return make("li", {"data-class": each},
      make("button", {type: "button", class: "plain", "aria-pressed": String(each === c), "data-key": `class-${each}`, onclick: () => explain(each)},
        make("span", {class: "hidden"}, "Explain "), data.classes[each]),
      remark ? make("small", {}, ` ${remark}`) : null,
      make("span", {class: "figures"}, make("span", {class: "hidden"}, " logit "), exact(logits[each], number(logits[each])), make("span", {class: "hidden"}, ", probability "), exact(probabilities[each], percent(probabilities[each]))),
      bar(probabilities[each], 1));
  }));
  const button = byId("ranking-all");
  button.hidden = order.length <= SHOWN_CLASSES;
  button.textContent = state.allClasses ? `Show the first ${SHOWN_CLASSES} only` : `Show all ${order.length} classes`;
}

function explain(c) {
  Object.assign(state, {explained: c, compared: null, map: "all", allProducts: false});
  showInstance();
}

function showProducts(instance, c, pairs) {
  const products = pairs.map(({p}) => p), total = sum(products), logit = instance.now.logits[c], enough = needed(products);
  const dense = data.rule === "dense", most = state.allProducts ? Math.max(enough ?? SHOWN_PRODUCTS, SHOWN_PRODUCTS) : SHOWN_PRODUCTS;
  const shown = dense ? pairs.slice(0, most) : pairs, rest = pairs.slice(shown.length);
  const largest = peakOf(products), maps = mapsOf(instance);
  const share = p => (total === 0 ? "\u2013" : percent(p / total));
  const columns = [["On", "switch"], ...(maps ? [["Where", "where"]] : []), ["Unit", "name"], ["Evidence W\u00b7x", "num"], ["Share of Y\u00a0\u2212\u00a0b", "num"]];
  const row = (kind, unit, p) => [kind, [unitSwitch(unit, null, c), ...(maps ? [mapButton(instance, c, unit, kind)] : []),
    make("span", {}, unitLabel(unit), bar(kind ? 0 : p, largest)), kind ? "off" : exact(p, signed(p)), kind ? "" : share(p)]];
  const off = [...state.off].sort((a, b) => a - b).filter(unit => head.weight[c * head.M + unit] * instance.x[unit] !== 0);
  const line = (text, value, extra = "") => [make("th", {scope: "row", colspan: maps ? 3 : 2}, text), cell(value), cell(extra)];
  fill(byId("products"),
    table(`Evidence for ${data.classes[c]}`, columns, [...shown.map(({unit, p}) => row("", unit, p)), ...off.map(unit => row("off", unit, 0))], [
      ...(rest.length ? [line(`${rest.length} more units together`, signed(sum(rest.map(({p}) => p))), share(sum(rest.map(({p}) => p))))] : []),
      line("Bias b", exact(head.bias[c], signed(head.bias[c]))),
      line("Logit Y", exact(logit, number(logit))),
    ]),
    dense && (enough ?? 0) > SHOWN_PRODUCTS ? make("button", {type: "button", class: "plain", "data-key": "all-products", onclick: () => { state.allProducts = !state.allProducts; showInstance(); }},
      state.allProducts ? `Show the first ${SHOWN_PRODUCTS} only` : `Show the ${enough} units that it takes to reach 98 %`) : null);
  const b = head.bias[c];
  byId("equation").textContent = `Evidence ${number(total)} ${b < 0 ? "\u2212" : "+"} bias ${number(Math.abs(b))} = logit ${number(logit)}.`
    + (pairs.length === 0 ? " No unit speaks for this class." : "");
  byId("shares-note").textContent = sharesNote(instance, c, total, enough);
}

function sharesNote(instance, c, total, enough) {
  if (data.rule === "dense") return enough === null ? "The evidence sums to zero or to no finite number, so there are no shares." : `It takes ${plural(enough, "unit")} to stay within 2 % of Y \u2212 b.`;
  let all = 0;
  const x = switched(instance.x);
  for (let i = 0; i < head.M; i++) all += head.weight[c * head.M + i] * x[i];
  if (all === 0) return "All units' W\u00b7x sum to zero here, so the paper's share is not defined.";
  return `Y \u2212 b is the sum of the routed evidence. Of the sum of W\u00b7x over all ${head.M} units, ${number(all)}, it is ${percent(total / all)} (the paper's denominator).`;
}

function showDifferences(instance, c, other, pairs) {
  byId("versus-heading").hidden = other === undefined;
  byId("compared").closest(".controls").hidden = other === undefined;
  fill(byId("differences"));
  byId("versus-text").textContent = "";
  if (other === undefined) return;
  const mine = new Map(pairs.map(({unit, p}) => [unit, p])), theirs = new Map(contributions(instance, other).map(({unit, p}) => [unit, p]));
  const apart = [...new Set([...mine.keys(), ...theirs.keys()])].map(unit => ({unit, d: (mine.get(unit) ?? 0) - (theirs.get(unit) ?? 0)}))
    .sort((a, b) => descending(Math.abs(a.d), Math.abs(b.d)) || a.unit - b.unit);
  const shown = apart.slice(0, SHOWN_PRODUCTS), rest = sum(apart.slice(SHOWN_PRODUCTS).map(({d}) => d)), largest = peakOf(shown.map(({d}) => d));
  const {logits} = instance.now, gap = logits[c] - logits[other], bias = head.bias[c] - head.bias[other];
  byId("versus-heading").textContent = `What separates ${data.classes[c]} from ${data.classes[other]}`;
  byId("versus-text").textContent = `${data.classes[c]} is ${number(Math.abs(gap))} ${gap >= 0 ? "ahead of" : "behind"} ${data.classes[other]}. Each unit's evidence for the one minus its evidence for the other:`;
  const value = (map, unit) => (map.has(unit) ? number(map.get(unit)) : "\u2013");
  const line = (text, value) => [make("th", {scope: "row", colspan: 3}, text), cell(value)];
  fill(byId("differences"), table(`What separates ${data.classes[c]} from ${data.classes[other]}`,
    [["Unit", "name"], ...[c, other].map(each => [make("span", {class: "clamp", title: data.classes[each]}, data.classes[each]), "num class-name"]), ["Difference", "num"]],
    shown.map(({unit, d}) => ["", [make("span", {}, unitLabel(unit), bar(d, largest, true)), value(mine, unit), value(theirs, unit), exact(d, signed(d))]]), [
      ...(apart.length > shown.length ? [line(`${apart.length - shown.length} more units together`, signed(rest))] : []),
      line("Bias", signed(bias)), line("Difference of the logits", exact(gap, signed(gap))),
    ]));
}

// ---- where the evidence is

function mapButton(instance, c, unit, kind) {
  const maps = mapsOf(instance);
  if (kind || !maps.place.has(unit)) return make("span", {class: "no-map", title: kind ? null : "The page holds no map of this unit"});
  const canvas = make("canvas", {width: 48, height: 48, "aria-hidden": "true", "data-unit": unit});
  return make("button", {type: "button", class: "map", "aria-pressed": String(state.map === unit), "aria-label": `Show on the image where ${unitName(unit)} is seen`,
    "data-key": `map-${unit}`, onclick: () => { state.map = state.map === unit ? "all" : unit; showInstance(); }},
    make("img", {src: instance.image, alt: ""}), canvas);
}

function showMaps(instance, c, pairs) {
  const maps = mapsOf(instance), controls = byId("map-controls"), units = pairs.map(({unit}) => unit);
  controls.hidden = !maps;
  byId("stage").classList.toggle("heated", maps !== null && state.map !== "none");
  byId("map-note").textContent = maps ? "" : "There is no exact split of this evidence over the image; the units alone are shown.";
  draw(byId("heat"), null);
  if (!maps) return;
  if (Number.isInteger(state.map) && !units.includes(state.map)) state.map = "all";
  const button = (value, text) => make("button", {type: "button", "aria-pressed": String(state.map === value), "data-key": `draw-${value}`, onclick: () => { state.map = value; showInstance(); }}, text);
  fill(controls, button("all", data.rule === "dense" ? "All evidence" : "All routed units"), Number.isInteger(state.map) ? button(state.map, unitName(state.map)) : null, button("none", "Image only"));
  const peak = Math.max(0, ...units.map(unit => contribution(instance, c, [unit])).filter(Boolean).map(peakOf));
  for (const canvas of document.querySelectorAll("#products canvas")) draw(canvas, contribution(instance, c, [Number(canvas.dataset.unit)]), maps, peak);
  const held = units.filter(unit => maps.place.has(unit)).length, all = contribution(instance, c, units);
  if (state.map === "all" && all) draw(byId("heat"), all, maps, peakOf(all));
  else if (Number.isInteger(state.map)) draw(byId("heat"), contribution(instance, c, [state.map]), maps, peak);
  byId("map-note").textContent = state.map === "none" ? "" : `Where the evidence for ${data.classes[c]} comes from: yellow speaks for it, blue against it. Units share one scale.`
    + (held < units.length ? ` The page holds the maps of the ${held} units that matter most, of ${units.length}.` : "");
}

// ---- classes

function showClass() {
  if (!data.compositions.length) return;
  const c = state.shownClass, {concepts, negative} = data.compositions[c];
  const shown = state.allConcepts ? concepts : concepts.slice(0, SHOWN_CONCEPTS), rest = concepts.slice(shown.length);
  byId("class-heading").textContent = data.classes[c];
  const against = negative >= 0.005 ? ` Negative weights, ${number(negative)} together, speak against it and are not drawn.` : "";
  byId("class-text").textContent = concepts.length ? `Made of ${plural(concepts.length, "concept")}; ${percent(detected(c), 0)} of that weight is on units whose concept counts. Bias ${signed(head.bias[c])}.${against}` : `No positive weight speaks for this class. Bias ${signed(head.bias[c])}.${against}`;
  const svg = makeSvg("svg", {"aria-hidden": "true"});
  const list = make("ol", {class: "concepts"}, ...shown.map(([label, category, , share, units], place) => make("li", {style: {"min-height": `${Math.max(4.25, 16 * share)}rem`}},
    make("div", {},
      make("span", {class: `swatch series-${seriesOf(category, place)}`, "aria-hidden": "true"}), " ",
      make("span", {class: conceptStyle(units)}, label), category ? make("small", {}, ` ${category}`) : null,
      make("div", {class: "members"}, ...units.map(unit => make("a", {href: "#units", class: "unit-link", onclick: () => findUnit(unit)},
        `${unitNumber(unit)}`, make("span", {class: "weight"}, ` ${weightText(head.weight[c * head.M + unit])}`))))),
    stripOf(units.find(unit => data.strips[unit])),
    make("span", {class: "share"}, percent(share)))),
  rest.length ? make("li", {class: "note"}, `${rest.length} more concepts hold ${percent(sum(rest.map(concept => concept[3])))}`) : null);
  fill(byId("composition"), svg, list);
  const button = byId("composition-all");
  button.hidden = concepts.length <= SHOWN_CONCEPTS;
  button.textContent = state.allConcepts ? `Show the first ${SHOWN_CONCEPTS} concepts only` : `Show all ${concepts.length} concepts`;
  drawBands();
}

const isDetector = unit => hasUnits && data.units[unit][3];
/** A concept of which no unit counts is set in italics. */
const conceptStyle = units => (units.some(isDetector) ? "concept" : "concept weak");

/** The part of a class's drawn weight that is on units whose concept counts. */
function detected(c) {
  const units = data.compositions[c].concepts.flatMap(([, , , , of]) => of), weight = of => sum(of.map(unit => head.weight[c * head.M + unit]));
  return weight(units.filter(isDetector)) / weight(units);
}

/** Every class in a line: its concepts as parts of a bar, and the first of them by name. */
function showGlance() {
  if (!data.compositions.length) return;
  const shown = state.allClassesMade ? data.compositions : data.compositions.slice(0, GLANCED);
  fill(byId("glance"), ...shown.map(({concepts}, c) => {
    const named = concepts.slice(0, NAMED), rest = concepts.length - named.length;
    return make("li", {},
      make("a", {href: "#classes", "data-key": `glance-${c}`, onclick: () => chooseClass(c)}, data.classes[c]),
      make("span", {class: "stack", "aria-hidden": "true"}, ...concepts.map(([, category, , share], place) => make("span", {class: `series-${seriesOf(category, place)}`, style: {width: `${100 * share}%`}}))),
      make("span", {class: "note"}, ...named.flatMap(([label, , , share, units], place) => [place ? ", " : "",
        make("span", {class: units.some(isDetector) ? null : "weak"}, label), ` ${percent(share, 0)}`]),
      named.length === 0 ? "no positive weight" : rest > 0 ? ` and ${rest} more` : ""));
  }));
  const button = byId("glance-all");
  button.hidden = data.compositions.length <= GLANCED;
  button.textContent = state.allClassesMade ? `Show the first ${GLANCED} classes only` : `Show all ${data.compositions.length} classes`;
}

function chooseClass(c) {
  Object.assign(state, {shownClass: c, allConcepts: false});
  byId("class").value = String(c);
  showClass();
}

const categories = [...new Set(data.units.map(unit => unit[1]).filter(Boolean))].sort();
/** A concept's colour, by its place in the class; grey where a unit has no concept. */
const seriesOf = (category, place) => (category ? place % 6 + 1 : 0);
/** A weight with as many digits as show that it is there. */
const weightText = (weight, form = number) => form(weight, Math.abs(weight) < 0.01 ? 3 : 2);

/** Bands from the class to its concepts, one for each unit, as wide as its weight. */
function drawBands() {
  const box = byId("composition"), svg = box.querySelector("svg"), list = box.querySelector("ol");
  if (!svg) return;
  const c = state.shownClass, concepts = data.compositions[c].concepts, items = [...list.children];
  const height = list.offsetHeight, width = svg.clientWidth, shown = items.map((_, i) => concepts[i]).filter((_, i) => !items[i].classList.contains("note"));
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  // No concept's bands are wider than its row is high, so that they never cover each other.
  const total = sum(concepts.map(concept => concept[2])), room = shown.map((concept, place) => (items[place].offsetHeight - 8) / concept[2]);
  const scale = Math.min(height * 0.95 / total, ...room), trunk = scale * total;
  let from = (height - trunk) / 2;
  const parts = [makeSvg("rect", {x: 0, y: from, width: 8, height: trunk, class: "trunk"})];
  shown.forEach(([, category, weight, , units], place) => {
    const item = items[place], thickness = weight * scale;
    let to = item.offsetTop + item.offsetHeight / 2 - thickness / 2;
    for (const unit of units) {
      const band = head.weight[c * head.M + unit] * scale, middle = (8 + width) / 2, drawn = Math.max(band - (units.length > 1 ? 1 : 0), 0.75);
      const a = from + (band - drawn) / 2, b = to + (band - drawn) / 2;
      parts.push(makeSvg("path", {class: `band series-${seriesOf(category, place)}`,
        d: `M8 ${a} C${middle} ${a} ${middle} ${b} ${width} ${b} V${b + drawn} C${middle} ${b + drawn} ${middle} ${a + drawn} 8 ${a + drawn} Z`}));
      from += band;
      to += band;
    }
  });
  svg.replaceChildren(...parts);
}

// ---- units

const USED = 1e-3;
/** Classes that have a weight on a unit, the strongest first. */
const users = Array.from({length: head.M}, (_, unit) => {
  const found = [];
  for (let c = 0; c < head.O; c++) {
    const w = head.weight[c * head.M + unit];
    if (Math.abs(w) >= USED) found.push({c, w});
  }
  return found.sort((a, b) => descending(Math.abs(a.w), Math.abs(b.w)) || a.c - b.c);
});

const SORTS = {
  score: ["IoU", (a, b) => descending(data.units[a]?.[2] ?? 0, data.units[b]?.[2] ?? 0)],
  weight: ["weight in all classes", (a, b) => sum(users[b].map(({w}) => Math.abs(w))) - sum(users[a].map(({w}) => Math.abs(w)))],
  image: ["evidence in the shown image", (a, b) => evidence(b) - evidence(a)],
  index: ["number", () => 0],
};

const evidence = unit => {
  const instance = instances[state.instance], c = state.explained ?? instance.now.order[0];
  return Math.abs(head.weight[c * head.M + unit] * instance.x[unit]);
};

function matching() {
  const text = byId("unit-text").value.trim().toLowerCase(), category = byId("unit-category").value, used = byId("unit-used").checked;
  const asked = /^(?:unit )?(\d+)$/.exec(text), order = SORTS[byId("unit-sort").value][1];
  return Array.from({length: head.M}, (_, unit) => unit).filter(unit => {
    if (asked) return unit + 1 === Number(asked[1]);
    if (used && !users[unit].length && !state.off.has(unit)) return false;
    return (!category || data.units[unit][1] === category) && conceptOf(unit).toLowerCase().includes(text);
  }).sort((a, b) => order(a, b) || a - b);
}

function showUnits() {
  const found = matching(), shown = found.slice(0, state.unitLimit);
  byId("unit-count").textContent = `${plural(found.length, "unit")} of ${head.M}${found.length > shown.length ? `, the first ${shown.length} shown` : ""}`;
  fill(byId("unit-list"), ...shown.map(unitCard));
  byId("unit-more").hidden = found.length <= shown.length;
}

function unitCard(unit) {
  const [label, category, score, detector] = data.units[unit] ?? ["", "", null, false];
  const named = users[unit].slice(0, 5), rest = users[unit].length - named.length;
  return make("li", {class: `card unit${state.off.has(unit) ? " off" : ""}`},
    make("div", {class: "unit-head"}, make("h3", {class: detector || !label ? null : "weak"}, label || unitNumber(unit)), unitSwitch(unit, "on")),
    label ? make("p", {class: "note"}, [unitNumber(unit), category, score === null ? null : `IoU ${number(score, 3)}${detector ? "" : ", too low to count"}`].filter(Boolean).join(" · ")) : null,
    stripOf(unit),
    make("p", {class: "users"}, named.length ? "Used by " : "No class uses it.",
      ...named.flatMap(({c, w}, place) => [place ? " " : "", make("span", {class: "pair"}, data.compositions.length
        ? make("a", {href: "#classes", "data-key": `user-${unit}-${c}`, onclick: () => chooseClass(c)}, data.classes[c]) : data.classes[c],
      " ", make("span", {class: "keep"}, weightText(w, signed), place + 1 < named.length ? "," : ""))]), rest > 0 ? ` and ${rest} more` : ""));
}

/** The unit browser, showing one unit. */
function findUnit(unit) {
  byId("unit-text").value = unitNumber(unit);
  showUnits();
}

// ---- start

byId("image-filter").addEventListener("change", showGallery);
byId("explained").addEventListener("change", event => { Object.assign(state, {explained: event.target.value === "" ? null : Number(event.target.value), map: "all"}); showInstance(); });
byId("compared").addEventListener("change", event => { state.compared = event.target.value === "" ? null : Number(event.target.value); showInstance(); });
byId("ranking-all").addEventListener("click", () => { state.allClasses = !state.allClasses; showInstance(); });
byId("reset").addEventListener("click", () => { state.off.clear(); recompute(); byId("switches").focus(); });
byId("unit-search").addEventListener("submit", event => event.preventDefault());
for (const id of ["unit-text", "unit-category", "unit-sort", "unit-used"]) byId(id).addEventListener("input", () => { state.unitLimit = 24; showUnits(); });
byId("unit-more").addEventListener("click", () => {
  const before = state.unitLimit;
  state.unitLimit += 48;
  showUnits();
  byId("unit-list").children[before]?.querySelector("input").focus();
});

fill(byId("unit-category"), make("option", {value: ""}, "all"), ...categories.map(name => make("option", {value: name}, name)));
byId("unit-category-label").hidden = categories.length < 2;
fill(byId("unit-sort"), ...Object.entries(SORTS).filter(([key]) => hasUnits || key !== "score").map(([key, [name]]) => make("option", {value: key}, name)));
if (data.compositions.length) {
  fill(byId("class"), ...data.classes.map((name, c) => make("option", {value: c}, name)));
  byId("class").addEventListener("change", event => chooseClass(Number(event.target.value)));
  byId("glance-all").addEventListener("click", () => { state.allClassesMade = !state.allClassesMade; showGlance(); });
  byId("composition-all").addEventListener("click", () => { state.allConcepts = !state.allConcepts; showClass(); });
  new ResizeObserver(drawBands).observe(byId("composition"));
}
recompute();
showCheck();
showClass();
showGlance();
