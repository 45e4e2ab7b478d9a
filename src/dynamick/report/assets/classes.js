// The page's classes: what each is made of.

function showClass() {
  const c = state.shownClass, {negative} = data.compositions[c], concepts = madeOf(c);
  const shown = state.allConcepts ? concepts : concepts.slice(0, SHOWN_CONCEPTS), rest = concepts.slice(shown.length);
  fill(byId("class-heading"), say(data.classes[c]));
  byId("class").value = String(c);
  const against = negative >= 0.005 ? ` Negative weights, ${number(negative)} together, speak against it and are not drawn.` : "";
  const counted = sum(concepts.filter(({units}) => isDetector(units[0][0])).map(({share}) => share));
  const of = named ? `${plural(concepts.length, "concept")}; units whose concept counts hold ${counted}\u00a0% of the weight` : plural(concepts.length, "unit");
  byId("class-text").textContent = (concepts.length ? `Made of ${of}.` : "No positive weight speaks for this class.") + ` Bias ${change(steps(head.bias[c]))}.${against}`;
  const svg = makeSvg("svg", {"aria-hidden": "true"});
  const list = make("ol", {class: "concepts"}, ...shown.map(({key, units, share, weight}) => make("li", {class: colourOf(key), "data-concept": key},
    make("div", {},
      make("span", {class: "swatch", "aria-hidden": "true"}), " ",
      isDetector(units[0][0]) ? say(labelOf(units[0][0]), {class: "concept"}) : unitLink(units[0][0], "concept"), near(units[0][0]),
      data.units[units[0][0]]?.[1] && isDetector(units[0][0]) ? make("small", {}, ` ${data.units[units[0][0]][1]}`) : null,
      make("div", {class: "members"}, ...units.map(([unit, weight]) => make("span", {}, isDetector(unit) ? unitLink(unit) : "weight", make("span", {class: "weight"}, ` ${weightText(weight)}`))))),
    topImages((units.find(([unit]) => data.tops[unit]?.length) ?? units[0])[0], 2, "made"),
    make("span", {class: "share"}, shareText(share)), bar(weight, concepts[0].weight))),
  rest.length ? make("li", {class: "note"}, `${rest.length} more hold ${shareText(sum(rest.map(({share}) => share)))}`) : null);
  fill(byId("composition"), svg, list);
  const more = byId("composition-all");
  more.hidden = concepts.length <= SHOWN_CONCEPTS;
  more.textContent = state.allConcepts ? `Show the first ${SHOWN_CONCEPTS} only` : `Show all ${concepts.length}`;
  drawBands();
}

/** A class's concepts, computed when they are first asked for: no switch changes them. */
const madeOf = c => (MADE[c] ??= composed(c));
const MADE = [];

/** A class's concepts by their part of its positive weight, in whole per cent; what they lack to 100 is of units too light to list. */
function composed(c) {
  const {units, positive} = data.compositions[c], groups = new Map();
  if (!units.length) return [];
  for (const [unit, weight] of units) {
    const group = groups.get(keyOf(unit)) ?? {key: keyOf(unit), name: conceptOf(unit), units: [], weight: 0};
    group.units.push([unit, weight]);
    group.weight += weight;
    groups.set(group.key, group);
  }
  const concepts = [...groups.values()].sort((a, b) => b.weight - a.weight || a.units[0][0] - b.units[0][0]);
  const listed = sum(concepts.map(({weight}) => weight)), shares = apportion([...concepts.map(({weight}) => 100 * weight / positive), Math.max(0, 100 * (positive - listed) / positive)], 100);
  return concepts.map((each, place) => ({...each, share: shares[place]}));
}

// ---- every class in a line

const CLASS_SORTS = {
  order: ["the network's order", () => 0],
  name: ["name", (a, b) => data.classes[a].localeCompare(data.classes[b])],
  few: ["fewest concepts", (a, b) => madeOf(a).length - madeOf(b).length],
  many: ["most concepts", (a, b) => madeOf(b).length - madeOf(a).length],
  right: ["least often right", (a, b) => rightOf(a) - rightOf(b)],
  said: ["most often answered here", (a, b) => tallied().classes[b].said - tallied().classes[a].said],
};
let counted = null;
const tallied = () => (counted ??= tally());
const rightOf = c => { const {of, right} = tallied().classes[c]; return of ? right / of : 2; };

