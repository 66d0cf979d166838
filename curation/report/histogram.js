// Histograms: bins are sorted out once per score, and counted again for every new judgement.

const BINS = 48, WIDTH = 480, HEIGHT = 96;

// The x axis of a score: `at` turns a value into a place from 0 to 1, `from` a place into a round threshold.
function makeAxis(score) {
  const width = score.high - score.low;
  if (score.whole && width < BINS) return barAxis(score, width + 1);
  return score.log ? logAxis(score) : linearAxis(score, width || Math.abs(score.low) || 1);
}

// Few whole numbers get a bar each, with the number in the middle of its bar.
function barAxis(score, bins) {
  return {bins, bars: true, steps: bins, at: x => (x - score.low + 0.5) / bins,
    from: u => score.low + Math.min(bins - 1, Math.max(0, Math.round(u * bins - 0.5)))};
}

function linearAxis(score, width) {
  const fine = 10 ** Math.floor(Math.log10(width / 100));
  const step = score.whole ? Math.max(1, fine) : fine;
  return {bins: BINS, bars: false, steps: 250, at: x => (x - score.low) / width,
    from: u => atEnd(score, u, step) ?? roundTo(score.low + u * width, step, Math.round)};
}

function logAxis(score) {
  const span = Math.log(score.high / score.low);
  const step = x => 10 ** (Math.floor(Math.log10(x)) - 2);
  return {bins: BINS, bars: false, log: true, steps: 250, at: x => (x > score.low ? Math.log(x / score.low) / span : 0),
    from: u => {
      const x = score.low * Math.exp(u * span);
      return atEnd(score, u, step(x)) ?? roundTo(x, step(x), Math.round);
    }};
}

// The ends of the way mean the extremes of all clips, also where the axis leaves out some.
function atEnd(score, u, step) {
  if (u <= 0) return roundTo(score.min, step, Math.floor);
  return u >= 1 ? roundTo(score.max, step, Math.ceil) : null;
}

function roundTo(x, step, round) {
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return Number((round(x / step) * step).toFixed(Math.min(decimals, 100)));
}

function makeBins(values, axis) {
  const bins = new Uint8Array(values.length).fill(255);
  for (let i = 0; i < values.length; i++) {
    if (Number.isNaN(values[i])) continue;
    bins[i] = Math.min(axis.bins - 1, Math.max(0, Math.floor(axis.at(values[i]) * axis.bins)));
  }
  return bins;
}

function makeHistogram(values, axis) {
  const paths = {kept: svg('path', {class: 'kept'}), dropped: svg('path', {class: 'dropped'}), open: svg('path', {class: 'open'})};
  const lines = svg('g', {class: 'lines'});
  const picture = svg('svg', {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', 'aria-hidden': 'true'},
    Object.values(paths), lines);
  return {picture, paths, lines, axis, bins: makeBins(values, axis)};
}

function countBins(histogram, judged) {
  const n = histogram.axis.bins, counts = {kept: new Int32Array(n), dropped: new Int32Array(n), open: new Int32Array(n)};
  const {bins} = histogram, {first} = judged;
  for (let i = 0; i < bins.length; i++) {
    if (bins[i] === 255) continue;
    const outcome = first[i];
    (outcome === KEPT ? counts.kept : outcome >= 0 ? counts.dropped : counts.open)[bins[i]]++;
  }
  return counts;
}

// Stacked from the floor: kept, undecided, dropped.
function drawHistogram(histogram, judged) {
  const counts = countBins(histogram, judged);
  const n = histogram.axis.bins, base = new Float64Array(n);
  let most = 1;
  for (let b = 0; b < n; b++) most = Math.max(most, counts.kept[b] + counts.open[b] + counts.dropped[b]);
  for (const kind of ['kept', 'open', 'dropped']) {
    histogram.paths[kind].setAttribute('d', barPath(counts[kind], base, most, WIDTH / n));
  }
}

// A bar that isn't empty is at least one unit high, so that rare values are seen.
function barPath(counts, base, most, width) {
  const gap = Math.min(1.5, width * 0.12);
  let path = '';
  for (let b = 0; b < counts.length; b++) {
    if (!counts[b]) continue;
    const height = Math.max(1, counts[b] / most * (HEIGHT - 4));
    const x = b * width + gap / 2, y = HEIGHT - base[b];
    path += `M${x.toFixed(2)} ${y.toFixed(2)}v${(-height).toFixed(2)}h${(width - gap).toFixed(2)}v${height.toFixed(2)}z`;
    base[b] += height;
  }
  return path;
}

// Where a threshold lies, 0 to WIDTH. Between the bars of whole numbers, on the side that it forbids.
function place(axis, rule, threshold) {
  const shift = axis.bars && Number.isInteger(threshold) ? (rule.least ? -0.5 : 0.5) : 0;
  return Math.min(WIDTH - 1, Math.max(1, axis.at(threshold + shift) * WIDTH));
}

function drawLines(histogram, rules) {
  const marks = [];
  for (const rule of rules) {
    if (rule.stored && changed(rule)) marks.push(line(place(histogram.axis, rule, rule.stored.min ?? rule.stored.max), 'stored'));
    if (rule.on) marks.push(line(place(histogram.axis, rule, rule.threshold), 'now'), shade(histogram.axis, rule));
  }
  histogram.lines.replaceChildren(...marks);
}

function line(x, kind) {
  return svg('line', {class: kind, x1: x, x2: x, y1: 0, y2: HEIGHT});
}

// The forbidden side.
function shade(axis, rule) {
  const x = place(axis, rule, rule.threshold);
  return svg('rect', {class: 'shade', x: rule.least ? 0 : x, width: rule.least ? x : WIDTH - x, y: 0, height: HEIGHT});
}
