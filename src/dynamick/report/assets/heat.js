// Where the evidence is: maps drawn over the picture, and the colour bar that says what their colours mean.

const INFERNO = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]];

/** Maps of one image: unit -> place, the maps as signed bytes, and their scales. */
function mapsOf(instance) {
  if (instance.maps === null) return null;
  if (!instance.read) {
    const packed = instance.maps;
    instance.read = {
      place: new Map([...counts(packed.units)].map((unit, place) => [unit, place])), scale: floats(packed.scale),
      height: packed.size[0], width: packed.size[1], levels: new Int8Array(buffer(packed.levels)),
    };
  }
  return instance.read;
}

/** What units contribute to class c where: the sum of W_ci * A_i(h, w) / (H * W); null where no map of them is held. */
function contribution(instance, c, units) {
  const maps = mapsOf(instance), held = maps ? units.filter(unit => maps.place.has(unit)) : [];
  if (held.length === 0) return null;
  const cells = maps.height * maps.width, total = new Float32Array(cells);
  for (const unit of held) {
    const place = maps.place.get(unit), factor = head.weight[c * head.M + unit] * maps.scale[place] / 127 / cells;
    for (let cell = 0; cell < cells; cell++) total[cell] += factor * maps.levels[place * cells + cell];
  }
  return total;
}

const peakOf = map => map.reduce((peak, value) => Math.max(peak, Math.abs(value)), 0);

/** Draw a map onto a canvas, bilinearly: dark violet (little) to yellow (most) speaks for the class, blue against it. */
function draw(canvas, map, maps, peak) {
  const {width, height} = canvas, context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  if (!map || !(peak > 0)) return;
  const pixels = context.createImageData(width, height);
  for (let v = 0; v < height; v++) {
    const row = Math.min(Math.max((v + 0.5) / height * maps.height - 0.5, 0), maps.height - 1), r0 = Math.floor(row), r1 = Math.min(r0 + 1, maps.height - 1);
    for (let u = 0; u < width; u++) {
      const column = Math.min(Math.max((u + 0.5) / width * maps.width - 0.5, 0), maps.width - 1), c0 = Math.floor(column), c1 = Math.min(c0 + 1, maps.width - 1);
      const a = row - r0, b = column - c0, at = (r, c) => map[r * maps.width + c];
      const value = (1 - a) * ((1 - b) * at(r0, c0) + b * at(r0, c1)) + a * ((1 - b) * at(r1, c0) + b * at(r1, c1));
      const tone = Math.min(Math.abs(value) / peak, 1) ** 0.75, spot = 4 * (v * width + u);
      const step = Math.min(tone * (INFERNO.length - 1), INFERNO.length - 1.001), lower = Math.floor(step);
      for (let channel = 0; channel < 3; channel++) {
        const mixed = INFERNO[lower][channel] + (step - lower) * (INFERNO[lower + 1][channel] - INFERNO[lower][channel]);
        pixels.data[spot + channel] = value < 0 ? [60, 140, 255][channel] : mixed;
      }
      pixels.data[spot + 3] = 255 * 0.6 * tone;
    }
  }
  context.putImageData(pixels, 0, 0);
}
