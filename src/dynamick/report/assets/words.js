// How numbers, units and decisions are said. A figure that stands twice on the page is made here, so that it reads the same.

const minus = text => text.replace("-", "\u2212");
const number = (value, digits = 2) => {
  const text = Number.isFinite(value) ? value.toFixed(digits) : String(value);
  return Number(text) === 0 ? text.replace("-", "") : minus(text);
};
const signed = (value, digits = 2) => (Number(value.toFixed(digits)) > 0 ? "+" : "") + number(value, digits);
const percent = (value, digits = 1) => (Number.isFinite(value) ? `${minus((100 * value).toFixed(digits))}\u00a0%` : "\u2013");
const scientific = value => {
  const [digits, power] = value.toExponential(1).split("e");
  return `${digits} \u00b7 10${[...power.replace("+", "")].map(character => (character === "-" ? "\u207b" : "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"[Number(character)])).join("")}`;
};
const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
/** A weight with as many digits as show that it is there. */
const weightText = (weight, form = number) => form(weight, Math.abs(weight) < 0.01 ? 3 : 2);
/** An IoU; one that is just too low to count never reads as one that counts. */
const iouText = (score, counts) => { for (let digits = 3; ; digits++) if (counts || digits > 8 || Number(score.toFixed(digits)) < 0.04) return number(score, digits); };

/** A name as people say it; the raw one on hover, where the two differ. */
const say = (name, attributes = {}) => make("span", {title: data.raw[name] ?? null, ...attributes}, name);

// ---- evidence in whole steps, of as many digits as the network's own sentences are said with

const DIGITS = data.digits;
const STEP = 10 ** DIGITS;
const steps = value => Math.round(value * STEP);
const amount = inSteps => number(inSteps / STEP, DIGITS);
const change = inSteps => signed(inSteps / STEP, DIGITS);

/** Round values to whole numbers that add up to a whole total: the largest remainders are rounded up. */
function apportion(values, total) {
  if (!values.every(Number.isFinite) || !Number.isFinite(total)) return values.map(value => Math.round(value));
  const whole = values.map(Math.floor), missing = total - sum(whole);
  const order = values.map((_, place) => place).sort((a, b) => (values[b] - whole[b]) - (values[a] - whole[a]) || a - b);
  for (const place of order.slice(0, Math.max(0, missing))) whole[place] += 1;
  return whole;
}

// ---- concepts: units that look for the same thing

const isDetector = unit => Boolean(data.units[unit]?.[3]);
const unitNumber = unit => `unit ${unit + 1}`;
const labelOf = unit => data.units[unit]?.[0] || "";
/** A concept of two categories is two; a unit whose label does not count stands for itself. */
const keyOf = unit => (isDetector(unit) ? `${data.units[unit][0]}|${data.units[unit][1]}` : unitNumber(unit));
const conceptOf = unit => (isDetector(unit) ? labelOf(unit) : unitNumber(unit));
const unitName = unit => (isDetector(unit) ? `${labelOf(unit)} (${unitNumber(unit)})` : unitNumber(unit));

/** Pairs {unit, p, shown} grouped by concept, the largest first. */
function grouped(pairs) {
  const groups = new Map();
  for (const pair of pairs) {
    const key = keyOf(pair.unit), group = groups.get(key) ?? {key, name: conceptOf(pair.unit), pairs: [], p: 0, shown: 0};
    group.pairs.push(pair);
    group.p += pair.p;
    group.shown += pair.shown ?? 0;
    groups.set(key, group);
  }
  return [...groups.values()].sort((a, b) => descending(Math.abs(a.p), Math.abs(b.p)));
}

/** The groups of what a class sums, by their keys. */
const groupsOf = (instance, c) => new Map(grouped(contributions(instance, c)).map(group => [group.key, group]));

/** Colours: one for each of the concepts that hold most of the classes' weight, grey for all others; one for all where nothing has a name. */
const COLOURS = 9;
const colours = (() => {
  if (!named) return new Map();
  const held = new Map();
  for (const {units, positive} of data.compositions) for (const [unit, weight] of units) held.set(keyOf(unit), (held.get(keyOf(unit)) ?? 0) + weight / positive);
  const first = [...held].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).slice(0, COLOURS);
  return new Map(first.map(([key], place) => [key, place + 1]));
})();
const colourOf = key => `concept-${colours.get(key) ?? 0}`;

// ---- a decision

