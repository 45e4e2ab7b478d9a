// The gallery: which images are shown, and what becomes of their answers when a switch changes.

/** What is computed again when a switch changes. */
function switchesChanged() {
  state.version += 1;
  showGallery();
  showInstance();
  showAnswers();
  showUnits();
  showStatus();
  write(false);
}

/** The page computes every image with its own arithmetic and compares; in pieces, so that it opens at once. */
function check(from = 0, apart = 0) {
  const end = performance.now() + 30;
  let i = from;
  for (; i < instances.length && (i === from || performance.now() < end); i++) {
    const {said} = instances[i];
    firstOf(instances[i]).logits.forEach((logit, c) => {
      if (!(Number.isNaN(logit) && Number.isNaN(said[c])) && logit !== said[c]) apart = Math.max(apart, Math.abs(logit - said[c]));
    });
  }
  if (i < instances.length) { setTimeout(check, 0, i, apart); return; }
  byId("check").textContent = `Checked when this page opened: for ${plural(instances.length, "image")} and ${plural(head.O, "class", "classes")}, `
    + (apart === 0 ? "its logits are the network's, to the last digit." : `its logits differ from the network's by at most ${scientific(apart)}.`);
}

function showStatus() {
  const off = state.off.size;
  byId("switches").classList.toggle("active", off > 0);
  byId("reset").hidden = off === 0;
  let text = "All units are on.";
  if (off) {
    const kept = instances.filter(each => !changed(each)).length, known = instances.filter(each => each.truth !== null), right = known.filter(each => !isWrong(each)).length;
    const shown = instances[state.instance], {c, sure} = saidOf(shown), first = beganAs(shown);
    const here = first === c ? `This image stays ${data.classes[c]} (${percent(sure)}).` : `This image turns from ${data.classes[first]} into ${data.classes[c]}.`;
    text = `${plural(off, "unit")} off. ${here} ${kept} of ${instances.length} answers kept` + (known.length ? `, ${right} of ${known.length} right.` : ".");
  }
  if (byId("status").textContent !== text) byId("status").textContent = text;
}

// ---- filters

const KINDS = {all: () => true, right: each => each.truth !== null && !isWrong(each), wrong: isWrong, changed};
const SURE = {any: ["any confidence", 0, 2], low: ["below 50 % sure", 0, 0.5], middle: ["50 to 90 % sure", 0.5, 0.9], high: ["90 % sure and more", 0.9, 2]};

function matches(instance) {
  const {c, sure} = saidOf(instance), [, from, to] = SURE[state.sure];
  if (state.pair) return instance.true === state.pair[0] && c === state.pair[1];
  if (state.ofClass !== null && c !== state.ofClass && instance.true !== state.ofClass) return false;
  return KINDS[state.filter](instance) && (state.sure === "any" || (sure >= from && sure < to));
}

/** Set filters; the first image that they leave is shown, unless the one that is looked at is among them. */
function filterBy(filters) {
  Object.assign(state, {pair: null}, filters);
  const first = instances.findIndex(matches);
  if (first >= 0 && (!matches(instances[state.instance]) || state.filter === "wrong" || state.pair)) choose(first); else showGallery();
}

const NOTHING = {all: "No such image.", right: "No right answer.", wrong: "No wrong answer.", changed: "No answer has changed. Switch off a unit."};

function showGallery() {
  const chosen = instances.filter(matches), current = instances[state.instance];
  byId("image-filter").value = state.filter;
  byId("image-sure").value = state.sure;
  byId("image-class").value = state.ofClass === null ? "" : String(state.ofClass);
  fill(byId("pair"), state.pair ? button("pair", `${data.classes[state.pair[0]]} taken for ${data.classes[state.pair[1]]}: show all images again`, () => filterBy({})) : null);
  // The image that is looked at stays, whatever the filters say.
  const shown = chosen.includes(current) ? chosen : [current, ...chosen];
  fill(byId("gallery"), ...shown.map(instance => thumbnail(instance, chosen.includes(instance))));
  const note = chosen.length === 0 ? NOTHING[state.filter] : chosen.length < instances.length ? `${chosen.length} of ${instances.length} images.` : "";
  bringIntoView(byId("gallery"), byId("gallery").querySelector("label:has(:checked)"));
  byId("gallery-note").textContent = note + (shown.length > chosen.length ? " The image you look at stays." : "");
}

/** Scroll a box, and not the page, until what is in it is seen whole. */
function bringIntoView(box, inside) {
  const [outer, inner] = [box, inside].map(each => each.getBoundingClientRect());
  if (inner.top < outer.top || inner.bottom > outer.bottom) box.scrollTop += inner.top - outer.top - 5;
  if (inner.left < outer.left || inner.right > outer.right) box.scrollLeft += inner.left - outer.left - 5;
}

function thumbnail(instance, inside) {
  const said = data.classes[saidOf(instance).c], i = instance.index;
  const remark = isWrong(instance) ? `, wrong, it is ${instance.truth}` : "";
  const radio = make("input", {type: "radio", name: "instance", value: i, "data-key": `image-${i}`, onchange: () => choose(i)});
  radio.checked = i === state.instance;
  const classes = [isWrong(instance) ? "wrong" : "", changed(instance) ? "changed" : "", inside ? "" : "outside"].join(" ").trim();
  return make("label", {class: classes || null, title: `${instance.name}: ${said}${remark}`},
    radio, make("img", {src: data.pictures[i][0], loading: "lazy", alt: `${instance.name}: ${said}${remark}${changed(instance) ? ", changed by the switches" : ""}`}));
}

function choose(i) {
  Object.assign(state, {instance: i, explained: null, compared: null, map: "all", allProducts: false});
  visit("image");
  showGallery();
  showInstance();
  showStatus();
}

/** The image so many places further in the gallery. */
function step(by) {
  const shown = [...document.querySelectorAll("#gallery input")], at = shown.findIndex(each => Number(each.value) === state.instance);
  if (shown[at + by]) choose(Number(shown[at + by].value));
}
