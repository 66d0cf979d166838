// The gallery: filters, order and pages over all clips; only one page of cards exists at a time.

const PAGE = 24;
const gallery = {rows: [], page: 0, query: '', outcome: 'all', rule: 'any', order: 'pictures', grid: null};

function drawGallery() {
  const out = body('gallery');
  if (!facts.clips) {
    out.append(el('p', {class: 'empty'}, 'There are no clips to show.'));
    return;
  }
  gallery.grid = el('div', {class: 'grid'});
  gallery.summary = el('p', {class: 'summary', id: 'gallery-count', 'aria-live': 'polite'});
  gallery.pager = el('div', {class: 'pager'});
  out.append(galleryControls(), gallery.summary, gallery.grid, gallery.pager);
  refreshGallery();
  watch(later(250, () => {
    fillRules();
    refreshGallery(gallery.page);
  }));
}

function galleryControls() {
  const search = el('input', {type: 'search', id: 'search', placeholder: 'source or caption', oninput: later(150, () => {
    gallery.query = search.value.trim().toLowerCase();
    refreshGallery();
  })});
  gallery.selects = {
    outcome: select('outcome', [['all', 'all clips'], ['kept', 'kept'], ['dropped', 'dropped'], ['open', 'needs measuring'],
      ['failed', 'failed or not measured'], ['changed', 'changed by the lab']]),
    rule: select('rule', []),
    order: select('order', [['pictures', 'with picture first'], ['near', 'nearest to a threshold'], ['source', 'by source and time'],
      ['long', 'longest first']]),
  };
  fillRules();
  const field = (text, control) => el('label', {}, el('span', {}, text), control);
  return el('div', {class: 'filters', role: 'search'}, field('Search', search), field('Show', gallery.selects.outcome),
    field('Threshold', gallery.selects.rule), field('Order', gallery.selects.order));
}

function select(name, options) {
  const box = el('select', {id: `gallery-${name}`, onchange: () => {
    gallery[name] = box.value;
    refreshGallery();
  }}, options.map(([value, text]) => option(value, text)));
  return box;
}

function ruleId(rule) {
  return `${rule.key} ${rule.least ? 'min' : 'max'}`;
}

function fillRules() {
  const texts = lab.rules.map((rule, i) =>
    option(ruleId(rule), `${rule.key} ${rule.least ? '≥' : '≤'} ${full(rule.threshold)} (${whole.format(lab.judged.drops[i])} dropped)`));
  gallery.selects.rule.replaceChildren(option('any', 'any'), ...texts);
  if (!lab.rules.some(rule => ruleId(rule) === gallery.rule)) gallery.rule = 'any';
  gallery.selects.rule.value = gallery.rule;
}

// ---------------------------------------------------------------- which clips

function refreshGallery(page = 0) {
  gallery.rows = ordered(matching());
  gallery.page = Math.min(page, Math.max(0, Math.ceil(gallery.rows.length / PAGE) - 1));
  drawPage();
}

function chosenRule() {
  return lab.rules.findIndex(rule => ruleId(rule) === gallery.rule);
}

function matching() {
  const rule = chosenRule(), found = [], hits = sourcesWith(gallery.query);
  for (let i = 0; i < facts.clips; i++) {
    if (fitsOutcome(i) && fitsRule(i, rule) && (!hits || hits[lab.basics.source[i]] || captionHas(i))) found.push(i);
  }
  return found;
}

function fitsOutcome(row) {
  const outcome = lab.judged.first[row];
  switch (gallery.outcome) {
    case 'kept': return outcome === KEPT;
    case 'dropped': return outcome >= 0;
    case 'open': return outcome === UNDECIDED;
    case 'failed': return outcome === UNJUDGED;
    case 'changed': return (outcome === KEPT) !== (lab.stored.first[row] === KEPT) || (outcome === UNDECIDED) !== (lab.stored.first[row] === UNDECIDED);
    default: return true;
  }
}

// With a threshold chosen: the clips that it drops first; among kept clips those that have the score at all.
function fitsRule(row, rule) {
  if (rule < 0) return true;
  if (lab.judged.first[row] >= 0) return lab.judged.first[row] === rule;
  return gallery.outcome !== 'all' && !Number.isNaN(lab.rules[rule].values?.[row] ?? NaN);
}

function sourcesWith(query) {
  return query && lab.basics.sources.map(source => source.toLowerCase().includes(query) ? 1 : 0);
}

function captionHas(row) {
  const {captions, dense} = lab.basics;
  return [captions[row], dense[row]?.[0]].some(text => text?.toLowerCase().includes(gallery.query));
}

function ordered(rows) {
  const {basics} = lab;
  if (gallery.order === 'pictures') {
    const pictures = block('pictures');
    return [...rows.filter(i => i in pictures), ...rows.filter(i => !(i in pictures))];
  }
  if (gallery.order === 'near') {
    const distance = distances(chosenRule());
    return rows.sort((a, b) => distance[a] - distance[b]);
  }
  return gallery.order === 'long' ? rows.sort((a, b) => basics.seconds[b] - basics.seconds[a]) : rows;
}

