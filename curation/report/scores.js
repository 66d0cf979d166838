// One panel per score: histogram, how it is sampled, its rules with sliders, and the clips nearest to the cut.

const NEAR = 3; // clips shown on either side of a threshold
const DIRECTIONS = {higher: 'higher is better', lower: 'lower is better', middle: 'a middle value is best', none: ''};

function drawScores() {
  const out = body('lab');
  if (!facts.filters.some(filter => filter.measured)) {
    out.append(el('p', {class: 'empty'}, 'There are no scores to judge yet.'));
    return;
  }
  out.append(drawBar(), legend());
  for (const filter of facts.filters) out.append(drawFilter(filter));
}

function legend() {
  const keys = [['kept', 'kept'], ['open', 'needs measuring'], ['dropped', 'dropped by any rule']];
  return el('p', {class: 'legend'}, keys.map(([kind, text]) => el('span', {}, el('i', {class: kind}), text)),
    el('span', {}, el('i', {class: 'cut'}), 'threshold'), el('span', {}, el('i', {class: 'cut stored'}), 'as stored'));
}

function drawFilter(filter) {
  const panels = filter.scores.map(score => makePanel(filter, score));
  const ruled = el('div', {class: 'ruled'}), free = el('div', {class: 'free'});
  for (const panel of panels) (panel.rules().length ? ruled : free).append(panel.element);
  return el('section', {class: 'filter', id: `filter-${filter.name}`},
    el('h3', {}, filter.name, el('small', {}, `measured ${count(filter.measured, 'clip')}`)),
    filter.about && el('p', {class: 'about'}, filter.about), ruled, free);
}

// ---------------------------------------------------------------- a panel

function makePanel(filter, score) {
  const key = `${filter.name}.${score.name}`;
  const panel = {key, filter, score, histogram: null, active: null, visible: false, axis: score.known ? makeAxis(score) : null};
  panel.rules = () => lab.rules.filter(rule => rule.key === key);
  panel.plot = el('div', {class: 'plot', hidden: !score.known});
  panel.controls = el('div', {class: 'controls'});
  panel.near = el('div', {class: 'near'});
  panel.element = el('article', {class: 'score', id: `score-${key.replace('.', '-')}`},
    el('div', {class: 'measure'}, panelHead(score), panel.plot, panelAxis(score), panel.controls, panelWords(filter, score)),
    panel.near);
  drawControls(panel);
  if (score.known) watchPanel(panel);
  return panel;
}

function panelHead(score) {
  const direction = DIRECTIONS[score.better] ?? '';
  const unit = [score.unit, direction].filter(Boolean).join(' · ') || 'unit unknown';
  return el('header', {}, el('h4', {}, score.name), el('p', {class: 'unit'}, unit));
}

function panelAxis(score) {
  if (!score.known) return null;
  const low = (score.min < score.low ? '≤ ' : '') + short(score.low), high = (score.max > score.high ? '≥ ' : '') + short(score.high);
  return el('p', {class: 'axis', 'aria-hidden': 'true'}, el('span', {}, low), score.log && el('span', {}, 'logarithmic'), el('span', {}, high));
}

function panelWords(filter, score) {
  const skipped = facts.totals.all.clips - filter.measured;
  const absent = [
    score.absent && `${count(score.absent, 'clip')}: does not apply`,
    skipped && `${count(skipped, 'clip')}: not measured`,
  ].filter(Boolean).join(' · ');
  return el('div', {class: 'words'},
    score.about && el('p', {}, el('b', {}, 'Sampled: '), score.about),
    el('p', {class: 'soft'}, score.known ? absent || 'Every clip has a value.' : 'No clip has a value.'));
}

// Panels are drawn when they come near the screen, and drawn again only while they are there.
const seen = new IntersectionObserver(entries => {
  for (const entry of entries) {
    const panel = entry.target.panel;
    panel.visible = entry.isIntersecting;
    if (panel.visible) updatePanel(panel);
  }
}, {rootMargin: '200px'});

function watchPanel(panel) {
  panel.element.panel = panel;
  seen.observe(panel.element);
  watch(() => {
    if (panel.visible) updatePanel(panel);
  });
}

async function updatePanel(panel) {
  if (!panel.histogram) {
    const values = await scoreColumn(panel.key);
    if (!panel.histogram) {
      panel.histogram = makeHistogram(values, panel.axis);
      panel.plot.append(panel.histogram.picture);
    }
  }
  drawHistogram(panel.histogram, lab.judged);
  drawLines(panel.histogram, panel.rules());
  syncControls(panel);
  drawNear(panel);
}

// ---------------------------------------------------------------- rules of a panel

function drawControls(panel) {
  panel.sliders = panel.rules().map(rule => makeSlider(panel, rule));
  panel.element.classList.toggle('has-rule', panel.sliders.length > 0);
  panel.near.hidden = !panel.sliders.length;
  panel.controls.replaceChildren(...panel.sliders.map(slider => slider.element));
  if (!panel.sliders.length && panel.score.known) panel.controls.append(tryButtons(panel));
}

// A score without a rule can get one for a try: it starts where it drops nothing.
function tryButtons(panel) {
  const {key} = panel;
  const start = async least => {
    await tryRule(key, least, panel.axis.from(least ? 0 : 1));
    drawControls(panel);
    updatePanel(panel);
    panel.sliders[0].range.focus();
  };
  const least = el('button', {class: 'quiet', onclick: () => start(true)}, 'at least');
  const most = el('button', {class: 'quiet', onclick: () => start(false)}, 'at most');
  return el('p', {class: 'try'}, 'No rule. Try ', least, most);
}

