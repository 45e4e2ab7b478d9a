// A decision compared: with another class of this network, and with another network on the same image.

function showDifferences(instance, c, other) {
  for (const id of ["versus-heading", "differences"]) byId(id).hidden = other === undefined;
  byId("compared").closest(".controls").hidden = other === undefined;
  if (other === undefined) return;
  const [mine, theirs] = [c, other].map(each => groupsOf(instance, each));
  const rows = [...new Set([...mine.keys(), ...theirs.keys()])].map(key => {
    const [a, b] = [mine.get(key), theirs.get(key)];
    return {key, name: (a ?? b).name, unit: (a ?? b).pairs[0].unit, a, b, d: (a?.p ?? 0) - (b?.p ?? 0), shown: (a?.shown ?? 0) - (b?.shown ?? 0)};
  }).sort((x, y) => descending(Math.abs(x.d), Math.abs(y.d)));
  const few = rows.slice(0, SHOWN_PRODUCTS), rest = rows.slice(SHOWN_PRODUCTS), largest = peakOf(few.map(({d}) => d));
  const {logits} = nowOf(instance), lead = steps(logits[c]) - steps(logits[other]), value = group => (group ? change(group.shown) : "\u2013");
  fill(byId("versus-heading"), "What separates ", say(data.classes[c]), " from ", say(data.classes[other]));
  const total = of => sum(rest.map(row => row[of]?.shown ?? 0));
  fill(byId("differences"), table(`What separates ${data.classes[c]} from ${data.classes[other]}`,
    [["Evidence", "name"], ...[c, other].map(each => [say(data.classes[each], {class: "clamp", title: data.raw[data.classes[each]] ?? data.classes[each]}), "num class-name"]), ["Difference", "num"]],
    few.map(({key, name, unit, a, b, d, shown}) => [{class: colourOf(key), "data-concept": key},
      [make("span", {}, make("span", {class: "swatch", "aria-hidden": "true"}), " ", tiny(unit, "2rem"), isDetector(unit) ? say(name) : unitLink(unit), bar(d, largest, true)), value(a), value(b), exact(d, change(shown))]]), [
      ...(rest.length ? [[`${rest.length} more together`, change(total("a")), change(total("b")), change(total("a") - total("b"))]] : []),
      ["Bias", ...[c, other].map(each => change(steps(head.bias[each]))), change(steps(head.bias[c]) - steps(head.bias[other]))],
      ["Logit", ...[c, other].map(each => amount(steps(logits[each]))), exact(logits[c] - logits[other], change(lead))],
    ]));
}

// ---- another network on the same image

function showBeside(instance) {
  if (!data.beside) return;
  const decision = data.beside.decisions[instance.index], {ranking, concepts, rest, bias, heat} = decision;
  const [name, logit, chance] = ranking[0], same = name === data.classes[saidOf(instance).c];
  byId("beside-sentence").textContent = `${decision.sentence.replaceAll(" %", "\u00a0%")}.`;
  byId("beside-note").textContent = `Both networks as they are, without the switches. ${same ? "They agree" : "They disagree"}: ${data.beside.name} says ${name} (${percent(chance)}).`;
  byId("beside-image").src = data.pictures[instance.index][0];
  byId("beside-stage").style.setProperty("aspect-ratio", `${data.pictures[instance.index][1]} / ${data.pictures[instance.index][2]}`);
  const canvas = byId("beside-heat"), map = heat && {height: heat.size[0], width: heat.size[1]}, levels = heat && new Int8Array(buffer(heat.levels));
  byId("beside-stage").classList.toggle("heated", heat !== null);
  draw(canvas, heat && Float32Array.from(levels), map, 127);
  const places = apportion([...concepts.map(each => each[1] * STEP), rest * STEP], steps(logit) - steps(bias)), largest = peakOf(concepts.map(each => each[1]));
  fill(byId("beside-table"), table(`Evidence of ${data.beside.name} for ${name}`, [["Evidence", "name"], ["Sum", "num"]],
    concepts.map(([concept, p, units], place) => [{}, [make("span", {}, concept, concept.startsWith("unit ") ? null : make("small", {}, ` ${plural(units.length, "unit")}`), bar(p, largest)), exact(p, change(places[place]))]]), [
      ...(places[concepts.length] ? [["All other units together", exact(rest, change(places[concepts.length]))]] : []),
      ["Bias", exact(bias, change(steps(bias)))], ["Logit", exact(logit, amount(steps(logit)))],
    ]));
}
