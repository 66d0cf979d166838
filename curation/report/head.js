// Head of the page and the funnel: drawn from the counts alone, before any column is unpacked.

function drawHead() {
  const name = baseName(facts.dataset);
  document.title = `${name} · s2v report`;
  const title = document.getElementById('title');
  title.append(foreign(name));
  title.title = facts.dataset;
  document.getElementById('sentence').append(...sentence());
  const recipe = facts.recipe.name ? ['recipe ', foreign(facts.recipe.name), ' · '] : [];
  document.getElementById('made').append(...recipe, `written ${facts.when}`);
  if (facts.notes.length) document.getElementById('notes').append(el('div', {class: 'note'}, facts.notes.map(text => el('p', {}, text))));
}

function sentence() {
  const {all, kept, judged} = facts.totals;
  if (!all.clips) return ['No clips yet.'];
  const unit = durationUnit(all.seconds);
  if (!judged.clips) return [`${count(all.clips, 'clip')}, ${duration(all.seconds)}; none is judged yet.`];
  const policy = facts.policy.name ? ['; policy ', foreign(facts.policy.name)] : [];
  return [
    el('strong', {}, whole.format(kept.clips)), ` of ${count(all.clips, 'clip')} kept, `,
    el('strong', {}, inUnit(kept.seconds, unit)), ` of ${inUnit(all.seconds, unit)} ${unit[1]}`, ...policy, '.',
  ];
}

// ---------------------------------------------------------------- funnel

function drawFunnel() {
  const {sources, steps} = facts.funnel;
  const {all, kept, judged, packed: shards} = facts.totals;
  const table = el('div', {class: 'funnel', role: 'table', 'aria-label': 'Clips per stage'}, funnelHead());
  const failed = sources.failed ? `${whole.format(sources.failed)} of them could not be read` : '';
  table.append(funnelRow({label: 'sources', text: whole.format(sources.found), aside: failed}));
  table.append(funnelRow({label: 'clips cut', left: all, lost: null, all}));
  const left = {...all};
  for (const step of steps) {
    left.clips -= step.clips;
    left.seconds -= step.seconds;
    table.append(funnelRow({label: step.label, left: {...left}, lost: step, all, kind: step.kind}));
  }
  if (judged.clips) table.append(funnelRow({label: 'kept', left: kept, lost: null, all, kind: 'total'}));
  if (shards.clips) table.append(funnelRow({label: 'packed', left: shards, lost: null, all, kind: 'total'}));
  else table.append(funnelRow({label: 'packed', aside: 'not packed yet', kind: 'total'}));
  body('funnel').append(table);
}

function funnelHead() {
  const names = ['stage', '', 'clips', 'length', 'dropped', 'length'];
  return el('div', {class: 'row titles', role: 'row'}, names.map(name => el('span', {role: 'columnheader'}, name)));
}

function funnelRow({label, left, lost, all, kind = '', text = '', aside = ''}) {
  const bar = left && [slice('kept', left.clips, all.clips),
    lost && slice(kind === 'filter' ? 'dropped' : 'open', lost.clips, all.clips)];
  const amounts = left ? [whole.format(left.clips), duration(left.seconds)] : [text, ''];
  const gone = lost && lost.clips ? [whole.format(lost.clips), duration(lost.seconds)] : [lost ? '0' : '', ''];
  return el('div', {class: `row ${kind} ${lost && lost.clips ? '' : 'calm'}`, role: 'row'},
    el('span', {class: 'label', role: 'rowheader'}, label),
    el('span', {class: bar ? 'bar' : 'aside', role: 'cell'}, bar ?? aside),
    amounts.map(amount => el('span', {class: 'number', role: 'cell'}, amount)),
    gone.map(amount => el('span', {class: 'number lost', role: 'cell'}, amount)));
}

function slice(kind, part, all) {
  const piece = el('i', {class: kind});
  piece.style.width = `${all ? 100 * part / all : 0}%`;
  return piece;
}
