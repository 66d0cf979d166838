// Failures, cost, and the settings as text.

function drawFailures() {
  const {count: all, groups, more} = facts.failures, out = body('failures');
  if (!all) {
    out.append(el('p', {class: 'empty'}, 'Nothing failed.'));
    return;
  }
  out.append(el('p', {class: 'lead'}, `${count(all, 'failure')} in ${count(groups.length + more, 'group')}. A failure costs only its own clip or source.`));
  out.append(...groups.map(failureGroup));
  if (more) out.append(el('p', {class: 'soft'}, `${count(more, 'rarer group')} not shown; see the table failures/.`));
}

function failureGroup(group) {
  const list = el('ul', {});
  const details = el('details', {class: 'failure', ontoggle: () => {
    if (details.open && !list.childElementCount) list.append(...failureMembers(group));
  }},
  el('summary', {}, el('b', {class: 'number'}, whole.format(group.count)),
    el('span', {class: 'what'}, foreign(group.error), el('span', {class: 'remedy'}, 'Remedy: ', foreign(group.remedy ?? 'unknown'))),
    el('span', {class: 'soft stage'}, group.stage, group.transient ? ' · will be tried again' : '')), list);
  return details;
}

function failureMembers(group) {
  const items = group.members.map(member => el('li', {}, foreign(member.source), member.clip && el('code', {}, member.clip)));
  const rest = group.count - group.members.length;
  return rest > 0 ? [...items, el('li', {class: 'soft'}, `and ${whole.format(rest)} more`)] : items;
}

// ---------------------------------------------------------------- cost

function drawCost() {
  const {filters, frames, decoded, opens, clips, seconds} = facts.cost, out = body('cost');
  if (!filters.length) {
    out.append(el('p', {class: 'empty'}, 'Nothing is measured yet.'));
    return;
  }
  const total = filters.reduce((sum, f) => sum + f.ms, 0);
  const tiles = [
    [milliseconds(total), 'CPU time in filters'],
    [seconds ? milliseconds(total / (seconds / 60)) : '–', 'per minute of video'],
    [frames ? `${short(decoded / frames)} ×` : '–', `frames decoded (${whole.format(decoded)} for ${whole.format(frames)} in the clips)`],
    [clips ? short(opens / clips) : '–', 'files opened per measured clip'],
  ];
  out.append(el('div', {class: 'tiles'}, tiles.map(([value, text]) => el('p', {}, el('strong', {}, value), text))));
  out.append(el('div', {class: 'costs', role: 'table', 'aria-label': 'CPU time per filter'}, costHead(), filters.map(f => costRow(f, total))));
}

function costHead() {
  const names = ['filter', '', 'share', 'total', 'per clip', 'clips'];
  return el('div', {class: 'row titles', role: 'row'}, names.map(name => el('span', {role: 'columnheader'}, name)));
}

function costRow(filter, total) {
  const cells = [percent(filter.ms, total), milliseconds(filter.ms), milliseconds(filter.clips ? filter.ms / filter.clips : NaN), whole.format(filter.clips)];
  return el('div', {class: 'row', role: 'row'}, el('span', {class: 'label', role: 'rowheader'}, filter.filter),
    el('span', {class: 'bar', role: 'cell', 'aria-hidden': 'true'}, slice('time', filter.ms, total)),
    cells.map(text => el('span', {class: 'number', role: 'cell'}, text)));
}

// ---------------------------------------------------------------- settings

function drawSettings() {
  const shown = [['recipe.yaml', facts.recipe.text], ['policy.yaml', facts.policy.text]];
  body('settings').append(el('div', {class: 'pair'}, shown.map(([name, text]) => el('figure', {}, el('figcaption', {}, name),
    text ? el('pre', {tabindex: '0'}, text) : el('p', {class: 'empty'}, 'not in the dataset')))));
  if (facts.policy.digest) body('settings').append(el('p', {class: 'soft'}, 'Policy digest ', el('code', {}, facts.policy.digest)));
}
