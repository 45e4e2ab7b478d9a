// One decision: the picture, the answer, and what it adds up to, concept by concept.

/** The class that is explained, and the one that it is compared with: the true one where the answer is wrong, else the next best. */
function looked(instance) {
  const {order} = nowOf(instance), c = state.explained ?? order[0];
  const truth = isWrong(instance) && instance.true >= 0 && c === order[0] ? instance.true : null;
  const usual = truth ?? order.find(each => each !== c);
  return {c, usual, other: state.compared !== null && state.compared !== c ? state.compared : usual};
}

function showInstance() {
  const instance = instances[state.instance], {order} = nowOf(instance), {c, usual, other} = looked(instance);
  const groups = grouped(contributions(instance, c));
  showPicture(instance);
  showRanking(instance, c);
  const asked = order[0] === c ? "Why" : "Why not";
  fill(byId("why-heading"), `${asked} `, say(data.classes[c]), "?");
  byId("sentence").textContent = sentence(instance, c, other);
  const names = data.classes.map((name, each) => [String(each), name]);
  options(byId("explained"), ["", `the answer, ${data.classes[order[0]]}`], names, state.explained);
  const whose = c === order[0] && usual === instance.true && isWrong(instance) ? "the true class" : usual === order[0] ? "the answer" : "the runner-up";
  options(byId("compared"), ["", `${whose}, ${data.classes[usual] ?? "none"}`], names, state.compared);
  showMapControls(instance, groups);
  showEvidence(instance, c, groups);
  showSums(instance, c, groups);
  showDetails(instance, c, groups);
  showDifferences(instance, c, other);
  showBeside(instance);
  drawMaps(instance, c, groups);
}

function showPicture(instance) {
  const said = data.classes[saidOf(instance).c], image = byId("image"), [src, width, height] = data.pictures[instance.index];
  image.src = src;
  image.alt = `The explained image, ${instance.name}`;
  byId("stage").style.setProperty("aspect-ratio", `${width} / ${height}`);
  const truth = instance.truth === null ? "" : isWrong(instance) ? ` Wrong: it is ${instance.truth}.` : " Right.";
  byId("caption").textContent = `${instance.name}: the network says ${said}.${truth}`;
}

function showRanking(instance, c) {
  const {order, logits, probabilities} = nowOf(instance), first = state.off.size ? firstOf(instance).order : order;
  const few = order.slice(0, SHOWN_CLASSES), shown = state.allClasses ? order : instance.true >= 0 && !few.includes(instance.true) ? [...few, instance.true] : few;
  fill(byId("ranking"), ...shown.map(each => {
    const before = first.indexOf(each) + 1, rank = order.indexOf(each) + 1;
    const remark = [each === instance.true ? "true class" : null, rank > few.length && !state.allClasses ? `no. ${rank}` : null, before !== rank ? `was no. ${before}` : null].filter(Boolean).join(", ");
    return make("li", {"data-class": each},
      button(`class-${each}`, make("span", {}, make("span", {class: "hidden"}, "Explain "), say(data.classes[each])), () => explain(each), {"aria-pressed": String(each === c)}),
      remark ? make("small", {}, ` ${remark}`) : null,
      make("span", {class: "figures"}, make("span", {class: "hidden"}, " logit "), exact(logits[each], amount(steps(logits[each]))), make("span", {class: "hidden"}, ", probability "), exact(probabilities[each], percent(probabilities[each]))),
      bar(probabilities[each], 1));
  }));
  const more = byId("ranking-all");
  more.hidden = order.length <= SHOWN_CLASSES;
  more.textContent = state.allClasses ? `Show the first ${SHOWN_CLASSES} only` : `Show all ${order.length} classes`;
}

function explain(c) {
  Object.assign(state, {explained: c, compared: null, map: "all", allProducts: false});
  visit("image");
  showInstance();
}

// ---- the evidence, concept by concept

function showEvidence(instance, c, groups) {
  const {shown, rest} = apart(groups, state.allProducts ? Infinity : SHOWN_PRODUCTS), shares = sharesOf(groups);
  const listed = state.allProducts ? groups : shown, largest = peakOf(groups.map(({p}) => p));
  const off = [...state.off].sort((a, b) => a - b).filter(unit => head.weight[c * head.M + unit] * instance.x[unit] !== 0);
  const members = key => [...groups.find(group => group.key === key).pairs.map(({unit}) => unit), ...off.filter(unit => keyOf(unit) === key)];
  const absent = grouped(off.map(unit => ({unit, p: 0, shown: 0}))).filter(({key}) => !listed.some(group => group.key === key));
  const usable = shares || !groups.length;
  byId("evidence-head").textContent = usable ? "Evidence and its share" : "Evidence (no shares: it nearly cancels, or is not above 0)";
  fill(byId("products"),
    ...listed.map(group => concept(instance, c, group, members(group.key), largest, shares ? shareText(shares[groups.indexOf(group)]) : "")),
    ...absent.map(group => concept(instance, c, group, group.pairs.map(({unit}) => unit), largest, "")));
  const more = byId("products-all");
  more.hidden = !rest.length;
  const units = sum(rest.map(({pairs}) => pairs.length));
  more.textContent = state.allProducts ? "Show the largest only" : `Show ${plural(units, "more unit")}`;
}

