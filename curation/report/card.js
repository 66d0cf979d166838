// The score card of one clip: every score with unit, threshold and margin, and the command that explains it.

const card = {row: 0, rows: [], asked: 0};

async function openCard(row, rows = [row]) {
  Object.assign(card, {row, rows});
  const asked = ++card.asked;
  const values = await clipValues(row);
  if (asked !== card.asked) return; // another clip was asked for meanwhile
  const dialog = document.getElementById('card');
  dialog.replaceChildren(cardHead(row), cardPicture(row), cardFacts(row, values), ...cardFailure(row), cardScores(row, values), cardCommand(row));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

async function clipValues(row) {
  const columns = block('columns');
  const pick = async (group, name) => [name, (await numberColumn(group, name))[row]];
  const scores = Object.keys(columns.scores).map(async key => [key, (await scoreColumn(key))[row]]);
  const [score, ms, media] = await Promise.all([
    Promise.all(scores),
    Promise.all(Object.keys(columns.ms).map(name => pick('ms', name))),
    Promise.all(Object.keys(columns.media).map(name => pick('media', name))),
  ]);
  return {score: new Map(score), ms: new Map(ms), media: new Map(media)};
}

function step(by) {
  const next = card.rows.indexOf(card.row) + by;
  if (next >= 0 && next < card.rows.length) openCard(card.rows[next], card.rows);
}

function cardHead(row) {
  const source = lab.basics.sources[lab.basics.source[row]], at = card.rows.indexOf(row);
  const close = el('button', {onclick: () => document.getElementById('card').close(), autofocus: true}, 'Close');
  const turns = card.rows.length > 1 ? [
    el('button', {onclick: () => step(-1), disabled: at === 0, 'aria-label': 'Previous clip'}, '←'),
    el('button', {onclick: () => step(1), disabled: at === card.rows.length - 1, 'aria-label': 'Next clip'}, '→')] : [];
  return el('header', {}, el('h3', {id: 'card-title'}, foreign(baseName(source))), el('div', {class: 'turns'}, turns, close));
}

function cardPicture(row) {
  return el('div', {class: 'cardpicture'}, strip(row));
}

function cardFacts(row, values) {
  const {basics} = lab, {media} = values;
  const [video, pixels, audio] = facts.formats[media.get('format')] ?? [];
  const list = el('dl', {});
  const add = (name, ...value) => list.append(el('dt', {}, name), el('dd', {}, ...value));
  add('verdict', verdictChip(row), ' ', why(row));
  add('source', foreign(basics.sources[basics.source[row]]));
  add('span', `${span(row)} (${short(basics.seconds[row])} s)`);
  if (media.has('width')) {
    add('video', `${media.get('width')} × ${media.get('height')}, ${short(media.get('fps'))} fps, ${[video, pixels].filter(Boolean).join(' ')}`);
    add('audio', audio ?? 'none');
  }
  if (basics.captions[row]) add('source caption', foreign(basics.captions[row]));
  const [prose, objections] = basics.dense[row] ?? [];
  if (prose) add('caption', foreign(prose));
  if (objections?.length) add('lint', foreign(objections.join('; ')));
  add('clip', el('code', {}, basics.ids[row]));
  return list;
}

function cardFailure(row) {
  if (lab.basics.state[row] !== FAILED) return [];
  const id = lab.basics.ids[row];
  const group = facts.failures.groups.find(g => g.members.some(m => m.clip === id));
  return group ? [el('p', {class: 'note'}, foreign(group.error), el('br'), 'Remedy: ', foreign(group.remedy))] : [];
}

function cardScores(row, values) {
  const head = el('tr', {}, ['score', 'value', 'allowed', 'margin', 'unit'].map(name => el('th', {scope: 'col', class: name === 'unit' && 'units'}, name)));
  return el('div', {class: 'scroll', tabindex: '0'}, el('table', {class: 'scores'}, el('thead', {}, head),
    facts.filters.map(filter => cardFilter(row, filter, values))));
}

function cardFilter(row, filter, values) {
  const measured = lab.basics.measured.get(filter.name)?.[row];
  const took = values.ms.get(filter.name);
  const time = measured ? (took === undefined || Number.isNaN(took) ? '' : milliseconds(took)) : 'not measured';
  return el('tbody', {},
    el('tr', {class: 'group'}, el('th', {colspan: 3, scope: 'rowgroup'}, filter.name), el('td', {class: 'number'}, time), el('td', {class: 'units'})),
    measured && filter.scores.flatMap(score => cardScore(filter, score, values.score.get(`${filter.name}.${score.name}`))));
}

function cardScore(filter, score, value = NaN) {
  const rules = lab.rules.filter(rule => rule.on && rule.key === `${filter.name}.${score.name}`);
  const missing = Number.isNaN(value);
  return (rules.length ? rules : [null]).map(rule => {
    const broken = rule && breaks(rule, value);
    const margin = rule && !missing ? `${short(Math.abs(value - rule.threshold))} ${broken ? 'short' : 'to spare'}` : '';
    return el('tr', {class: broken ? 'broken' : ''}, el('th', {scope: 'row', title: score.about}, score.name, el('span', {class: 'unit'}, score.unit ?? '')),
      el('td', {class: 'number'}, missing ? 'n/a' : short(value)),
      el('td', {class: 'number'}, rule ? `${rule.least ? '≥' : '≤'} ${full(rule.threshold)}` : ''),
      el('td', {class: 'number'}, broken && !rule.least ? margin.replace('short', 'over') : margin),
      el('td', {class: 'soft units'}, score.unit ?? ''));
  });
}

function cardCommand(row) {
  return el('p', {class: 'command'}, el('code', {}, `s2v explain ${shellQuote(facts.dataset)} ${shellQuote(lab.basics.ids[row])}`));
}

function watchCard() {
  const dialog = document.getElementById('card');
  dialog.addEventListener('click', event => {
    if (event.target === dialog) dialog.close(); // the backdrop
  });
  dialog.addEventListener('keydown', event => {
    if (event.key === 'ArrowLeft') step(-1);
    if (event.key === 'ArrowRight') step(1);
  });
}