/** Routed units that are on, largest first (in a dense head by size), with their evidence in whole steps that add up to the logit. */
function contributions(instance, c) {
  const {units, products} = route(c, switched(instance.x));
  const pairs = units.map((unit, place) => ({unit, p: products[place]})).filter(({unit}) => !state.off.has(unit));
  if (data.rule === "dense") pairs.sort((a, b) => descending(Math.abs(a.p), Math.abs(b.p)) || a.unit - b.unit);
  const shown = apportion(pairs.map(({p}) => p * STEP), steps(nowOf(instance).logits[c]) - steps(head.bias[c]));
  pairs.forEach((pair, place) => { pair.shown = shown[place]; });
  return pairs;
}

const SAID = 5, LEAST = 0.005, MOST_OF_ALL = 10, LACKS = 0.01;

/** Each group's share of the evidence in whole per cent, which add up to 100; null where the evidence is not above 0 or almost cancels. */
function sharesOf(groups) {
  const total = sum(groups.map(group => group.p));
  if (!groups.length || !Number.isFinite(total) || !(groups.reduce((peak, {p}) => Math.max(peak, Math.abs(p)), 0) <= MOST_OF_ALL * total) || total <= 0) return null;
  return apportion(groups.map(({p}) => 100 * p / total), 100);
}

/** The groups that are named one by one, and those that are only summed up. */
function apart(groups, most) {
  const total = sum(groups.map(group => group.p)), least = sharesOf(groups) ? LEAST * total : 0;
  const shown = groups.filter(({p}) => !(Math.abs(p) < least)).slice(0, most);
  return {shown, rest: groups.filter(group => !shown.includes(group))};
}

const shareText = share => (share === 0 ? "under\u00a01\u00a0%" : `${minus(String(share))}\u00a0%`);

/** "aeroplane: wing 70 %, wheel 30 %; 4.4 ahead of car, which lacks wing" */
function sentence(instance, c, other) {
  const wrong = isWrong(instance) && saidOf(instance).c === c;
  return `${data.classes[c]}${wrong ? ` (wrong: it is ${instance.truth})` : ""}: ${evidenceText(grouped(contributions(instance, c)))}`
    + (other === undefined ? "." : `; ${leadText(instance, c, other)}.`);
}

function evidenceText(groups) {
  if (!groups.length) return "no unit speaks for it";
  const {shown, rest} = apart(groups, SAID), shares = sharesOf(groups);
  // "unit 12 with 30 %": two numbers beside each other are kept apart.
  const parts = shown.map(group => `${group.name} ${/\d$/.test(group.name) ? "with " : ""}${shares ? shareText(shares[groups.indexOf(group)]) : change(group.shown)}`);
  const left = shares ? sum(rest.map(group => shares[groups.indexOf(group)])) : sum(rest.map(group => group.shown));
  return [...parts, ...(left ? [`the rest ${shares ? shareText(left) : change(left)}`] : [])].join(", ");
}

function leadText(instance, c, other) {
  const {logits} = nowOf(instance), lead = steps(logits[c]) - steps(logits[other]), name = data.classes[other];
  if (!Number.isFinite(lead)) return `beside ${name}`;
  if (lead === 0) return `level with ${name}`;
  return `${amount(Math.abs(lead))} ${lead > 0 ? "ahead of" : "behind"} ${name}, ${reason(instance, c, other, lead > 0)}`;
}

/** What the other class lacks or has: the concept on which the two differ most in the direction of the lead. */
function reason(instance, c, other, ahead) {
  const [mine, theirs] = [c, other].map(each => groupsOf(instance, each));
  const gap = key => (mine.get(key)?.p ?? 0) - (theirs.get(key)?.p ?? 0);
  const keys = [...new Set([...mine.keys(), ...theirs.keys()])].sort((a, b) => (ahead ? gap(b) - gap(a) : gap(a) - gap(b)));
  if (!keys.length || !(ahead ? gap(keys[0]) > 0 : gap(keys[0]) < 0)) return ahead ? "by its bias" : "by the bias";
  const name = (mine.get(keys[0]) ?? theirs.get(keys[0])).name, its = theirs.get(keys[0])?.p ?? 0, own = mine.get(keys[0])?.p ?? 0;
  if (ahead) return Math.abs(its) <= LACKS * Math.abs(own) ? `which lacks ${name}` : its > 0 ? `which has less ${name}` : `which ${name} speaks against`;
  return its > 0 ? (own > LACKS * its ? `which has more ${name}` : `which has ${name}`) : `which ${name} speaks less against`;
}