/** One concept: its switch, evidence and share, and below it its units with pictures. */
function concept(instance, c, group, units, largest, share) {
  const on = new Map(group.pairs.filter(({unit}) => !state.off.has(unit)).map(pair => [pair.unit, pair])), many = units.length > 1;
  const label = many ? `Use all ${plural(units.length, "unit")} of ${group.name}` : `Use ${unitName(units[0])}`;
  const sole = units[0], only = !many && isDetector(sole) ? unitLink(sole) : null;
  return make("li", {class: `concept-group ${colourOf(group.key)}${on.size ? "" : " off"}`, "data-concept": group.key},
    make("div", {class: "concept-line"},
      unitSwitch(units, label, {pinned: c, key: many ? `group-${group.key}` : `switch-${sole}`}),
      make("span", {class: "swatch", "aria-hidden": "true"}),
      make("span", {class: "concept-name"}, isDetector(sole) ? say(labelOf(sole), {class: "concept"}) : unitLink(sole, "concept"), only ? " " : null, only, near(sole)),
      make("span", {class: "evidence"}, on.size ? exact(group.p, change(group.shown)) : "off"),
      make("span", {class: "share"}, on.size ? share : ""),
      bar(on.size ? group.p : 0, largest)),
    make("ul", {class: "members"}, ...units.map(unit => member(instance, c, unit, on.get(unit), many))));
}

/** What a unit looks like to the dissection, where that is too little to count. */
function near(unit) {
  const [label, , score] = data.units[unit] ?? [];
  if (!label || isDetector(unit) || !(score >= 0.01)) return null;
  return make("small", {}, " a little like ", say(label, {class: "weak"}), ` (IoU ${iouText(score, false)})`);
}

function member(instance, c, unit, pair, many) {
  return make("li", {"data-unit": unit, class: pair ? null : "off", "data-product": pair ? String(pair.p) : null},
    many ? make("div", {class: "member-line"}, unitSwitch([unit], `Use ${unitName(unit)}`, {pinned: c}), unitLink(unit), make("span", {class: "evidence"}, pair ? exact(pair.p, change(pair.shown)) : "off")) : null,
    make("div", {class: "looks"}, pair ? mapButton(instance, unit) : null, topImages(unit, 3)));
}

const unitLink = (unit, kind = "") => make("a", {href: addressOf({unit}), class: `unit-link ${kind}`.trim(), "data-key": `link-${unit}`, onclick: event => { event.preventDefault(); findUnit(unit); }}, unitNumber(unit));

/** What the evidence and the bias add up to; in whole steps, so that the sum on the page is the sum. */
function showSums(instance, c, groups) {
  const {rest} = apart(groups, SHOWN_PRODUCTS), shares = sharesOf(groups), left = state.allProducts ? [] : rest, logit = nowOf(instance).logits[c];
  const line = (name, value, text, extra = "") => make("div", {}, make("dt", {}, name), make("dd", {class: "evidence"}, exact(value, text)), make("dd", {class: "share"}, extra));
  fill(byId("sums"),
    left.length ? line(`${plural(sum(left.map(({pairs}) => pairs.length)), "more unit")} together`, sum(left.map(({p}) => p)), change(sum(left.map(({shown}) => shown))), shares ? shareText(sum(left.map(group => shares[groups.indexOf(group)]))) : "") : null,
    line("Bias, the same for every image", head.bias[c], change(steps(head.bias[c]))),
    line("Sum: the logit", logit, amount(steps(logit))));
}

// ---- details: the formulae

