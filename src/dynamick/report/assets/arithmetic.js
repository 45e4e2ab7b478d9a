// The head's exact arithmetic; the other scripts show what is computed here.
// Units are counted from 0.
"use strict";

const byId = id => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);

// ---- arrays: base64 of little-endian numbers

const buffer = text => Uint8Array.from(atob(text), character => character.charCodeAt(0)).buffer;
const floats = text => new Float32Array(buffer(text));
const counts = text => new Uint32Array(buffer(text));

// ---- the head

const head = (() => {
  const packed = data.head, M = packed.units, O = data.classes.length, bias = floats(packed.bias);
  if (packed.dense) return {O, M, bias, weight: floats(packed.dense), open: null};
  const weight = new Float32Array(O * M), open = packed.masked ? new Uint8Array(O * M) : null;
  const perClass = counts(packed.counts), indices = counts(packed.indices), values = floats(packed.values);
  for (let c = 0, at = 0; c < O; c++) {
    for (let n = perClass[c]; n > 0; n--, at++) {
      weight[c * M + indices[at]] = values[at];
      if (open) open[c * M + indices[at]] = 1;
    }
  }
  return {O, M, bias, weight, open};
})();

const instances = data.instances.map((each, index) => ({...each, index, x: floats(each.x), said: floats(each.logits), first: null, now: null}));

// The units that class c may route. `at_most` never routes a finite input of weight zero, so those need no look.
const candidates = (() => {
  const every = Uint32Array.from({length: head.M}, (_, i) => i);
  const sparse = data.rule === "at_most" && instances.every(({x}) => x.every(Number.isFinite));
  return data.classes.map((_, c) => every.filter(i => (!head.open || head.open[c * head.M + i]) && (!sparse || head.weight[c * head.M + i] !== 0)));
})();

// The order of PyTorch's sort: NaN ranks highest, and of equal values the one that came first.
const above = (p, q) => p > q || (Number.isNaN(p) && !Number.isNaN(q));
const descending = (p, q) => above(q, p) - above(p, q);

/** Which units class c routes for inputs x, and their products: float32, as the network forms and compares them. */
function route(c, x) {
  const {M, weight} = head, units = [], products = [], limit = data.k ?? M;
  for (const i of candidates[c]) {
    const p = Math.fround(weight[c * M + i] * x[i]);
    if (data.rule === "at_most" && p <= 0) continue;
    if (data.rule === "dense") { units.push(i); products.push(p); continue; }
    if (units.length === limit && !above(p, products[limit - 1])) continue;
    let place = units.length;
    while (place > 0 && above(p, products[place - 1])) place--;
    units.splice(place, 0, i);
    products.splice(place, 0, p);
    if (units.length > limit) { units.pop(); products.pop(); }
  }
  return {units, products};
}

const sum = values => values.reduce((total, value) => total + value, 0);
const logitOf = (c, x) => Math.fround(sum(route(c, x).products) + head.bias[c]);

function answer(x) {
  const logits = Array.from({length: head.O}, (_, c) => logitOf(c, x));
  const order = logits.map((_, c) => c).sort((a, b) => descending(logits[a], logits[b]) || a - b);
  // A network of one logit says yes or no by the logistic function.
  if (head.O === 1) return {logits, order, probabilities: [1 / (1 + Math.exp(-logits[0]))]};
  const top = logits[order[0]], powers = logits.map(logit => (logit === top ? 1 : Math.exp(logit - top))), total = sum(powers);
  return {logits, order, probabilities: powers.map(power => power / total)};
}

/** The smallest n whose n largest |p|, and any more of them, stay within 2 % of the whole sum; null where that is 0. */
function needed(products) {
  const total = sum(products);
  if (total === 0 || !Number.isFinite(total)) return null;
  let partial = 0, last = 0;
  products.forEach((p, place) => {
    partial += p;
    if (Math.abs(partial - total) > 0.02 * Math.abs(total)) last = place + 1;
  });
  return Math.min(last + 1, products.length);
}
