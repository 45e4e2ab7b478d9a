// Pictures: what excites a unit, with the region outlined, and any picture enlarged.

const SVG_BOX = 100;

/** A picture with the outlines of regions over it: a light line on a dark one, which is seen on any background. */
function pictured(place, outline, alt, lazy = true) {
  const [src, width, height] = data.pictures[place];
  const box = make("span", {class: "pictured", style: {"aspect-ratio": `${width} / ${height}`}}, make("img", {src, alt, width, height, loading: lazy ? "lazy" : null}));
  if (outline) {
    box.append(makeSvg("svg", {viewBox: `0 0 ${SVG_BOX} ${SVG_BOX}`, preserveAspectRatio: "none", "aria-hidden": "true"},
      makeSvg("path", {d: outline, class: "under"}), makeSvg("path", {d: outline, class: "over"})));
  }
  return box;
}

/** The images that excite a unit most, each a button that enlarges it; or a sentence that says why there are none. */
function topImages(unit, most, key = "top") {
  const tops = data.tops[unit] ?? [];
  if (!tops.length) return make("p", {class: "note"}, whyNoImages(unit));
  return make("span", {class: "tops"}, ...tops.slice(0, most).map(([place, outline], rank) => {
    const about = `${unitName(unit)}: image ${rank + 1} of ${tops.length} that excite it most${outline ? ", its region outlined" : ""}`;
    return make("button", {type: "button", class: "top", "data-key": `${key}-${unit}-${rank}`, "aria-label": `Enlarge ${about}`, title: "Enlarge", onclick: () => enlarge(place, outline, about)},
      pictured(place, outline, ""));
  }));
}

/** One small picture of a unit without a name, where its number alone would say nothing; null if there is none. */
function tiny(unit, size) {
  const top = isDetector(unit) ? undefined : data.tops[unit]?.[0];
  return top ? make("span", {class: "tiny", style: {width: size}}, pictured(...top, "")) : null;
}

function whyNoImages(unit) {
  if (instances.every(({x}) => !(x[unit] > 0))) return "No picture: no image on this page excites this unit.";
  if (!data.tops.length) return "No pictures were given.";
  return users[unit].length ? "No picture: the page holds those of the units with the largest weights." : "No picture: no class uses this unit.";
}

function enlarge(place, outline, about) {
  fill(byId("enlarged-picture"), pictured(place, outline, about, false));
  byId("enlarged-text").textContent = about;
  byId("enlarged").showModal();
}