// Distance to a threshold in parts of the score's range, so that different scores compare. Of dropped clips the
// distance to the rule that drops them counts, of others that to the nearest rule.
function distances(only) {
  const found = new Float32Array(facts.clips).fill(Infinity);
  lab.rules.forEach((rule, r) => {
    if (!rule.on || !rule.values || (only >= 0 && r !== only)) return;
    const size = 1 / ruleRange(rule), telling = only >= 0 || graded(rule);
    for (let i = 0; i < found.length; i++) {
      const first = lab.judged.first[i];
      if (only < 0 && (first >= 0 ? first !== r : !telling)) continue;
      const distance = Math.abs(rule.values[i] - rule.threshold) * size;
      if (distance < found[i]) found[i] = distance;
    }
  });
  return found;
}

function ruleScore(rule) {
  return facts.filters.find(f => f.name === rule.filter)?.scores.find(s => s.name === rule.field);
}

function ruleRange(rule) {
  const score = ruleScore(rule);
  return score && score.high > score.low ? score.high - score.low : 1;
}

// Most clips lie exactly on a limit of counts and yes-or-no scores: how near they are tells nothing.
function graded(rule) {
  return !ruleScore(rule)?.whole;
}

function showNearest(rule, failing) {
  Object.assign(gallery, {outcome: failing ? 'dropped' : 'kept', rule: ruleId(rule), order: 'near', page: 0});
  fillRules();
  for (const [name, box] of Object.entries(gallery.selects)) box.value = gallery[name];
  refreshGallery();
  document.getElementById('gallery').scrollIntoView();
}

// ---------------------------------------------------------------- a page of cards

function drawPage() {
  const {rows, page} = gallery, pages = Math.ceil(rows.length / PAGE);
  const seconds = rows.reduce((sum, row) => sum + lab.basics.seconds[row], 0);
  gallery.summary.textContent = rows.length ? `${count(rows.length, 'clip')} · ${duration(seconds)}` : 'No clip fits.';
  if (isTuned()) gallery.summary.append(' · ', el('span', {class: 'waiting'}, 'judged with the thresholds that you set'));
  gallery.grid.replaceChildren(...rows.slice(page * PAGE, (page + 1) * PAGE).map(clipCard));
  const turn = (text, to, off) => el('button', {disabled: off, onclick: () => turnTo(to)}, text);
  gallery.pager.replaceChildren(...(pages > 1 ? [turn('Previous', page - 1, page === 0),
    el('span', {}, `page ${whole.format(page + 1)} of ${whole.format(pages)}`), turn('Next', page + 1, page === pages - 1)] : []));
}

function turnTo(page) {
  gallery.page = page;
  drawPage();
  gallery.summary.scrollIntoView({block: 'nearest'});
}

function clipCard(row) {
  const {basics} = lab, source = basics.sources[basics.source[row]];
  return el('button', {class: 'clip', onclick: () => openCard(row, gallery.rows), title: source, 'data-clip': basics.ids[row]},
    strip(row),
    el('span', {class: 'line'}, foreign(baseName(source), {class: 'name'}), el('span', {class: 'number soft'}, span(row))),
    el('span', {class: 'line'}, verdictChip(row), el('span', {class: 'why'}, why(row))));
}

function strip(row) {
  const address = picture(row);
  if (address) return el('img', {src: address, alt: '', loading: 'lazy', decoding: 'async'});
  return el('span', {class: 'nopicture'}, 'no picture in this file');
}

function span(row) {
  const start = lab.basics.start[row];
  return `${clock(start)} – ${clock(start + lab.basics.seconds[row])}`;
}

function verdictChip(row) {
  const outcome = lab.judged.first[row];
  if (outcome === KEPT) return el('b', {class: 'chip kept'}, 'kept');
  if (outcome >= 0) return el('b', {class: 'chip dropped'}, 'dropped');
  if (outcome === UNDECIDED) return el('b', {class: 'chip open'}, 'undecided');
  return el('b', {class: 'chip open'}, lab.basics.state[row] === FAILED ? 'failed' : 'not measured');
}

// In plain words: "faces.height 61, allowed from 80 (19 short)".
function why(row) {
  const outcome = lab.judged.first[row];
  if (outcome >= 0) return breach(lab.rules[outcome], row);
  if (outcome === UNDECIDED) return 'the cascade stopped it earlier; measure it to know';
  if (outcome === UNJUDGED) return lab.basics.state[row] === FAILED ? 'see its failure' : 'the run did not come to it yet';
  const rule = lab.rules[chosenRule()] ?? closest(row);
  return rule ? `nearest: ${rule.key} ${short(rule.values[row])}, ${limit(rule)}` : 'breaks no rule';
}

function breach(rule, row) {
  const value = rule.values[row], margin = Math.abs(value - rule.threshold);
  return `${rule.key} ${short(value)}, ${limit(rule)} (${short(margin)} too ${rule.least ? 'low' : 'high'})`;
}

function limit(rule) {
  return `allowed ${rule.least ? 'from' : 'up to'} ${full(rule.threshold)}`;
}

function closest(row) {
  let best = null, least = Infinity;
  for (const rule of lab.rules) {
    const distance = rule.on && rule.values && graded(rule) ? Math.abs(rule.values[row] - rule.threshold) / ruleRange(rule) : NaN;
    if (distance < least) [best, least] = [rule, distance];
  }
  return best;
}
