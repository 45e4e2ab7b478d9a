// The address says what is looked at: image, explained class, class, unit, and what is switched off; all counted from 1. What was
// looked at last stands last, and an address opens there.

const PLACES = {image: "images", class: "classes", unit: "units"};

/** Note that an image, class or unit is looked at: the address follows, and the browser's Back returns. */
function visit(kind) {
  state.places = [...state.places.filter(each => each !== kind), kind];
  write(true);
}

const parts = () => {
  const found = {image: state.instance, class: state.shownClass, unit: state.unit};
  return [...state.places.filter(kind => found[kind] !== null).map(kind => [kind, found[kind] + 1]),
    ...(state.explained === null ? [] : [["explain", state.explained + 1]]),
    ...(state.compared === null ? [] : [["against", state.compared + 1]]),
    ...(state.off.size ? [["off", [...state.off].sort((a, b) => a - b).map(unit => unit + 1).join(",")]] : [])];
};
const joined = pairs => `#${pairs.map(pair => pair.join("=")).join("&")}`;
/** The address of another image, class or unit. */
const addressOf = change => joined(Object.entries(change).map(([kind, place]) => [kind, place + 1]));

function write(anew) {
  const text = joined(parts());
  if (text === (location.hash || "#")) return;
  const address = text === "#" ? location.pathname + location.search : text;
  if (anew) history.pushState(null, "", address); else history.replaceState(null, "", address);
}

/** What an address says, as far as it is possible. */
function read() {
  const pairs = new URLSearchParams(location.hash.slice(1)), at = (key, count) => {
    const place = Number(pairs.get(key)) - 1;
    return pairs.has(key) && Number.isInteger(place) && place >= 0 && place < count ? place : null;
  };
  const unit = at("unit", head.M), shown = {image: at("image", instances.length), class: at("class", head.O), unit};
  Object.assign(state, {
    instance: shown.image ?? 0, shownClass: shown.class ?? 0, unit, explained: at("explain", head.O), compared: at("against", head.O), map: "all",
    off: new Set((pairs.get("off") ?? "").split(",").map(each => Number(each) - 1).filter(each => Number.isInteger(each) && each >= 0 && each < head.M)),
    places: [...pairs.keys()].filter(key => shown[key] !== null && key in PLACES),
  });
  byId("unit-text").value = unit === null ? "" : unitNumber(unit);
}

/** Show what the address says, and go there. */
function follow() {
  if (location.hash && !location.hash.includes("=")) return;
  read();
  switchesChanged();
  showClass();
  const last = state.places.at(-1);
  if (last) goTo(PLACES[last], "instant");
}

const goTo = (id, behavior = "auto") => byId(id).scrollIntoView({block: "start", behavior});

async function copyLink() {
  write(false);
  try {
    await navigator.clipboard.writeText(location.href);
    byId("copied").textContent = "Link copied.";
  } catch {
    byId("copied").textContent = "The link is in the address bar.";
  }
  setTimeout(() => { byId("copied").textContent = ""; }, 4000);
}