/** Every class in a line: its concepts as parts of a bar, and the first of them by name. Found by its name or by a concept's. */
function showGlance() {
  counted = null;
  const text = byId("class-search").value.trim().toLowerCase(), order = CLASS_SORTS[byId("class-sort").value][1];
  const found = data.classes.map((_, c) => c).filter(c => !text || data.classes[c].toLowerCase().includes(text) || madeOf(c).some(({name}) => name.toLowerCase().includes(text)));
  found.sort((a, b) => order(a, b) || a - b);
  const shown = found.slice(0, state.classLimit);
  byId("class-count").textContent = `${plural(found.length, "class", "classes")} of ${data.classes.length}${found.length > shown.length ? `, the first ${shown.length} shown` : ""}`;
  fill(byId("glance"), ...shown.map(c => {
    const concepts = madeOf(c), few = concepts.slice(0, NAMED), rest = concepts.length - few.length;
    return make("li", {},
      make("a", {href: addressOf({class: c}), "data-key": `glance-${c}`, onclick: event => { event.preventDefault(); findClass(c); }}, say(data.classes[c])),
      make("span", {class: "stack", "aria-hidden": "true"}, ...concepts.map(({key, share}) => make("span", {class: colourOf(key), "data-concept": key, style: {width: `${share}%`}}))),
      named ? null : make("span", {class: "looks"}, ...few.map(({units: [[unit]]}) => tiny(unit, "3.5rem"))),
      make("span", {class: "note"}, ...few.flatMap(({key, name, share}, place) => [place ? ", " : "", make("span", {class: colourOf(key), "data-concept": key}, name), ` ${/\d$/.test(name) ? "with " : ""}${shareText(share)}`]),
        few.length === 0 ? "no positive weight" : rest > 0 ? ` and ${rest} more` : ""));
  }));
  byId("glance-all").hidden = found.length <= shown.length;
}

function findClass(c) {
  Object.assign(state, {shownClass: c, allConcepts: false});
  visit("class");
  showClass();
  goTo("classes");
}

/** Bands from the class to its concepts, one for each unit, as wide as its weight. */
function drawBands() {
  const box = byId("composition"), svg = box.querySelector("svg"), list = box.querySelector("ol");
  if (!svg || !list.offsetHeight) return;
  const concepts = madeOf(state.shownClass), items = [...list.children].filter(item => !item.classList.contains("note"));
  const height = list.offsetHeight, width = svg.clientWidth, shown = concepts.slice(0, items.length);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  // No concept's bands are wider than its row is high, so that they never cover each other.
  const total = sum(concepts.map(({weight}) => weight)), room = shown.map(({weight}, place) => (items[place].offsetHeight - 8) / weight);
  const scale = Math.min(height * 0.95 / total, ...room), trunk = scale * total;
  let from = (height - trunk) / 2;
  const parts = [makeSvg("rect", {x: 0, y: from, width: 8, height: trunk, class: "trunk"})];
  shown.forEach(({key, weight, units}, place) => {
    const item = items[place], thickness = weight * scale;
    let to = item.offsetTop + item.offsetHeight / 2 - thickness / 2;
    for (const [, each] of units) {
      const band = each * scale, middle = (8 + width) / 2, drawn = Math.max(band - (units.length > 1 ? 1 : 0), 0.75);
      const a = from + (band - drawn) / 2, b = to + (band - drawn) / 2;
      parts.push(makeSvg("path", {class: `band ${colourOf(key)}`, "data-concept": key,
        d: `M8 ${a} C${middle} ${a} ${middle} ${b} ${width} ${b} V${b + drawn} C${middle} ${b + drawn} ${middle} ${a + drawn} 8 ${a + drawn} Z`}));
      from += band;
      to += band;
    }
  });
  svg.replaceChildren(...parts);
}
