// The lab's state: rules, the judgement of now and of the stored policy, and the bar that tells the difference.

const lab = {basics: null, rules: [], judged: null, stored: null, watchers: [], bar: null};

async function startLab() {
  lab.basics = await loadBasics();
  lab.rules = sortRules(makeRules());
  await Promise.all(lab.rules.map(async rule => {
    rule.values = await scoreColumn(rule.key);
  }));
  lab.judged = lab.stored = judge(lab.basics, lab.rules);
}

function watch(action) {
  lab.watchers.push(action);
}

// Judge again and tell everybody, at most once per picture that the screen shows.
let pending = false;
function rejudge() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => {
    pending = false;
    lab.judged = judge(lab.basics, lab.rules);
    for (const action of lab.watchers) action();
  });
}

function isTuned() {
  return lab.rules.some(changed);
}

function resetRule(rule) {
  if (!rule.stored) lab.rules = lab.rules.filter(other => other !== rule);
  else {
    rule.on = true;
    rule.threshold = rule.stored.min ?? rule.stored.max;
  }
  rejudge();
}

function resetAll() {
  for (const rule of [...lab.rules]) resetRule(rule);
}

async function tryRule(key, least, threshold) {
  const rule = makeRule(key, least, threshold);
  rule.values = await scoreColumn(key);
  lab.rules = sortRules([...lab.rules, rule]);
  rejudge();
  return rule;
}

// ---------------------------------------------------------------- the bar

function drawBar() {
  const kept = el('p', {class: 'kept-now', id: 'survivors', 'aria-live': 'polite'});
  const delta = el('p', {class: 'delta', id: 'delta'});
  const said = el('span', {class: 'said', role: 'status'});
  const yaml = el('textarea', {readonly: true, rows: 12, spellcheck: 'false', 'aria-label': 'Policy YAML', hidden: true});
  const copy = el('button', {class: 'primary', id: 'copy-policy', onclick: () => copyPolicy(yaml, said)}, 'Copy policy YAML');
  const save = el('button', {class: 'save', onclick: savePolicy}, 'Save as file');
  const show = el('button', {'aria-expanded': 'false', onclick: () => toggle(yaml, show)}, 'Show');
  const reset = el('button', {id: 'reset', onclick: resetAll}, 'Reset');
  const use = el('p', {class: 'use'}, 'Apply it with ', el('code', {}, `s2v select ${shellQuote(facts.dataset)} --policy FILE`));
  lab.bar = {kept, delta, yaml, reset};
  watch(updateBar);
  return el('div', {class: 'labbar', role: 'group', 'aria-label': 'Result of the thresholds'},
    el('div', {class: 'result'}, kept, delta), el('div', {class: 'actions'}, copy, save, show, reset, said), use, yaml);
}

function updateBar() {
  const {judged, stored, bar} = lab;
  if (!bar) return;
  const unit = durationUnit(Math.max(judged.keptSeconds, stored.keptSeconds));
  bar.kept.replaceChildren(el('strong', {}, whole.format(judged.kept)), ` ${judged.kept === 1 ? 'clip' : 'clips'} kept · `,
    el('strong', {}, inUnit(judged.keptSeconds, unit)), ` ${unit[1]}`);
  bar.delta.replaceChildren(...deltaText(judged, stored));
  bar.yaml.value = policyYaml(lab.rules);
  bar.reset.disabled = !isTuned();
}

function deltaText(judged, stored) {
  const parts = [];
  const clips = judged.kept - stored.kept, seconds = judged.keptSeconds - stored.keptSeconds;
  if (!isTuned()) parts.push('The thresholds are those of the stored policy.');
  else if (!clips && Math.abs(seconds) < 0.05) parts.push('As many as under the stored policy.');
  else {
    parts.push(el('span', {class: clips < 0 ? 'less' : 'more'}, `${signed(count(Math.abs(clips), 'clip'), clips)}`),
      ` (${signed(duration(Math.abs(seconds)), seconds)}) against the stored policy.`);
  }
  if (judged.undecided) {
    parts.push(' ', el('span', {class: 'waiting'},
      `${count(judged.undecided, 'clip')} (${duration(judged.undecidedSeconds)}) would need measuring: `
      + 'the cascade stopped them before the later filters, so their later scores are unknown.'));
  }
  return parts;
}

function toggle(element, button) {
  element.hidden = !element.hidden;
  button.setAttribute('aria-expanded', String(!element.hidden));
  button.textContent = element.hidden ? 'Show' : 'Hide';
}

// The clipboard may be closed to files; then the text is shown and marked, ready for Ctrl+C.
async function copyPolicy(area, said) {
  try {
    await navigator.clipboard.writeText(policyYaml(lab.rules));
    said.textContent = 'Copied.';
  } catch {
    area.hidden = false;
    area.select();
    said.textContent = document.execCommand('copy') ? 'Copied.' : 'Press Ctrl+C.';
  }
  setTimeout(() => said.replaceChildren(), 4000);
}

function savePolicy() {
  const address = URL.createObjectURL(new Blob([policyYaml(lab.rules)], {type: 'application/yaml'}));
  el('a', {href: address, download: 'policy.yaml'}).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
