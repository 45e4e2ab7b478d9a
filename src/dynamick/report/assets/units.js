// The list of all units with their switches and pictures.

/** Classes that have a weight on a unit, the strongest first. */
const users = Array.from({length: head.M}, (_, unit) => {
  const found = [];
  for (let c = 0; c < head.O; c++) {
    const w = head.weight[c * head.M + unit];
    if (Math.abs(w) >= USED) found.push({c, w});
  }
  return found.sort((a, b) => descending(Math.abs(a.w), Math.abs(b.w)) || a.c - b.c);
});
const categories = [...new Set(data.units.filter(unit => unit[3]).map(unit => unit[1]).filter(Boolean))].sort();
/** Of a unit's users those whose weight is not small beside its largest one. */
const MATTERS = 0.02;
const mattering = unit => users[unit].filter(({w}) => Math.abs(w) >= MATTERS * Math.abs(users[unit][0].w));

const SORTS = {
  score: ["IoU", (a, b) => descending(data.units[a]?.[2] ?? 0, data.units[b]?.[2] ?? 0)],
  weight: ["weight in all classes", (a, b) => sum(users[b].map(({w}) => Math.abs(w))) - sum(users[a].map(({w}) => Math.abs(w)))],
  image: ["evidence in the shown image", (a, b) => evidence(b) - evidence(a)],
  index: ["number", () => 0],
};

const evidence = unit => {
  const instance = instances[state.instance], {c} = looked(instance);
  return Math.abs(head.weight[c * head.M + unit] * instance.x[unit]);
};

function matching() {
  const text = byId("unit-text").value.trim().toLowerCase(), category = byId("unit-category").value, used = byId("unit-used").checked;
  const asked = /^(?:unit )?(\d+)$/.exec(text), order = SORTS[byId("unit-sort").value][1];
  return Array.from({length: head.M}, (_, unit) => unit).filter(unit => {
    if (asked) return unit + 1 === Number(asked[1]);
    if (used && !users[unit].length && !state.off.has(unit)) return false;
    return (!category || (isDetector(unit) && data.units[unit][1] === category)) && `${labelOf(unit)} ${data.raw[labelOf(unit)] ?? ""}`.toLowerCase().includes(text);
  }).sort((a, b) => order(a, b) || a - b);
}

function showUnits() {
  const found = matching(), shown = found.slice(0, state.unitLimit);
  byId("unit-count").textContent = `${plural(found.length, "unit")} of ${head.M}${found.length > shown.length ? `, the first ${shown.length} shown` : ""}`;
  fill(byId("unit-list"), ...shown.map(unitCard));
  byId("unit-more").hidden = found.length <= shown.length;
}

function unitCard(unit) {
  const [label, category, score] = data.units[unit] ?? ["", "", null], counts = isDetector(unit);
  const matter = mattering(unit), few = matter.slice(0, 5), rest = matter.length - few.length;
  return make("li", {class: `card unit ${colourOf(keyOf(unit))}${state.off.has(unit) ? " off" : ""}`, "data-concept": keyOf(unit), "data-unit": unit},
    make("div", {class: "unit-head"}, make("h3", {}, make("span", {class: "swatch", "aria-hidden": "true"}), " ", counts ? say(label) : unitNumber(unit)), unitSwitch([unit], "", {text: "on"})),
    make("p", {class: "note"}, ...(counts ? [[unitNumber(unit), category, `IoU ${iouText(score, true)}`].filter(Boolean).join(" \u00b7 ")]
      : label ? ["Closest: ", say(label, {class: "weak"}), `, IoU ${iouText(score, false)}, too low to count`] : [named ? "No concept matches it." : "Known by its pictures only."])),
    topImages(unit, 4, "seen"),
    make("p", {class: "users"}, few.length ? "Used by " : "No class uses it.",
      ...few.flatMap(({c, w}, place) => [place ? " " : "", make("span", {class: "pair"},
        make("a", {href: addressOf({class: c}), "data-key": `user-${unit}-${c}`, onclick: event => { event.preventDefault(); findClass(c); }}, say(data.classes[c])),
        " ", make("span", {class: "keep"}, weightText(w, signed), place + 1 < few.length ? "," : ""))]), rest > 0 ? ` and ${rest} more` : ""));
}

/** The unit browser, showing one unit. */
function findUnit(unit) {
  state.unit = unit;
  byId("unit-text").value = unitNumber(unit);
  visit("unit");
  showUnits();
  goTo("units");
}
