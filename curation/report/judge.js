// The policy as it stands in the lab, and what it makes of every clip. The same judgement as `s2v select`.

function makeRules() {
  return facts.policy.rules.map(stored => makeRule(stored.score, stored.min !== null, stored.min ?? stored.max, stored));
}

// `least`: the score must be at least the threshold, otherwise at most.
function makeRule(key, least, threshold, stored = null) {
  return {key, filter: key.split('.')[0], field: key.split('.')[1], least, threshold, stored, on: true, values: null};
}

function changed(rule) {
  return !rule.stored || !rule.on || rule.threshold !== (rule.stored.min ?? rule.stored.max);
}

// Rules in chain order, since the first broken one is the reason.
function sortRules(rules) {
  const place = new Map(facts.filters.map((filter, i) => [filter.name, i]));
  return rules.sort((a, b) => (place.get(a.filter) ?? 1e9) - (place.get(b.filter) ?? 1e9));
}

function breaks(rule, value) {
  const cut = Math.fround(rule.threshold); // the values are float32, too
  return rule.least ? value < cut : value > cut;
}

// Per clip: `first` is the rule that drops it, or KEPT, UNDECIDED, UNJUDGED; `broken` counts the rules that it breaks.
function judge(basics, rules) {
  const n = facts.clips;
  const first = new Int16Array(n).fill(KEPT), broken = new Uint8Array(n);
  rules.forEach((rule, r) => {
    if (rule.on && rule.values) markBroken(rule, r, first, broken);
  });
  for (const mask of basics.measured.values()) {
    for (let i = 0; i < n; i++) if (!mask[i] && !broken[i]) first[i] = UNDECIDED;
  }
  for (let i = 0; i < n; i++) if (basics.state[i] !== MEASURED) first[i] = UNJUDGED;
  return {first, broken, ...sums(basics, first, broken, rules.length)};
}

function markBroken(rule, r, first, broken) {
  const cut = Math.fround(rule.threshold), values = rule.values;
  for (let i = 0; i < values.length; i++) {
    if (rule.least ? values[i] < cut : values[i] > cut) {
      if (!broken[i]) first[i] = r;
      if (broken[i] < 255) broken[i]++;
    }
  }
}

// Clips and seconds that are kept or undecided; per rule, what it drops first and what it alone drops.
function sums(basics, first, broken, rules) {
  const found = {kept: 0, keptSeconds: 0, undecided: 0, undecidedSeconds: 0};
  const drops = new Int32Array(rules), alone = new Int32Array(rules);
  for (let i = 0; i < first.length; i++) {
    const outcome = first[i];
    if (outcome === KEPT) {
      found.kept++;
      found.keptSeconds += basics.seconds[i];
    } else if (outcome === UNDECIDED) {
      found.undecided++;
      found.undecidedSeconds += basics.seconds[i];
    } else if (outcome >= 0) {
      drops[outcome]++;
      if (broken[i] === 1) alone[outcome]++;
    }
  }
  return {...found, drops, alone};
}

// The nearest clips on one side of a threshold for which it alone decides.
function nearest(rule, judged, failing, most) {
  const cut = Math.fround(rule.threshold), best = [];
  for (let i = 0; i < rule.values.length; i++) {
    const value = rule.values[i];
    if (Number.isNaN(value) || judged.first[i] === UNJUDGED) continue;
    const fails = breaks(rule, value);
    if (fails !== failing || judged.broken[i] - (fails && rule.on ? 1 : 0) !== 0) continue;
    const distance = Math.abs(value - cut);
    if (best.length === most && distance >= best[most - 1].distance) continue;
    best.splice(best.findIndex(b => b.distance > distance) >>> 0, 0, {row: i, distance});
    if (best.length > most) best.pop();
  }
  return best.map(b => b.row);
}

// ---------------------------------------------------------------- as YAML

// A JSON string is a YAML string, once all that a YAML reader may take for a line break is escaped.
function yamlString(text) {
  return JSON.stringify(text).replace(/[\u007f-\u009f\u2028\u2029\ufeff]/g,
    c => '\\u' + c.charCodeAt(0).toString(16).padStart(4, '0'));
}

// YAML takes 1e-7 for a word.
function yamlNumber(x) {
  const text = String(x);
  return text.includes('e') && !text.includes('.') ? text.replace('e', '.0e') : text;
}

function ruleSource(rule) {
  if (!rule.stored) return 'uncalibrated: set in the report';
  if (!changed(rule)) return rule.stored.source;
  const before = rule.stored.min ?? rule.stored.max;
  return `uncalibrated: set in the report; was ${yamlNumber(before)} (${rule.stored.source})`;
}

function policyYaml(rules) {
  const name = facts.policy.name ?? 'policy';
  const touched = rules.some(changed);
  const lines = [`name: ${yamlString(touched && !name.endsWith('-tuned') ? name + '-tuned' : name)}`];
  const used = rules.filter(rule => rule.on);
  lines.push(used.length ? 'rules:' : 'rules: []');
  for (const rule of used) {
    lines.push(`- score: ${rule.key}`);
    lines.push(`  ${rule.least ? 'min' : 'max'}: ${yamlNumber(rule.threshold)}`);
    lines.push(`  source: ${yamlString(ruleSource(rule))}`);
    if (rule.stored && rule.stored.hard === false) lines.push('  hard: false');
  }
  return lines.join('\n') + '\n';
}
