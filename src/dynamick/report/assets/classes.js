// The page's classes and units: compositions, and the list of all units with their switches.

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