function makeSlider(panel, rule) {
  const label = `${panel.key}, ${rule.least ? 'at least' : 'at most'}`;
  const range = panel.axis && makeRange(panel, rule, label);
  const number = el('input', {type: 'number', step: 'any', 'aria-label': `${label}, as a number`,
    onchange: () => typedRule(panel, rule, number)});
  const on = el('input', {type: 'checkbox', checked: true, 'aria-label': `apply the rule ${label}`, onchange: () => {
    rule.on = on.checked;
    rejudge();
  }});
  const reset = el('button', {class: 'quiet', onclick: () => {
    resetRule(rule);
    if (!rule.stored) drawControls(panel);
  }}, rule.stored ? 'reset' : 'remove');
  const effect = el('span', {class: 'effect'});
  const element = el('div', {class: 'rule'}, range && el('div', {class: 'range'}, range),
    el('p', {class: 'value'}, el('label', {}, on, rule.least ? 'at least' : 'at most'), number, reset, effect), ruleOrigin(rule));
  return {rule, range, number, on, reset, effect, element};
}

// The slider's value is a place on the axis of the histogram above it.
function makeRange(panel, rule, label) {
  const {axis} = panel, margin = axis.bars ? 0.5 / axis.bins : 0;
  const range = el('input', {type: 'range', 'aria-label': label, min: margin, max: 1 - margin, step: 1 / axis.steps,
    oninput: () => moveRule(panel, rule, axis.from(Number(range.value)))});
  if (axis.bars) fitToBars(range, axis.bins);
  return range;
}

// The ends of the slider's way lie in the middle of the first and last bar.
function fitToBars(range, bins) {
  range.style.marginLeft = `calc((100% - 16px) * ${0.5 / bins})`;
  range.style.width = `calc((100% - 16px) * ${(bins - 1) / bins} + 16px)`;
}

function ruleOrigin(rule) {
  if (!rule.stored) return el('p', {class: 'origin'}, badge('being tried'));
  const source = rule.stored.source;
  const open = source.toLowerCase().startsWith('uncalibrated');
  const text = open ? source.slice('uncalibrated'.length).replace(/^[:\s]+/, '') : source;
  return el('p', {class: 'origin'}, open && badge('uncalibrated'), el('span', {}, text),
    rule.stored.hard === false && el('span', {class: 'soft'}, ' (does not end the measuring of a clip)'));
}

function badge(text) {
  return el('b', {class: 'badge'}, text);
}

function moveRule(panel, rule, threshold) {
  rule.threshold = threshold;
  rule.on = true;
  panel.active = rule;
  rejudge();
}

function typedRule(panel, rule, number) {
  if (number.value !== '' && Number.isFinite(Number(number.value))) moveRule(panel, rule, Number(number.value));
  else number.value = rule.threshold;
}

function syncControls(panel) {
  if (panel.sliders.length !== panel.rules().length) drawControls(panel);
  for (const {rule, range, number, on, reset, effect} of panel.sliders) {
    const at = lab.rules.indexOf(rule);
    // A slider that is being dragged knows its own place.
    if (range && panel.axis.from(Number(range.value)) !== rule.threshold) range.value = panel.axis.at(rule.threshold);
    range?.setAttribute('aria-valuetext', full(rule.threshold));
    if (document.activeElement !== number) number.value = rule.threshold;
    on.checked = rule.on;
    reset.hidden = Boolean(rule.stored) && !changed(rule);
    effect.textContent = !rule.on ? 'switched off'
      : `first reason for ${whole.format(lab.judged.drops[at])}, the only one for ${whole.format(lab.judged.alone[at])}`;
  }
}

// ---------------------------------------------------------------- clips at the cut

function drawNear(panel) {
  const rule = panel.sliders.some(s => s.rule === panel.active) ? panel.active : panel.sliders[0]?.rule;
  if (!rule?.values) return;
  const sides = [true, false].map(failing => nearest(rule, lab.judged, failing, NEAR));
  const shown = `${ruleId(rule)} ${sides.join(' | ')}`;
  if (panel.shownNear === shown) return; // decoding the same pictures anew would make the slider slow
  panel.shownNear = shown;
  panel.near.replaceChildren(nearColumn(rule, true, sides[0]), nearColumn(rule, false, sides[1]));
}

function nearColumn(rule, failing, rows) {
  const show = el('button', {class: 'quiet', onclick: () => showNearest(rule, failing)}, 'more');
  return el('div', {class: failing ? 'failing' : 'passing'},
    el('h5', {}, failing ? 'Just dropped' : 'Just passing', rows.length === NEAR && show),
    rows.map(row => nearClip(rule, row)),
    !rows.length && el('p', {class: 'soft'}, failing ? 'No clip is dropped by this rule alone.' : 'No clip passes here.'));
}

function nearClip(rule, row) {
  const value = rule.values[row], source = lab.basics.sources[lab.basics.source[row]];
  return el('button', {class: 'clip tiny', onclick: () => openCard(row), title: source},
    strip(row), el('span', {class: 'line'}, foreign(baseName(source), {class: 'name'}), el('span', {class: 'number'}, short(value))));
}
