// The page's images: what is computed again when a switch changes, the evidence, and where it is.

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