function showDetails(instance, c, groups) {
  const pairs = groups.flatMap(group => group.pairs), products = contributions(instance, c).map(({p}) => p), total = sum(products), {logits} = nowOf(instance), b = head.bias[c];
  byId("equation").textContent = `Y \u2212 b = ${amount(steps(logits[c]) - steps(b))}, b = ${amount(steps(b))}, Y = ${amount(steps(logits[c]))}.`
    + (products.length === 0 ? " No unit speaks for this class." : "");
  byId("shares-note").textContent = sharesNote(instance, c, total, needed(products));
  const most = pairs.sort((p, q) => descending(Math.abs(p.p), Math.abs(q.p)) || p.unit - q.unit).slice(0, 25);
  fill(byId("factors"), table(`W, x and W x of ${data.classes[c]}`, [["Unit", "name"], ["W", "num"], ["x", "num"], ["W x", "num"]],
    most.map(({unit, p}) => [{}, [unitName(unit), exact(head.weight[c * head.M + unit], number(head.weight[c * head.M + unit], 4)), exact(instance.x[unit], number(instance.x[unit], 4)), exact(p, signed(p, 4))]])),
  pairs.length > most.length ? make("p", {class: "note"}, `The ${most.length} largest of ${pairs.length}.`) : null);
}

function sharesNote(instance, c, total, enough) {
  const least = enough === null ? "The evidence sums to zero or to no finite number, so there are no shares." : `It takes ${plural(enough, "unit")} to stay within 2 % of Y \u2212 b.`;
  if (data.rule === "dense") return least;
  const x = switched(instance.x);
  let all = 0;
  for (let i = 0; i < head.M; i++) all += head.weight[c * head.M + i] * x[i];
  if (all === 0) return "All units' W x sum to zero here, so the paper's share is not defined.";
  return `Y \u2212 b is the sum of the routed evidence. Of the sum of W x over all ${head.M} units, ${number(all)}, it is ${percent(total / all)} (the paper's denominator).`;
}

// ---- where the evidence is

function mapButton(instance, unit) {
  const maps = mapsOf(instance);
  if (!maps) return null;
  if (!maps.place.has(unit)) return make("span", {class: "no-map"}, "The page holds no map of this unit.");
  return make("button", {type: "button", class: "map", "aria-pressed": String(state.map === unit), "aria-label": `Show on the image where ${unitName(unit)} is seen`, title: "Where in this image",
    "data-key": `map-${unit}`, onclick: () => { state.map = state.map === unit ? "all" : unit; showInstance(); }},
  make("img", {src: data.pictures[instance.index][0], alt: ""}), make("canvas", {width: 96, height: 96, "aria-hidden": "true", "data-unit": unit}));
}

function showMapControls(instance, groups) {
  const maps = mapsOf(instance), controls = byId("map-controls"), units = groups.flatMap(({pairs}) => pairs.map(({unit}) => unit));
  for (const id of ["map-controls", "colour-bar", "own-scale-label"]) byId(id).hidden = !maps;
  byId("stage").classList.toggle("heated", maps !== null && state.map !== "none");
  if (!maps) return;
  if (Number.isInteger(state.map) && !units.includes(state.map)) state.map = "all";
  const choice = (value, text) => make("button", {type: "button", "aria-pressed": String(state.map === value), "data-key": `draw-${value}`, onclick: () => { state.map = value; showInstance(); }}, text);
  fill(controls, choice("all", data.rule === "dense" ? "All evidence" : "All routed units"), Number.isInteger(state.map) ? choice(state.map, unitName(state.map)) : null, choice("none", "Image only"));
  byId("own-scale").checked = state.ownScale;
}

function drawMaps(instance, c, groups) {
  const maps = mapsOf(instance), units = groups.flatMap(({pairs}) => pairs.map(({unit}) => unit));
  draw(byId("heat"), null);
  byId("map-note").textContent = maps ? "" : "There is no exact split of this evidence over the image; the units alone are shown.";
  if (!maps) return;
  const one = new Map(units.map(unit => [unit, contribution(instance, c, [unit])])), shared = Math.max(0, ...[...one.values()].filter(Boolean).map(peakOf));
  const peak = unit => (state.ownScale && one.get(unit) ? peakOf(one.get(unit)) : shared);
  for (const canvas of document.querySelectorAll("#products canvas")) draw(canvas, one.get(Number(canvas.dataset.unit)), maps, peak(Number(canvas.dataset.unit)));
  const held = units.filter(unit => maps.place.has(unit)).length, all = contribution(instance, c, units);
  if (state.map === "all" && all) draw(byId("heat"), all, maps, peakOf(all));
  else if (Number.isInteger(state.map)) draw(byId("heat"), one.get(state.map), maps, peak(state.map));
  byId("map-note").textContent = state.map === "none" ? "" : `Where the evidence for ${data.classes[c]} comes from. `
    + (state.ownScale ? "Each unit is on its own scale: a bright one need not weigh much." : "All units share one scale: a bright one weighs more.")
    + (held < units.length ? ` The page holds the maps of the ${held} units that matter most, of ${units.length}.` : "");
}
