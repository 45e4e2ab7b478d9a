// How often the answers are right: by class, and which classes are taken for which.

/** Of each class: how many images are of it, how many are answered so, and how many of its own are right. */
function tally() {
  const classes = data.classes.map(() => ({of: 0, right: 0, said: 0})), pairs = new Map();
  for (const instance of instances) {
    const {c} = saidOf(instance);
    classes[c].said += 1;
    if (instance.true < 0) continue;
    classes[instance.true].of += 1;
    classes[instance.true].right += c === instance.true;
    if (c !== instance.true) pairs.set(`${instance.true} ${c}`, (pairs.get(`${instance.true} ${c}`) ?? 0) + 1);
  }
  return {classes, confusions: [...pairs].map(([key, count]) => [...key.split(" ").map(Number), count]).sort((a, b) => b[2] - a[2] || a[0] - b[0] || a[1] - b[1])};
}

function showAnswers() {
  const box = byId("confusions");
  if (!box) return;
  const {classes, confusions} = tally(), listed = classes.map((each, c) => ({...each, c})).filter(({of}) => of > 0);
  listed.sort((a, b) => a.right / a.of - b.right / b.of || b.of - a.of || a.c - b.c);
  fill(box, confusions.length ? table("Confusions", [["It is", "name"], ["Answered", ""], ["Images", "num"]],
    confusions.map(([truth, said, count]) => [{}, [say(data.classes[truth]), say(data.classes[said]),
      button(`pair-${truth}-${said}`, String(count), () => { filterBy({filter: "all", ofClass: null, sure: "any", pair: [truth, said]}); goTo("images"); }, {"aria-label": `Show ${plural(count, "image")} of ${data.classes[truth]} taken for ${data.classes[said]}`})]]))
    : make("p", {class: "note"}, "No answer is wrong."));
  fill(byId("by-class"), table("Accuracy by class", [["Class", "name"], ["Right", "num"], ["Share", "num"]], listed.map(({c, of, right}) => [{},
    [make("span", {}, button(`of-${c}`, say(data.classes[c]), () => { filterBy({filter: "all", sure: "any", ofClass: c}); goTo("images"); }), bar(right / of, 1)), `${right} of ${of}`, percent(right / of, 0)]])));
}
